"""A score beside that of a fresh agent: below 1 means that less was learnt than by starting anew."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from plasticine.analysis.normalise import Bounds

__all__ = ["Form", "RelativeScores", "forward_transfer", "relative_scores"]

#: ``ratio``: (x - low) / (fresh - low). ``difference``: 1 + (x - fresh) / (high - low). ``unknown``: neither works.
Form = Literal["ratio", "difference", "unknown"]

#: A fresh agent must get at least this far from low to high for a ratio to mean something.
_LEAST_SHARE = 0.1


class RelativeScores(NamedTuple):
    """One number a task (NaN where something is missing), and how all of them were computed."""

    values: tuple[float, ...]
    form: Form


def relative_scores(
    scores: Sequence[float], fresh: Sequence[float], bounds: Sequence[Bounds | None]
) -> RelativeScores:
    """Compare the scores of tasks with those of a fresh agent at the same budget; 1 means equal, below 1 worse.

    All tasks of a stream are compared in the same form, so that a trend over them is none of the form:

    - ``ratio``, ``(x - low) / (fresh - low)``, where it is safe: on every task the fresh agent gets at least a tenth
      of the way from `low` to `high`. Without bounds `low` is 0, and every fresh score must be positive.
    - ``difference``, ``1 + (x - fresh) / (high - low)``, if a fresh score is too close to `low` to divide by. Needs
      bounds on every task.
    - ``unknown`` (all NaN) if neither is possible: returns that are negative or zero on a level without bounds.

    Args:
        scores: Of the run, one a task (time-averaged returns).
        fresh: Of the fresh agent on the same tasks; NaN where it has not been run.
        bounds: Of the tasks.
    """
    known = [f for f in fresh if math.isfinite(f)]
    bounded = [(f, b) for f, b in zip(fresh, bounds, strict=True) if math.isfinite(f) and b is not None]
    form: Form = "unknown"
    if known and len(bounded) == len(known):
        far = all(f - b.low >= _LEAST_SHARE * b.span for f, b in bounded)
        form = "ratio" if far else "difference"
    elif known and not bounded and min(known) > 0:
        form = "ratio"
    return RelativeScores(
        tuple(_relative(x, f, b, form) for x, f, b in zip(scores, fresh, bounds, strict=True)), form
    )


def _relative(score: float, fresh: float, bounds: Bounds | None, form: Form) -> float:
    if form == "unknown" or not (math.isfinite(score) and math.isfinite(fresh)):
        return math.nan
    if form == "ratio":
        low = bounds.low if bounds else 0.0
        return (score - low) / (fresh - low)
    assert bounds is not None
    return 1.0 + (score - fresh) / bounds.span


def forward_transfer(score: float, fresh: float, bounds: Bounds | None) -> float:
    """``(x - fresh) / (high - fresh)``: the share of what a fresh agent leaves to gain (arXiv 2105.10919, eq. 1).

    Above 0: earlier tasks helped; below 0: they did harm. NaN without bounds, or if the fresh agent reaches `high`.
    """
    if bounds is None or not (math.isfinite(score) and math.isfinite(fresh)) or fresh >= bounds.high:
        return math.nan
    return (score - fresh) / (bounds.high - fresh)
