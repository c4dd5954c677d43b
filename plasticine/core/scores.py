"""Summary numbers of a run from its raw episodes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from plasticine.core.tracker import Episode

__all__ = ["final_evaluations", "final_return", "mean_return", "summarise", "summarise_evaluations"]


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


def final_evaluations(task: int, values: Mapping[str, float]) -> list[tuple[int, str, float]]:
    """(task, variant, mean return) of each ``eval/<variant>/episodic_return`` among `values`."""
    names = [key.split("/") for key in values if key.endswith("/episodic_return")]
    return [(task, name, values[f"{group}/{name}/{last}"]) for group, name, last in names]


def summarise_evaluations(ends: Sequence[tuple[int, str, float]]) -> dict[str, float]:
    """For each variant ``eval/<variant>/final_return`` of the last task that has it, and ``mean_task_final``.

    Args:
        ends: (task, variant, mean return) of the evaluations at the tasks' ends, in order.
    """
    returns: dict[str, list[float]] = {}
    for _, variant, value in ends:
        returns.setdefault(variant, []).append(value)
    summary: dict[str, float] = {}
    for variant, found in returns.items():
        summary[f"eval/{variant}/final_return"] = found[-1]
        summary[f"eval/{variant}/mean_task_final"] = sum(found) / len(found)
    return summary
