"""The numbers behind the figures, as tables and as files."""

from __future__ import annotations

import csv
import dataclasses
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from plasticine.analysis.scores import TaskScore
from plasticine.analysis.stats import Estimate
from plasticine.report.evidence import Evidence
from plasticine.report.runs import RunData
from plasticine.report.streams import Stream
from plasticine.report.table import Table
from plasticine.report.winners import Grid

__all__ = ["curve_columns", "numbers", "slopes_table", "write_columns", "write_tables"]

_INTERVAL = ("low", "high", "fewest_runs", "note")


def numbers(evidence: Evidence, grid: Grid, runs: Sequence[RunData]) -> list[Table]:
    """Return the tables that are files only: runs, tasks, grid, ranks, improvement, profiles."""
    tables = [_runs(evidence, runs), _tasks(evidence, runs), _grid(evidence, grid)]
    if evidence.improvement:
        rows = [
            (
                row,
                evidence.layout.baseline_of(row),
                *_parts(found),
                ", ".join(column.name for column in columns),
            )
            for row, (found, columns) in evidence.improvement.items()
        ]
        heads = ("method", "over", "probability", *_INTERVAL, "environments")
        tables.append(Table("improvement", "Probability of improvement", heads, rows))
    if evidence.comparison is not None:
        found = evidence.comparison
        places = tuple(f"share_of_rank_{k + 1}" for k in range(len(found.rows)))
        rows = [
            (row, *_parts(found.ranks[row]), *map(float, found.places[k])) for k, row in enumerate(found.rows)
        ]
        tables.append(Table("ranks", "Ranks", ("method", "mean_rank", *_INTERVAL, *places), rows))
        profiles = [
            (row, float(tau), *(float(part[k]) for part in profile[:3]))
            for row, profile in found.profiles.items()
            for k, tau in enumerate(found.thresholds)
        ]
        tables.append(
            Table("profiles", "Profiles", ("method", "tau", "share_above", "low", "high"), profiles)
        )
    return tables


def slopes_table(streams: Sequence[Stream]) -> Table:
    """Return the trend of the relative score over the tasks of each stream."""
    rows = []
    for stream in streams:
        for row, slope in stream.slopes().items():
            rows.append((row, stream.agent, stream.column.name, *map(float, slope[:3]), int(slope.n)))
    return Table(
        "slopes", "Trend over the tasks", ("method", "agent", "environment", "slope", "low", "high", "seeds"), rows,
        "Change of the relative score (1: a fresh agent) from one task to the next, mean over seeds with its 95 % "
        "bootstrap interval. Below 0: the ability to learn is being lost.",
    )  # fmt: skip


def _parts(found: Estimate) -> tuple[Any, ...]:
    return float(found.value), float(found.low), float(found.high), min(found.runs), found.note


def _runs(evidence: Evidence, runs: Sequence[RunData]) -> Table:
    rows = []
    for run in runs:
        row, column = evidence.layout.place[run.cell]
        scores = run.scores
        values = (
            (scores.mean_task_final, scores.mean_task_auc, scores.normalised_final, scores.normalised_auc,
             scores.plasticity_score, float(scores.plasticity_slope.value))
            if scores is not None else (math.nan,) * 6
        )  # fmt: skip
        compared = evidence.scores.get((row, column), {}).get(run.seed, math.nan)
        rows.append(
            (run.where, row, run.method, run.agent, column.level, column.name, run.seed, run.cell, run.state,
             run.total, *values, compared, sum(run.interventions.values()), run.error)
        )  # fmt: skip
    heads = (
        "run", "row", "method", "agent", "level", "environment", "seed", "cell", "state", "env_steps", "task_final",
        "task_auc", "normalised_final", "normalised_auc", "relative_score", "relative_slope", "compared_score",
        "interventions", "error",
    )  # fmt: skip
    return Table("runs", "Runs", heads, rows)


def _tasks(evidence: Evidence, runs: Sequence[RunData]) -> Table:
    names = [field.name for field in dataclasses.fields(TaskScore)]
    rows = []
    for run in runs:
        row, column = evidence.layout.place[run.cell]
        for task in run.scores.tasks if run.scores is not None else ():
            rows.append((row, run.agent, column.name, run.seed, *(getattr(task, name) for name in names)))
    heads = (
        "method",
        "agent",
        "environment",
        "seed",
        *("task" if name == "name" else name for name in names),
    )
    return Table("tasks", "Tasks", heads, rows)


def _grid(evidence: Evidence, grid: Grid) -> Table:
    rows = []
    for (row, column), found in sorted(grid.estimates.items()):
        raw = [
            value for place, seeds in evidence.raw.items()
            if (place[0], (place[1].level, place[1].name)) == (row, column) for value in seeds.values()
        ]  # fmt: skip
        mean = float(np.mean(raw)) if raw else math.nan
        rows.append((row, *column, *_parts(found), mean))
    heads = ("method", "level", "environment", "iqm", *_INTERVAL, "mean_raw")
    return Table("grid", "Grid", heads, rows)


def curve_columns(streams: Sequence[Stream], keys: Sequence[str]) -> dict[str, list[Any]]:
    """Return every curve as columns: one row a method, key and step."""
    heads = ("method", "agent", "level", "environment", "key", "env_steps", "iqm", "low", "high", "runs")
    found: dict[str, list[Any]] = {head: [] for head in heads}
    for stream in streams:
        for key in keys:
            curves = stream.curves(key)
            for row, curve in curves.items():
                kept = np.flatnonzero(np.isfinite(curve.value))
                fixed = (row, stream.agent, stream.column.level, stream.column.name, key)
                for name, value in zip(found, fixed, strict=False):
                    found[name] += [value] * len(kept)
                parts = (curve.steps, curve.value, curve.low, curve.high, curve.runs)
                for name, part in zip(list(found)[5:], parts, strict=True):
                    found[name] += part[kept].tolist()
    return found


def write_tables(folder: Path, tables: Sequence[Table]) -> None:
    """Write each table as CSV and as Parquet."""
    for table in tables:
        if table.rows:
            write_columns(
                folder,
                table.name,
                dict(zip(table.heads, map(list, zip(*table.rows, strict=True)), strict=True)),
            )


def write_columns(folder: Path, name: str, columns: dict[str, list[Any]]) -> None:
    """Write columns as ``<name>.csv`` and ``<name>.parquet``; NaN is an empty field, a null."""
    import pyarrow as pa
    from pyarrow import parquet

    with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(map(_fields, zip(*columns.values(), strict=True)))
    plain = {head: list(_nulls(values)) for head, values in columns.items()}
    parquet.write_table(pa.table(plain), folder / f"{name}.parquet")


def _fields(row: tuple[Any, ...]) -> list[Any]:
    return ["" if isinstance(value, float) and math.isnan(value) else value for value in row]


def _nulls(values: Sequence[Any]) -> Iterator[Any]:
    for value in values:
        yield None if isinstance(value, float) and math.isnan(value) else value
