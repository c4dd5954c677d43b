"""How sure: percentile intervals from the stratified bootstrap, which resamples the runs of every task on its own.

The scheme is rliable's (Agarwal et al. 2021, arXiv 2108.13264). It asks what another set of seeds on the same tasks
would have given. From few runs it promises too much: the interval of three runs holds the truth far less often than
it says, and one run has none. `Estimate.note` says so, and whoever shows an estimate shows its note.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plasticine.analysis.aggregate import Statistic, Strata, iqm

__all__ = ["FEW_RUNS", "Estimate", "as_strata", "estimate", "interval", "note", "resample"]

#: Up to so many runs of a task an interval comes with a warning.
FEW_RUNS = 3
#: Numbers in memory at once while resampling.
_CHUNK = 2_000_000


class Estimate(NamedTuple):
    """A statistic with its interval.

    Attributes:
        value: [*points], or a number where there are no points.
        low, high: Ends of the interval, shaped like `value`; NaN where there is none.
        runs: How many runs each task has.
        note: What a reader must know about the interval; empty if nothing.
    """

    value: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    runs: tuple[int, ...]
    note: str


def estimate(
    scores: Sequence[ArrayLike],
    statistic: Statistic = iqm,
    *,
    confidence: float = 0.95,
    reps: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """A statistic and its stratified-bootstrap percentile interval.

    Args:
        scores: One array [n_k, *points] per task, e.g. a score of every run, or a curve of every run. The points of a
            run are drawn together, and the statistic is taken at every point.
        statistic: Of `plasticine.analysis.aggregate`, or alike.
        confidence: Of the interval, in (0, 1).
        reps: Resamples.
        seed: Of the resampling; the same seed gives the same interval.

    Raises:
        ValueError: There is no score at all, a task without any, or one that is not finite.
    """
    strata = as_strata(scores)
    runs = tuple(len(x) for x in strata)
    value = statistic([np.moveaxis(x, 0, -1) for x in strata])
    if max(runs) == 1:
        nothing = np.full_like(value, np.nan)
        return Estimate(value, nothing, nothing, runs, note(runs))
    drawn = resample(strata, statistic, reps=reps, rng=np.random.default_rng(seed))
    low, high = interval(drawn, confidence)
    return Estimate(value, low, high, runs, note(runs))


def resample(
    strata: Strata, statistic: Statistic, *, reps: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """The statistic of `reps` resamples [reps, *points] of strata [n_k, *points]."""
    step = max(1, _CHUNK // sum(x.size for x in strata))
    parts = []
    for start in range(0, reps, step):
        count = min(step, reps - start)
        drawn = [np.moveaxis(x[rng.integers(len(x), size=(count, len(x)))], 1, -1) for x in strata]
        parts.append(statistic(drawn))
    return np.concatenate(parts)


def interval(
    drawn: NDArray[np.float64], confidence: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Ends of the percentile interval of resampled values [reps, *points]."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence={confidence} must lie between 0 and 1")
    low, high = np.percentile(drawn, [50 * (1 - confidence), 50 * (1 + confidence)], axis=0)
    return np.asarray(low), np.asarray(high)


def note(runs: Sequence[int]) -> str:
    """What to tell a reader about an interval over tasks with so many runs each; empty if nothing."""
    alone = sum(n == 1 for n in runs)
    if alone == len(runs):
        return "one seed: no interval"
    if alone:
        return f"{alone} of {len(runs)} tasks have one seed, whose spread is not in the interval"
    if min(runs) <= FEW_RUNS:
        return f"{min(runs)} seeds: the interval is too narrow to rely on"
    return ""


def as_strata(scores: Sequence[ArrayLike]) -> list[NDArray[np.float64]]:
    """Check scores and return them as float64 arrays.

    Raises:
        ValueError: See `estimate`.
    """
    strata = [np.asarray(x, np.float64) for x in scores]
    if not strata:
        raise ValueError("there is no task to aggregate over")
    for k, x in enumerate(strata):
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(f"task {k} has no run")
        if not np.isfinite(x).all():
            raise ValueError(
                f"task {k} has a score that is not finite; leave the run out, or score it as failed"
            )
    if len({x.shape[1:] for x in strata}) > 1:
        raise ValueError("tasks have curves of different lengths; put them on a common grid first")
    return strata
