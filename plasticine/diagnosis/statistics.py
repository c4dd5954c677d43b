"""Tests for trends that make few assumptions: no distribution, no independence of neighbours."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["ChangePoint", "MannKendall", "change_point", "mann_kendall", "mostly_beyond", "theil_sen"]

Floats = NDArray[np.float64]


class MannKendall(NamedTuple):
    """A test for a monotonic trend.

    Attributes:
        tau: Kendall's rank correlation with time, -1..1.
        rising, falling: One-sided p-values.
        inflation: Factor by which neighbours that resemble each other inflate the variance, >= 1.
    """

    tau: float
    rising: float
    falling: float
    inflation: float


class ChangePoint(NamedTuple):
    """Where one level ends: position of the first value of the later one, and Pettitt's two-sided p-value."""

    first: int
    p: float


def mann_kendall(values: Floats) -> MannKendall:
    """Mann-Kendall test with the correction for autocorrelation of Hamed and Rao (J. Hydrology 204, 1998).

    ``S = sum_{i<j} sign(x_j - x_i)`` has under no trend the variance
    ``(n (n-1) (2n+5) - sum_ties t (t-1) (2t+5)) / 18``, times ``1 + 2 / (n (n-1) (n-2)) *
    sum_k (n-k) (n-k-1) (n-k-2) r_k`` with the autocorrelations r_k of the ranks of the residuals, as far as they are
    significant (5 %). Residuals are those of the Theil-Sen line, as in the paper, or of one change of level where
    that leaves less than half as much: a jump would otherwise be taken for neighbours that are alike. The factor is
    not let below 1.

    Args:
        values: In order of time, finite [n >= 4].
    """
    n = values.size
    sign = np.sign(values[None, :] - values[:, None])
    s = float(np.triu(sign, 1).sum())
    _, counts = np.unique(values, return_counts=True)
    ties = float((counts * (counts - 1) * (2 * counts + 5)).sum())
    variance = (n * (n - 1) * (2 * n + 5) - ties) / 18.0
    if variance <= 0.0:
        return MannKendall(0.0, 1.0, 1.0, 1.0)
    inflation = _inflation(values)
    scale = math.sqrt(variance * inflation)
    rising = 0.5 * math.erfc((s - 1.0) / scale / math.sqrt(2.0))
    falling = 0.5 * math.erfc((-s - 1.0) / scale / math.sqrt(2.0))
    return MannKendall(2.0 * s / (n * (n - 1)), min(1.0, rising), min(1.0, falling), inflation)


def _inflation(values: Floats) -> float:
    n = values.size
    ranks = _ranks(_residuals(values))
    ranks -= ranks.mean()
    power = float((ranks**2).sum())
    if power == 0.0:
        return 1.0
    lags = np.arange(1, n - 2)
    correlation = np.correlate(ranks, ranks, "full")[n : n + lags.size] / power
    correlation[np.abs(correlation) < 1.96 / math.sqrt(n)] = 0.0
    weights = (n - lags) * (n - lags - 1.0) * (n - lags - 2.0)
    return max(1.0, 1.0 + 2.0 * float((weights * correlation).sum()) / (n * (n - 1.0) * (n - 2.0)))


def _residuals(values: Floats) -> Floats:
    """What is left of the values without a line, or without a jump where that explains much more."""
    line = values - theil_sen(values) * np.arange(values.size)
    line -= np.median(line)
    first = change_point(values).first
    jump = values.copy()
    jump[:first] -= np.median(values[:first])
    jump[first:] -= np.median(values[first:])
    return jump if np.abs(jump).sum() < 0.5 * np.abs(line).sum() else line


def _ranks(values: Floats) -> Floats:
    """Ranks from 1; equal values share their mean rank."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2.0)[inverse.ravel()].astype(np.float64)


def theil_sen(values: Floats, at: Floats | None = None) -> float:
    """Median of the slopes between all pairs of points; a third of them may be anything.

    Args:
        values: [n >= 2].
        at: Increasing positions [n]; 0, 1, 2 ... if None.
    """
    x = np.arange(values.size, dtype=np.float64) if at is None else at
    i, j = np.triu_indices(values.size, 1)
    return float(np.median((values[j] - values[i]) / (x[j] - x[i])))


def change_point(values: Floats) -> ChangePoint:
    """Pettitt's test for one change of level (Applied Statistics 28, 1979).

    ``K = max_t |sum_{i<=t<j} sign(x_j - x_i)|``, ``p = 2 exp(-6 K^2 / (n^3 + n^2))``.

    Args:
        values: In order of time, finite [n >= 2].
    """
    n = values.size
    sign = np.sign(values[None, :] - values[:, None])
    u = sign.sum(1).cumsum()[:-1]  # pairs within the first part cancel
    t = int(np.abs(u).argmax())
    return ChangePoint(t + 1, min(1.0, 2.0 * math.exp(-6.0 * float(u[t]) ** 2 / (n**3 + n**2))))


def mostly_beyond(values: Floats, limit: float, rising: bool) -> float:
    """One-sided sign test: p-value of so many values beyond `limit` if their median were not beyond it.

    Args:
        values: Finite [n].
        limit: Values equal to it count as beyond.
        rising: Beyond means above; otherwise below.
    """
    n = values.size
    k = int((values >= limit).sum() if rising else (values <= limit).sum())
    return float(sum(math.comb(n, i) for i in range(k, n + 1)) / 2**n) if n else 1.0
