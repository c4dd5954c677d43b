"""Straight lines through a score over the tasks, with how sure one can be of their slope."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Slope", "slope", "slope_over_seeds"]


class Slope(NamedTuple):
    """Slope per task with a two-sided confidence interval.

    Attributes:
        value: NaN if there are fewer than two points.
        low, high: NaN if the data say nothing about the uncertainty (two points; one seed).
        n: Points (one run) or seeds (several) it rests on.
    """

    value: float
    low: float
    high: float
    n: int


def slope(values: ArrayLike, at: ArrayLike | None = None, confidence: float = 0.95) -> Slope:
    """Ordinary least squares of one run's score on the task index.

    The interval is ``b -+ t(n - 2) * s / sqrt(sum((k - mean k)^2))`` with the residual deviation s; it assumes
    independent errors of equal size, so a score that wanders from task to task makes it too narrow. With several
    seeds use `slope_over_seeds`, which assumes nothing about the tasks.

    Args:
        values: Score of each task [n]; those that are not finite are left out.
        at: Their positions [n]; 0, 1, 2 ... if None.
        confidence: Of the interval, in (0, 1).
    """
    from scipy import stats

    y = np.asarray(values, np.float64)
    x = np.arange(y.size, dtype=np.float64) if at is None else np.asarray(at, np.float64)
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    spread = float(((x - x.mean()) ** 2).sum()) if x.size else 0.0
    if spread == 0.0:
        return Slope(math.nan, math.nan, math.nan, int(y.size))
    b = float(((x - x.mean()) * (y - y.mean())).sum()) / spread
    if y.size < 3:
        return Slope(b, math.nan, math.nan, int(y.size))
    residuals = y - y.mean() - b * (x - x.mean())
    error = math.sqrt(float((residuals**2).sum()) / (y.size - 2) / spread)
    half = float(stats.t.ppf(0.5 + confidence / 2, y.size - 2)) * error
    return Slope(b, b - half, b + half, int(y.size))


def slope_over_seeds(values: ArrayLike, confidence: float = 0.95, draws: int = 2000, seed: int = 0) -> Slope:
    """Mean of the seeds' slopes; the interval is the percentile bootstrap over seeds (whole runs are drawn).

    Args:
        values: One row a seed, one column a task [seeds, tasks]; NaN where a score is unknown.
        confidence: Of the interval, in (0, 1).
        draws: Bootstrap samples.
        seed: Of the bootstrap: the same data give the same interval.
    """
    rows: NDArray[np.float64] = np.atleast_2d(np.asarray(values, np.float64))
    slopes = np.asarray([slope(row).value for row in rows])
    slopes = slopes[np.isfinite(slopes)]
    if slopes.size < 2:
        return Slope(float(slopes[0]) if slopes.size else math.nan, math.nan, math.nan, int(slopes.size))
    rng = np.random.default_rng([seed, 7])
    means = slopes[rng.integers(0, slopes.size, (draws, slopes.size))].mean(1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Slope(float(slopes.mean()), float(low), float(high), int(slopes.size))
