"""Who won, by how much and how sure: the statistics of a study, from the scores of its runs."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.stats import (
    Curve,
    Estimate,
    estimate,
    mean_curve,
    mean_ranks,
    performance_profile,
    probability_of_improvement,
    rank_distribution,
    score_thresholds,
)
from plasticine.errors import UserError, nearest
from plasticine.report.layout import Column, Layout
from plasticine.report.runs import RunData

__all__ = ["SCORES", "Comparison", "Evidence", "Scale", "compare", "curve_of"]

#: What a run is scored by: attribute of its scores, the same normalised, words.
SCORES = {
    "task_final": ("mean_task_final", "normalised_final", "return in the last tenth of each task"),
    "task_auc": ("mean_task_auc", "normalised_auc", "return averaged over each task"),
    "relative_score": ("plasticity_score", "", "return relative to a fresh agent (1: equal)"),
}
_REPS = 10_000
_CURVE_REPS = 300


@dataclass(frozen=True)
class Scale:
    """How the scores of a column were made comparable.

    Attributes:
        kind: ``published``, ``study`` (minimum and maximum over the runs of the study), ``raw`` or ``relative``.
        low, high: Raw scores that became 0 and 1, for ``study``.
    """

    kind: str
    low: float = math.nan
    high: float = math.nan

    @property
    def words(self) -> str:
        """For people."""
        return {
            "published": "published bounds of the task",
            "study": f"minimum and maximum over the runs of this study ({self.low:.4g} and {self.high:.4g})",
            "raw": "raw returns: no bounds are published, and all runs of this study have the same score",
            "relative": "relative to a fresh agent on the same tasks",
        }[self.kind]


@dataclass(frozen=True)
class Comparison:
    """Rows compared on the columns that all of them have.

    Attributes:
        rows, columns: Which.
        left_out: Rows that lack one of these columns.
        ranks: Mean rank by row.
        places: Chance of each rank, [rows, rows].
        thresholds: Of the profiles.
        profiles: By row.
    """

    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    left_out: tuple[str, ...]
    ranks: Mapping[str, Estimate]
    places: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    profiles: Mapping[str, Estimate]


@dataclass(frozen=True)
class Evidence:
    """Everything the figures and tables show.

    Attributes:
        layout: Rows and columns.
        score: Key of `SCORES`.
        scales: By column.
        scores: Of each finished run, comparable within its column: by row and column, by seed.
        raw: The same before they were made comparable.
        grid: By row and column.
        levels: By row and level, over the environments of the level; only for levels with more than one, and rows
            that have all of them.
        improvement: By row, over the columns it shares with its baseline.
        comparison: None if there are fewer than two rows to compare.
        ranked: Rows, best first: by mean rank, then by mean score.
    """

    layout: Layout
    score: str
    scales: Mapping[Column, Scale]
    scores: Mapping[tuple[str, Column], Mapping[int, float]]
    raw: Mapping[tuple[str, Column], Mapping[int, float]]
    grid: Mapping[tuple[str, Column], Estimate]
    levels: Mapping[tuple[str, str], Estimate]
    improvement: Mapping[str, tuple[Estimate, tuple[Column, ...]]]
    comparison: Comparison | None
    ranked: tuple[str, ...]

    @property
    def fewest(self) -> int:
        """Finished runs of the cell that has the fewest (of those that have any); 0 if none has."""
        return min((len(values) for values in self.scores.values()), default=0)


def compare(runs: Sequence[RunData], layout: Layout, score: str) -> Evidence:
    """Compute all statistics of a study.

    The unit is the run: the tasks of one stream are not independent of each other, so a run counts with the mean over
    its tasks, and resampling draws whole runs within each environment.

    Raises:
        UserError: There is no such score.
    """
    if score not in SCORES:
        raise UserError(f"there is no score {score!r}", nearest(score, SCORES))
    raw: dict[tuple[str, Column], dict[int, float]] = defaultdict(dict)
    normalised: dict[tuple[str, Column], dict[int, float]] = defaultdict(dict)
    plain, scaled, _ = SCORES[score]
    for run in runs:
        if run.done and run.scores is not None:
            value = float(getattr(run.scores, plain))
            if math.isfinite(value):
                raw[layout.place[run.cell]][run.seed] = value
                if scaled:
                    normalised[layout.place[run.cell]][run.seed] = float(getattr(run.scores, scaled))
    scales = {column: _scale(column, raw, normalised, score) for column in layout.columns}
    scores = {
        place: _scaled(values, normalised[place], scales[place[1]]) for place, values in sorted(raw.items())
    }
    grid = {place: estimate([_array(values)], reps=_REPS) for place, values in scores.items()}
    comparison = _comparison(layout, scores)
    return Evidence(
        layout, score, scales, scores, raw, grid, _levels(layout, scores), _improvement(layout, scores), comparison,
        _ranked(layout, scores, comparison),
    )  # fmt: skip


def curve_of(runs: Sequence[RunData], key: str) -> Curve | None:
    """Return the interquartile mean of a key over the runs of one cell; None if none of them has it."""
    mine = [run for run in runs if key in run.curves]
    if not mine:
        return None
    grid = mine[0].grid  # runs of a cell are equally long
    return mean_curve([np.stack([run.curves[key] for run in mine])], grid, reps=_CURVE_REPS)


def _array(values: Mapping[int, float]) -> NDArray[np.float64]:
    return np.array([values[seed] for seed in sorted(values)])


def _scale(
    column: Column,
    raw: Mapping[tuple[str, Column], Mapping[int, float]],
    normalised: Mapping[tuple[str, Column], Mapping[int, float]],
    score: str,
) -> Scale:
    if score == "relative_score":
        return Scale("relative")
    known = [value for place, values in normalised.items() if place[1] == column for value in values.values()]
    if known and all(map(math.isfinite, known)):
        return Scale("published")
    values = [value for place, seeds in raw.items() if place[1] == column for value in seeds.values()]
    if len(set(values)) < 2:
        return Scale("raw")
    return Scale("study", min(values), max(values))


def _scaled(raw: Mapping[int, float], normalised: Mapping[int, float], scale: Scale) -> dict[int, float]:
    if scale.kind == "published":
        return dict(normalised)
    if scale.kind == "study":
        return {seed: (value - scale.low) / (scale.high - scale.low) for seed, value in raw.items()}
    return dict(raw)


Scores = Mapping[tuple[str, Column], Mapping[int, float]]


def _levels(layout: Layout, scores: Scores) -> dict[tuple[str, str], Estimate]:
    found = {}
    for level in dict.fromkeys(column.level for column in layout.columns):
        columns = [column for column in layout.columns if column.level == level]
        for row in layout.rows:
            if len(columns) > 1 and all((row, column) in scores for column in columns):
                found[row, level] = estimate([_array(scores[row, column]) for column in columns], reps=_REPS)
    return found


def _improvement(layout: Layout, scores: Scores) -> dict[str, tuple[Estimate, tuple[Column, ...]]]:
    found = {}
    for row in layout.rows:
        base = layout.baseline_of(row)
        common = tuple(c for c in layout.columns if (row, c) in scores and (base, c) in scores)
        if base is not None and common:
            ours, theirs = ([_array(scores[who, c]) for c in common] for who in (row, base))
            found[row] = probability_of_improvement(ours, theirs), common
    return found


def _comparison(layout: Layout, scores: Scores) -> Comparison | None:
    """Compare as much as possible: all rows on the columns they share, or those rows that have every column."""
    have = {row: {c for c in layout.columns if (row, c) in scores} for row in layout.rows}
    have = {row: columns for row, columns in have.items() if columns}
    if len(have) < 2:
        return None
    used = set.union(*have.values())
    choices = []
    for some in (set.intersection(*have.values()), used):
        rows = [row for row in have if some <= have[row]]
        choices.append((len(rows) * len(some) if len(rows) > 1 else 0, rows, some))
    size, chosen, shared = max(choices, key=lambda choice: choice[0])
    if size == 0:
        return None
    columns = tuple(c for c in layout.columns if c in shared)
    strata = {row: [_array(scores[row, c]) for c in columns] for row in chosen}
    thresholds = score_thresholds(x for parts in strata.values() for x in parts)
    return Comparison(
        rows=tuple(chosen),
        columns=columns,
        left_out=tuple(row for row in have if row not in chosen),
        ranks=mean_ranks(strata),
        places=rank_distribution(strata),
        thresholds=thresholds,
        profiles={row: performance_profile(parts, thresholds) for row, parts in strata.items()},
    )


def _ranked(layout: Layout, scores: Scores, comparison: Comparison | None) -> tuple[str, ...]:
    def order(row: str) -> tuple[bool, float, float, str]:
        means = [float(np.mean(list(values.values()))) for place, values in scores.items() if place[0] == row]
        rank = float(comparison.ranks[row].value) if comparison and row in comparison.ranks else math.inf
        return not means, rank, -float(np.mean(means)) if means else 0.0, row

    return tuple(sorted(layout.rows, key=order))
