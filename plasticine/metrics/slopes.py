"""How steep an activation is where its inputs are."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from plasticine.core.metric import NetProbe, SiteProbe
from plasticine.errors import UserError, nearest
from plasticine.metrics.bounds import choice, number_within
from plasticine.metrics.per_network import PerNetwork

__all__ = ["SLOPES", "Saturation", "slope"]

_LEAK = 0.01  # of PyTorch's leaky ReLU


def _relu(site: SiteProbe) -> Tensor:
    return (site.pre > 0).float()


def _leaky_relu(site: SiteProbe) -> Tensor:
    return torch.where(site.pre > 0, 1.0, _LEAK)


def _crelu(site: SiteProbe) -> Tensor:
    return (site.pre != 0).float()


def _tanh(site: SiteProbe) -> Tensor:
    return 1.0 - site.post.square()


def _sigmoid(site: SiteProbe) -> Tensor:
    return site.post * (1.0 - site.post)


def _fourier(site: SiteProbe) -> Tensor:
    return torch.maximum(site.pre.cos().abs(), site.pre.sin().abs())


def _elu(site: SiteProbe) -> Tensor:
    return site.pre.clamp(max=0).exp()


def _gelu(site: SiteProbe) -> Tensor:
    z = site.pre
    density = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    return (torch.special.ndtr(z) + z * density).abs()


def _silu(site: SiteProbe) -> Tensor:
    gate = site.pre.sigmoid()
    return (gate * (1 + site.pre * (1 - gate))).abs()


def _identity(site: SiteProbe) -> Tensor:
    return torch.ones_like(site.pre)


# |derivative| of each activation; of a unit with several columns, that of the steepest.
SLOPES: dict[str, Callable[[SiteProbe], Tensor]] = {
    "relu": _relu,
    "leaky_relu": _leaky_relu,
    "crelu": _crelu,
    "tanh": _tanh,
    "sigmoid": _sigmoid,
    "fourier": _fourier,
    "elu": _elu,
    "gelu": _gelu,
    "silu": _silu,
    "identity": _identity,
}


def slope(site: SiteProbe) -> Tensor | None:
    """Return |phi'(z)| of every entry, shaped as ``site.pre``; None if an entry is not finite.

    Raises:
        UserError: Nobody has said what the derivative of this activation is.
    """
    if site.act not in SLOPES:
        raise UserError(
            f"the saturation metric does not know the activation {site.act!r} of layer {site.name!r}",
            f"drop it with ~metrics.set.saturation, or use another activation: {nearest(site.act, SLOPES)}",
        )
    if not bool(torch.isfinite(site.pre).all() & torch.isfinite(site.post).all()):
        return None
    return SLOPES[site.act](site).detach()


class Saturation(PerNetwork):
    r"""How much of a change of their inputs the hidden units pass on.

    .. math:: | \varphi'(z) |

    over samples, units and positions of the hidden layers, with z the pre-activations and :math:`\varphi` the
    activation: 1 where z > 0 and else 0 for a ReLU (0.01 for a leaky one), :math:`1 - h^2` for tanh,
    :math:`h (1 - h)` for sigmoid, and so on. A unit with several columns has the slope of the steepest: 1 for a
    CReLU unit unless z = 0, :math:`\max(|\cos z|, |\sin z|) \ge 0.707` for a Fourier unit.

    * ``of="slope"``: the mean slope. Falling = loss of plasticity: the gradient of every layer is multiplied by it.
    * ``of="flat"``: the share of entries with a slope below `margin`. Rising = loss of plasticity.

    Each layer counts alike. Range: [0, 1], for gelu and silu up to 1.13 and 1.10; a sigmoid's slope is at most 0.25.
    NaN if an entry is not finite. A network without hidden layers has no value.

    Source: Lyle et al. 2024 (arXiv 2402.18762) on saturated units as a mechanism of plasticity loss.

    Args:
        of: ``slope`` or ``flat``.
        margin: Slope below which an entry counts as flat, in [0, 0.5).

    Raises:
        UserError: `of` is another word or `margin` outside [0, 0.5); at the first measurement, if the derivative of
        the activation is not known.
    """

    def __init__(self, *, of: str, margin: float) -> None:
        self.of = choice("of of the saturation metric", of, ("slope", "flat"))
        self.margin = number_within("margin of the saturation metric", margin, low=0.0, high=0.5)

    def measure(self, net: NetProbe) -> float | None:
        """Return the mean over the hidden layers of one network."""
        layers = list(self.measure_layers(net).values())
        return math.fsum(layers) / len(layers) if layers else None

    def measure_layers(self, net: NetProbe) -> dict[str, float]:
        """Return the number of every hidden layer."""
        return {site.name: self._of(site) for site in net.sites}

    def _of(self, site: SiteProbe) -> float:
        steepness = slope(site)
        if steepness is None:
            return math.nan
        if self.of == "slope":
            return float(steepness.mean(dtype=torch.float64))
        return int((steepness < self.margin).count_nonzero()) / steepness.numel()
