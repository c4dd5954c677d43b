"""How many hidden units still take part: dormant units and active units."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from plasticine.core.metric import NetProbe, SiteProbe
from plasticine.errors import UserError, nearest
from plasticine.metrics.bounds import choice, number_within
from plasticine.metrics.per_network import PerNetwork
from plasticine.metrics.slopes import SLOPES
from plasticine.metrics.unit_share import UnitShare

__all__ = ["ActiveUnits", "DormantUnits", "active_fraction", "dormant_units"]

# Added to a layer's mean activity, so that a silent layer scores 0 (dormant) and not 0/0.
SCORE_EPSILON = 1e-9


def dormant_units(activity: Tensor, tau: float) -> int | None:
    """Count the units with an activity of at most `tau` times their layer's mean; None if one is not finite.

    Args:
        activity: Mean absolute output per unit [units].
        tau: Threshold on the normalised score.
    """
    if not bool(torch.isfinite(activity).all()):
        return None
    score = activity / (activity.mean() + SCORE_EPSILON)
    return int((score <= tau).sum())


class DormantUnits(UnitShare):
    r"""Ratio of dormant units (RDU) of a network on the probe batch.

    With :math:`a_i` the mean absolute output of unit i of a layer with d units (`SiteProbe.activity`),

    .. math:: s_i = \frac{a_i}{\frac{1}{d} \sum_k a_k + 10^{-9}}, \qquad i \text{ dormant} \iff s_i \le \tau

    * ``aggregate="total"``: dormant units of all hidden layers / hidden units (wide layers count more).
    * ``aggregate="mean"``: the ratio of each hidden layer, averaged over the layers.

    Units of width-changing activations are scored once per unit, not per column. Since a Fourier unit's
    activity lies in [1, sqrt 2], its score is at least 0.70 and it is not dormant at any sensible
    threshold.

    Range: [0, 1]; rising = loss of plasticity. A layer that outputs only zeros counts as 1. NaN if an
    output is not finite. A network without hidden layers has no value.

    Source: Sokar et al. 2023 (arXiv 2302.12902), definition 3.1 and eq. 1, aggregate "total"; the code of
    Yuan et al. 2025 (Plasticine, arXiv 2504.17490) averages over layers, aggregate "mean".

    Args:
        tau: Threshold on the score, in [0, 1).
        aggregate: ``total`` or ``mean``.

    Raises:
        UserError: `tau` is outside [0, 1) or `aggregate` is another word.
    """

    def __init__(self, *, tau: float, aggregate: str) -> None:
        self.tau = number_within("tau of the dormant units metric", tau, low=0.0, high=1.0)
        self.aggregate = choice("aggregate of the dormant units metric", aggregate, ("total", "mean"))

    def count(self, site: SiteProbe) -> int | None:
        """See `dormant_units`."""
        return dormant_units(site.activity, self.tau)

    def measure(self, net: NetProbe) -> float | None:
        """Return the ratio of dormant units over the hidden layers of one network."""
        if self.aggregate == "total" or not net.sites:
            return super().measure(net)
        ratios = self.measure_layers(net).values()
        return math.fsum(ratios) / len(ratios)


def _nonzero_output(site: SiteProbe, margin: float) -> Tensor:
    return site.post != 0


def _nonzero_input(site: SiteProbe, margin: float) -> Tensor:
    return site.pre != 0


def _unsaturated_tanh(site: SiteProbe, margin: float) -> Tensor:
    return site.post.abs() <= 1 - margin


def _unsaturated_sigmoid(site: SiteProbe, margin: float) -> Tensor:
    return (site.post >= margin) & (site.post <= 1 - margin)


def _steep_sine(site: SiteProbe, margin: float) -> Tensor:
    return site.pre.cos().abs() >= margin


def _steep(site: SiteProbe, margin: float) -> Tensor:
    return SLOPES[site.act](site) >= margin


def _always(site: SiteProbe, margin: float) -> Tensor:
    return torch.ones_like(site.pre, dtype=torch.bool)


# What "active" means for each activation; a new activation needs a line here, there is no default meaning.
ACTIVE: dict[str, Callable[[SiteProbe, float], Tensor]] = {
    "relu": _nonzero_output,
    "leaky_relu": _nonzero_output,
    "crelu": _nonzero_input,
    "tanh": _unsaturated_tanh,
    "sigmoid": _unsaturated_sigmoid,
    "fourier": _steep_sine,
    "elu": _steep,
    "gelu": _steep,
    "silu": _steep,
    "identity": _always,
}


def active_fraction(site: SiteProbe, margin: float) -> float:
    """Fraction of a layer's (sample, unit[, position]) entries that are active; NaN if one is not finite.

    Args:
        site: `pre` is [n, units] or [n, units, H, W], `post` has `expansion` times as many columns.
        margin: Distance to the flat part of the activation below which an entry is saturated.

    Raises:
        UserError: Nobody has said what "active" means for this activation.
    """
    if site.act not in ACTIVE:
        raise UserError(
            f"the active units metric does not know the activation {site.act!r} of layer {site.name!r}",
            f"drop it with ~metrics.set.fau, or use another activation: {nearest(site.act, ACTIVE)}",
        )
    if not bool(torch.isfinite(site.pre).all() & torch.isfinite(site.post).all()):
        return math.nan
    active = ACTIVE[site.act](site, margin)
    return int(active.count_nonzero()) / active.numel() if active.numel() else math.nan


class ActiveUnits(PerNetwork):
    r"""Fraction of active units (FAU) in the last hidden layer of a network, over the probe batch.

    The mean over samples, units and positions of an indicator that depends on the activation
    (z pre-activation, h output, m the margin):

    =====================  ==================================  ==========================================
    activation             entry is active if                  remarks
    =====================  ==================================  ==========================================
    relu, leaky_relu       :math:`h \ne 0`                     about 0.5 in a healthy ReLU layer; a leaky
                                                               ReLU is always near 1
    crelu                  :math:`z \ne 0`, once per unit      one half is off at any time, the unit is not
    tanh                   :math:`|h| \le 1 - m`
    sigmoid                :math:`m \le h \le 1 - m`
    fourier                :math:`|\cos z| \ge m`              derivative of the sine half; once per unit
    elu, gelu, silu        :math:`|\varphi'(z)| \ge m`         derivative of the activation
    identity               always
    =====================  ==================================  ==========================================

    Range: [0, 1]; falling = loss of plasticity. For ReLU a rise towards 1 is suspicious as well: the units
    have become linear. NaN if an entry is not finite. A network without hidden layers has no value.

    Source: Yuan et al. 2025 (Plasticine, arXiv 2504.17490), whose code counts the entries of the feature
    layer; the rows for CReLU and Fourier are per unit here, because a count over columns is bound to 1/2
    and to 1 there whatever the units do.

    Args:
        margin: m of the table, in [0, 0.5).

    Raises:
        UserError: `margin` is outside [0, 0.5); at the first measurement, if the activation is not in the
        table.
    """

    def __init__(self, *, margin: float) -> None:
        self.margin = number_within("margin of the active units metric", margin, low=0.0, high=0.5)

    def measure(self, net: NetProbe) -> float | None:
        """Return the fraction of active entries in the last hidden layer of one network."""
        return active_fraction(net.sites[-1], self.margin) if net.sites else None
