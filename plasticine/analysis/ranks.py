"""Which place a method takes among all: 1 is the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plasticine.analysis.bootstrap import Estimate, as_strata, interval, note
from plasticine.analysis.improvement import shares, wins

__all__ = ["mean_ranks", "rank_distribution"]


def mean_ranks(
    scores: Mapping[str, Sequence[ArrayLike]],
    *,
    confidence: float = 0.95,
    reps: int = 2_000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Expected place of a run of each method among one run of every method on the same task, averaged over tasks.

    Equal scores share their places. The expectation is exact: one plus the chances that each of the others is better.

    Args:
        scores: By method, the scores [n_k] of each task; the same tasks in the same order.
        confidence, reps, seed: See `plasticine.analysis.bootstrap.estimate`; the runs of every method are drawn
            independently.

    Returns:
        By method, an estimate in [1, number of methods].

    Raises:
        ValueError: Methods have different tasks, or a task without a finite score.
    """
    strata = _same_tasks(scores)
    names, tasks = list(strata), range(len(next(iter(strata.values()))))
    rng = np.random.default_rng(seed)
    value = dict.fromkeys(names, 1.0)
    drawn = {name: np.ones(reps) for name in names}
    for k in tasks:
        weights = {name: shares(len(strata[name][k]), reps, rng) for name in names}
        for i, a in enumerate(names):
            for b in names[i + 1 :]:
                table = wins(strata[a][k], strata[b][k])
                chance = np.einsum("rn,nm,rm->r", weights[a], table, weights[b], optimize=True)
                value[a] += (1.0 - table.mean()) / len(tasks)
                value[b] += table.mean() / len(tasks)
                drawn[a] += (1.0 - chance) / len(tasks)
                drawn[b] += chance / len(tasks)
    found = {}
    for name in names:
        runs = tuple(min(len(s[k]) for s in strata.values()) for k in tasks)
        low, high = interval(drawn[name], confidence)
        if max(runs) == 1:
            low = high = np.asarray(np.nan)
        found[name] = Estimate(np.asarray(value[name]), low, high, runs, note(runs))
    return found


def rank_distribution(
    scores: Mapping[str, Sequence[ArrayLike]], *, draws: int = 20_000, seed: int = 0
) -> NDArray[np.float64]:
    """Chance of every place for every method, [methods, places], when one run of each is drawn on a task.

    Averaged over tasks; equal scores are put in random order. Rows and columns add up to 1.

    Args:
        scores: See `mean_ranks`; rows are in its order.
        draws: Per task.
        seed: Of the draws.

    Raises:
        ValueError: See `mean_ranks`.
    """
    strata = list(_same_tasks(scores).values())
    rng = np.random.default_rng(seed)
    counts = np.zeros((len(strata), len(strata)))
    for k in range(len(strata[0])):
        drawn = np.stack([s[k][rng.integers(len(s[k]), size=draws)] for s in strata])
        order = np.lexsort((rng.random(drawn.shape), -drawn), axis=0)  # [place, draw] -> method
        for place, methods in enumerate(order):
            counts[:, place] += np.bincount(methods, minlength=len(strata))
    return counts / (draws * len(strata[0]))


def _same_tasks(scores: Mapping[str, Sequence[ArrayLike]]) -> dict[str, list[NDArray[np.float64]]]:
    strata = {name: as_strata(x) for name, x in scores.items()}
    if len({len(s) for s in strata.values()}) != 1:
        raise ValueError("ranks need at least one method, and the same tasks for all of them")
    return strata
