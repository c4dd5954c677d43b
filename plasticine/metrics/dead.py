"""Hidden units that say the same whatever the observation, and units that have become linear."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from plasticine.core.metric import SiteProbe
from plasticine.metrics.bounds import number_within
from plasticine.metrics.unit_share import UnitShare

__all__ = ["DeadUnits", "FrozenUnits", "dead_units", "frozen_units"]


def dead_units(site: SiteProbe, spread: float) -> int | None:
    """Count the units that are dead on the probe batch; None if an output is not finite.

    Args:
        site: Any hidden layer. That the output of a ReLU is always 0 is read from its inputs.
        spread: Standard deviation below which the output of a unit counts as constant (not used for ReLU).
    """
    if site.act == "relu":
        _, high = site.extremes
        return int((high <= 0).sum()) if bool(torch.isfinite(high).all()) else None
    others = [axis for axis in range(site.post.ndim) if axis != 1]
    deviation = site.post.detach().float().std(others, correction=0)
    if not bool(torch.isfinite(deviation).all()):
        return None
    return int((deviation < spread).reshape(site.expansion, -1).all(0).sum())


def _on(low: Tensor, high: Tensor) -> Tensor:
    return low > 0


def _one_sided(low: Tensor, high: Tensor) -> Tensor:
    return (low > 0) | (high < 0)


# Activations with a kink at 0: when a unit that sees only such inputs is linear.
_LINEAR: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "relu": _on,
    "elu": _on,
    "leaky_relu": _one_sided,
    "crelu": _one_sided,
}


def frozen_units(site: SiteProbe) -> int | None:
    """Count the units that are linear on the probe batch; None if an input is not finite.

    Args:
        site: `pre` is [n, units] or [n, units, H, W], its activation one with a kink at 0.
    """
    low, high = site.extremes
    if not bool(torch.isfinite(low).all() & torch.isfinite(high).all()):
        return None
    return int(_LINEAR[site.act](low, high).sum())


class DeadUnits(UnitShare):
    r"""Share of hidden units whose output does not depend on the observation, over the probe batch.

    .. math:: \frac{1}{d} \, \# \{ i : \max_j h_{ji} = 0 \} \ \text{(ReLU)}, \qquad
        \frac{1}{d} \, \# \{ i : \operatorname{std}_j h_{ji} < \epsilon \} \ \text{(all others)}

    over the d units of all hidden layers together, j running over samples and, for images, positions. A unit with
    several columns (CReLU, Fourier) is dead if all of them are.

    Unlike `plasticine.metrics.units.DormantUnits` it compares a unit with nothing else: a dead ReLU has no gradient.
    It depends on the number n of observations: the fewer, the more units seem dead.

    Range: [0, 1]; rising = loss of plasticity. NaN if an output is not finite. A network without hidden layers has no
    value.

    Source: Lyle et al. 2023 (arXiv 2303.01486) and Dohare et al. 2024 (Nature 632), dead units; the criterion for
    smooth activations as in Lewandowski et al. 2024 (arXiv 2406.06811).

    Args:
        spread: :math:`\epsilon`, above 0.

    Raises:
        UserError: `spread` is not in [0, 1).
    """

    def __init__(self, *, spread: float) -> None:
        self.spread = number_within("spread of the dead units metric", spread, low=0.0, high=1.0)

    def count(self, site: SiteProbe) -> int | None:
        """See `dead_units`."""
        return dead_units(site, self.spread)


class FrozenUnits(UnitShare):
    r"""Share of hidden units that have become linear: the sign of their input never changes on the probe batch.

    .. math:: \frac{1}{d} \, \# \{ i : \min_j z_{ji} > 0 \}, \qquad \text{leaky ReLU, CReLU: or } \max_j z_{ji} < 0

    over the d units of all hidden layers whose activation has a kink at 0 (relu, leaky_relu, elu, crelu), j running
    over samples and positions. A ReLU that is always off is dead, not linear, and is counted by `DeadUnits`.

    Range: [0, 1]; rising = loss of plasticity: the layer can express less. NaN if an input is not finite. A network
    without such a layer has no value.

    Source: Lyle et al. 2024 (arXiv 2402.18762), linearised units.
    """

    def applies(self, site: SiteProbe) -> bool:
        """Layers with a kink at 0."""
        return site.act in _LINEAR

    def count(self, site: SiteProbe) -> int | None:
        """See `frozen_units`."""
        return frozen_units(site)
