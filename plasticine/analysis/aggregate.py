"""One number for many scores: interquartile mean, mean, median, optimality gap.

Scores come in *strata*: one array per task (or environment), its last axis the runs. Leading axes are batches, so
that thousands of resamples are one call. Every task counts alike, also where tasks have different numbers of runs.
With equal numbers the results are those of rliable (Agarwal et al. 2021, arXiv 2108.13264).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Statistic", "Strata", "iqm", "mean", "median", "optimality_gap"]

#: One array of scores per task.
Strata = Sequence[NDArray[np.float64]]
#: From strata [..., n_k] to [...].
Statistic = Callable[[Strata], NDArray[np.float64]]


def iqm(strata: Strata) -> NDArray[np.float64]:
    """Interquartile mean: the mean of what is left when a quarter of all scores is cut off at both ends.

    N scores lose ``floor(N / 4)`` at each end. Where tasks have different numbers of runs n_k, each score counts
    ``lcm(n) / n_k`` times.

    Args:
        strata: Scores [..., n_k] of each task.

    Returns:
        [...], between the smallest and the largest score.
    """
    sizes = [x.shape[-1] for x in strata]
    scores = np.concatenate(strata, axis=-1)
    if len(set(sizes)) == 1:
        scores = np.sort(scores, axis=-1)
        cut = scores.shape[-1] // 4
        return np.asarray(scores[..., cut : scores.shape[-1] - cut].mean(axis=-1))
    common = math.lcm(*sizes)
    counts = np.repeat([common // n for n in sizes], sizes)
    order = np.argsort(scores, axis=-1)
    scores, counts = np.take_along_axis(scores, order, axis=-1), counts[order]
    last = counts.cumsum(axis=-1)
    total = common * len(sizes)
    cut = total // 4
    kept = np.clip(last, cut, total - cut) - np.clip(last - counts, cut, total - cut)
    return np.asarray((scores * kept).sum(axis=-1) / (total - 2 * cut))


def mean(strata: Strata) -> NDArray[np.float64]:
    """Mean over tasks of the mean over runs: strata [..., n_k] to [...]."""
    return np.asarray(_means(strata).mean(axis=0))


def median(strata: Strata) -> NDArray[np.float64]:
    """Median over tasks of the mean over runs: strata [..., n_k] to [...]."""
    return np.asarray(np.median(_means(strata), axis=0))


def optimality_gap(strata: Strata, target: float = 1.0) -> NDArray[np.float64]:
    """How far scores stay below `target` on average, those above it counting as `target`: 0 is best.

    Args:
        strata: Scores [..., n_k] of each task.
        target: Score that is good enough, in normalised units.
    """
    return np.asarray(target - _means([np.minimum(x, target) for x in strata]).mean(axis=0))


def _means(strata: Strata) -> NDArray[np.float64]:
    return np.stack([x.mean(axis=-1) for x in strata])
