"""The episodes of one task, and what is read off them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.record import RunRecord, TaskSpan

__all__ = ["Reached", "TaskCurve", "task_curve"]

Floats = NDArray[np.float64]


class Reached(NamedTuple):
    """Env steps into the task until a return was reached; `censored`: not within the task's `steps`."""

    steps: float
    censored: bool


@dataclass(frozen=True)
class TaskCurve:
    """The episodes that ended in a task, in order.

    A return that is not finite makes every number that it enters NaN: nothing is left out silently.

    Attributes:
        length: Env steps of the task, summed over parallel environments.
        ends: Env steps into the task at which episodes ended, 0 < ends <= length, non-decreasing [m].
        returns: Raw returns [m].
        weights: Lengths of the episodes in env steps, > 0 [m].
    """

    length: int
    ends: Floats
    returns: Floats
    weights: Floats

    def final(self, fraction: float = 0.1) -> float:
        """Mean return of the episodes that ended in the last `fraction` of the steps, each counted once.

        If none ended there, the last one counts; NaN if none ended at all. The same as ``summary/final_return``.
        """
        if not self.returns.size:
            return math.nan
        late = self.ends > self.length - fraction * self.length
        return float(self.returns[late].mean() if late.any() else self.returns[-1])

    def first(self, fraction: float = 0.05) -> float:
        """Mean return of the episodes that ended in the first `fraction` of the steps.

        If none ended there, the first one counts; NaN if none ended at all.
        """
        if not self.returns.size:
            return math.nan
        early = self.ends <= fraction * self.length
        return float(self.returns[early].mean() if early.any() else self.returns[0])

    def auc(self) -> float:
        """Mean over time of the return: every step counts with the return of the episode it belongs to.

        ``sum(return * length) / sum(length)``, which is ``1/T * integral of R(t) dt`` for a return that is constant
        within an episode. A plain mean over episodes would count a long episode as little as a short one. NaN if no
        episode ended.
        """
        total = float(self.weights.sum())
        return float((self.returns * self.weights).sum()) / total if total else math.nan

    def smooth(self, at: Floats, window: float) -> Floats:
        """Length-weighted mean return of the episodes that ended in ``(at - window, at]`` [len(at)].

        NaN where none did, or one of them has no finite return.

        Args:
            at: Env steps into the task.
            window: In env steps, > 0.
        """
        finite = np.isfinite(self.returns)
        products = np.where(finite, self.returns, 0.0) * self.weights
        weighted, weights, bad = (
            np.concatenate(([0.0], np.cumsum(x))) for x in (products, self.weights, ~finite)
        )
        high = np.searchsorted(self.ends, at, side="right")
        low = np.searchsorted(self.ends, at - window, side="right")
        known = (high > low) & (bad[high] == bad[low])
        total = np.where(known, weights[high] - weights[low], 1.0)
        return np.where(known, (weighted[high] - weighted[low]) / total, np.nan)

    def steps_to(self, target: float, window: float = 0.05) -> Reached:
        """When the smoothed return first reaches `target`.

        The smoothed return is looked at where episodes end, from the first full window on, so that one lucky episode
        at the start does not count.

        Args:
            target: Return to reach; NaN gives NaN steps.
            window: Of the smoothing, as a fraction of the task.

        Returns:
            ``(length, True)`` if it is not reached: at least that long (right-censored).
        """
        if not math.isfinite(target):
            return Reached(math.nan, False)
        width = window * self.length
        at = self.ends[self.ends >= width]
        reached = np.flatnonzero(self.smooth(at, width) >= target)
        return Reached(float(at[reached[0]]), False) if reached.size else Reached(float(self.length), True)


def task_curve(record: RunRecord, span: TaskSpan) -> TaskCurve:
    """The episodes of one task of a run."""
    rows = record.episodes[record.episodes[:, 1] == span.index]
    return TaskCurve(span.end - span.start, rows[:, 0] - span.start, rows[:, 2].copy(), rows[:, 3].copy())
