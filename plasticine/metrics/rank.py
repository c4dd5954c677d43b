"""How many directions the features of a network span.

All ranks read singular values that the probe computes once per network, and once per hidden layer for the table
of layers. They do not change when the features are scaled, their rows permuted or their columns rotated. They are
bounded by the smaller of the number of probe observations n and the number of features d; to judge d features take
n of at least d, better 4 d.
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from plasticine.core.metric import NetProbe
from plasticine.metrics.bounds import number_within
from plasticine.metrics.per_network import PerNetwork

__all__ = [
    "ApproxRank",
    "EffectiveRank",
    "SRank",
    "StableRank",
    "approx_rank",
    "effective_rank",
    "srank",
    "stable_rank",
]

# Rounding in the cumulative sum must not add a direction when the share lands exactly on 1 - delta.
TIE_TOLERANCE = 1e-7


def _degenerate(singular_values: Tensor) -> float | None:
    """Return the value for features that are broken (NaN) or all zero (0), None for all others."""
    if not bool(torch.isfinite(singular_values).all()):
        return math.nan
    if singular_values.numel() == 0 or float(singular_values[0]) == 0.0:
        return 0.0
    return None


def srank(singular_values: Tensor, delta: float) -> float:
    """Return the number of leading singular values that hold a share of 1 - `delta` of their sum.

    Args:
        singular_values: Descending, float64 [r].
        delta: Share that may be missing, in [0, 1).
    """
    special = _degenerate(singular_values)
    if special is not None:
        return special
    reached = singular_values.cumsum(dim=0)
    enough = (1 - delta) * (1 - TIE_TOLERANCE) * reached[-1]
    return float((reached < enough).sum()) + 1.0


def approx_rank(singular_values: Tensor, delta: float) -> float:
    """Return the number of leading singular values that hold a share of 1 - `delta` of the sum of their squares.

    Args:
        singular_values: Descending, float64 [r].
        delta: Share that may be missing, in [0, 1).
    """
    special = _degenerate(singular_values)
    if special is not None:
        return special
    return srank((singular_values / singular_values[0]).square(), delta)


def stable_rank(singular_values: Tensor) -> float:
    """Return the squared Frobenius norm divided by the squared spectral norm.

    Args:
        singular_values: Descending, float64 [r].
    """
    special = _degenerate(singular_values)
    if special is not None:
        return special
    # Divided before it is squared: squares of tiny features would underflow.
    return float((singular_values / singular_values[0]).square().sum())


def effective_rank(singular_values: Tensor) -> float:
    """Return the exponential of the entropy (nats) of the singular values normalised to sum to 1.

    Args:
        singular_values: Descending, float64 [r].
    """
    special = _degenerate(singular_values)
    if special is not None:
        return special
    share = singular_values / singular_values.sum()
    return math.exp(float(torch.special.entr(share).sum()))


class _Rank(PerNetwork):
    """A number that follows from singular values: of the features, and layer by layer of what each layer gives on.

    For a convolution the columns are its channels and the rows all positions of all observations.
    """

    @abstractmethod
    def of(self, singular_values: Tensor) -> float:
        """Return the number for singular values in descending order, float64 [r]."""

    def measure(self, net: NetProbe) -> float:
        """Return the number for one network's features."""
        return self.of(net.singular_values)

    def measure_layers(self, net: NetProbe) -> dict[str, float]:
        """Return the number for every hidden layer."""
        return {site.name: self.of(site.singular_values) for site in net.sites}


class SRank(_Rank):
    r"""srank of the features: singular directions needed for 99 % (at delta 0.01) of the nuclear norm.

    .. math:: \min \Big\{ k : \sum_{i \le k} \sigma_i \ge (1 - \delta) \sum_i \sigma_i \Big\}

    with :math:`\sigma_1 \ge \sigma_2 \ge \dots` the singular values of the features [n, d].

    Range: whole numbers 1 ... min(n, d), 0 for all-zero features; falling = loss of plasticity. NaN if a
    feature is not finite.

    Source: Kumar et al. 2021 (arXiv 2010.14498), srank_delta in section 3. The codes of Yuan et al. 2025
    (Plasticine, arXiv 2504.17490) and of Dohare et al. 2024 call this quantity "stable rank"; what is usually
    meant by that name is `StableRank`.

    Args:
        delta: Share of the sum that may be missing, in [0, 1).

    Raises:
        UserError: `delta` is outside [0, 1).
    """

    def __init__(self, *, delta: float) -> None:
        self.delta = number_within("delta of the srank metric", delta, low=0.0, high=1.0)

    def of(self, singular_values: Tensor) -> float:
        """See `srank`."""
        return srank(singular_values, self.delta)


class ApproxRank(_Rank):
    r"""Approximate rank of the features: principal directions needed for 99 % (at delta 0.01) of their energy.

    .. math:: \min \Big\{ k : \sum_{i \le k} \sigma_i^2 \ge (1 - \delta) \sum_i \sigma_i^2 \Big\}

    with :math:`\sigma_1 \ge \sigma_2 \ge \dots` the singular values of the features [n, d]. The squares make it at
    most as large as `SRank`, and blind to weak directions.

    Range: whole numbers 1 ... min(n, d), 0 for all-zero features; falling = loss of plasticity. NaN if a
    feature is not finite.

    Source: Yang et al. 2020 (arXiv 1909.12255), approximate rank; used by Moalla et al. 2024 (arXiv 2405.00662).

    Args:
        delta: Share of the energy that may be missing, in [0, 1).

    Raises:
        UserError: `delta` is outside [0, 1).
    """

    def __init__(self, *, delta: float) -> None:
        self.delta = number_within("delta of the approx_rank metric", delta, low=0.0, high=1.0)

    def of(self, singular_values: Tensor) -> float:
        """See `approx_rank`."""
        return approx_rank(singular_values, self.delta)


class StableRank(_Rank):
    r"""Stable rank of the features, the robust cousin of the algebraic rank.

    .. math:: \frac{\|\Phi\|_F^2}{\|\Phi\|_2^2} = \frac{\sum_i \sigma_i^2}{\sigma_1^2}

    with :math:`\sigma_i` the singular values of the features :math:`\Phi` [n, d].

    Range: [1, min(n, d)], 0 for all-zero features; falling = loss of plasticity. Features with a large common
    mean (ReLU) have a dominant :math:`\sigma_1` and therefore a small value. NaN if a feature is not finite.

    Source: Rudelson & Vershynin 2007 (Sampling from large matrices), "numerical rank". Not what the code
    of Yuan et al. 2025 (Plasticine, arXiv 2504.17490) calls stable rank; see `SRank`.
    """

    def of(self, singular_values: Tensor) -> float:
        """See `stable_rank`."""
        return stable_rank(singular_values)


class EffectiveRank(_Rank):
    r"""Effective rank of the features: exponential of the entropy of their normalised singular values.

    .. math:: \exp \Big( - \sum_i p_i \ln p_i \Big), \qquad p_i = \sigma_i / \textstyle\sum_k \sigma_k,
        \quad 0 \ln 0 = 0

    with :math:`\sigma_i` the singular values of the features [n, d].

    Range: [1, min(n, d)], 0 for all-zero features; falling = loss of plasticity. NaN if a feature is not
    finite.

    Source: Roy & Vetterli 2007 (The effective rank: a measure of effective dimensionality), definition of
    erank; used by Yuan et al. 2025 (Plasticine, arXiv 2504.17490).
    """

    def of(self, singular_values: Tensor) -> float:
        """See `effective_rank`."""
        return effective_rank(singular_values)
