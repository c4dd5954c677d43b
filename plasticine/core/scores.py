"""Summary numbers of a run from its raw episodes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plasticine.core.tracker import Episode

__all__ = ["final_return", "mean_return", "summarise"]


def mean_return(episodes: Sequence[Episode]) -> float:
    """Mean raw return of the given episodes, weighted by length (an agent that survives is not under-counted).

    NaN if there are none.
    """
    weight = sum(e.length for e in episodes)
    return sum(e.episodic_return * e.length for e in episodes) / weight if weight else math.nan


def final_return(episodes: Sequence[Episode], start: int, end: int, fraction: float = 0.1) -> float:
    """Mean raw return of the episodes that ended in the last `fraction` of the steps from `start` to `end`.

    If none ended there, the last one counts. NaN if there are none at all.
    """
    if not episodes:
        return math.nan
    late = [e for e in episodes if e.env_steps > end - fraction * (end - start)] or [episodes[-1]]
    return sum(e.episodic_return for e in late) / len(late)


def summarise(episodes: Sequence[Episode], bounds: Sequence[tuple[int, int]]) -> dict[str, float]:
    """``final_return`` (of the last task), ``mean_task_final`` and ``mean_return`` over the tasks played.

    Args:
        episodes: Every episode of the run, in order.
        bounds: First and last env step of each task played.
    """
    per_task = [[e for e in episodes if e.task == i] for i in range(len(bounds))]
    finals = [final_return(p, *b) for p, b in zip(per_task, bounds, strict=True)]
    known = [f for f in finals if math.isfinite(f)]
    return {
        "final_return": finals[-1] if finals else math.nan,
        "mean_task_final": sum(known) / len(known) if known else math.nan,
        "mean_return": mean_return(episodes),
    }
