"""Figures along the stream: returns, scores of each task and visit, plasticity metrics."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.scores import TaskScore
from plasticine.analysis.stats import Curve, mean_curve
from plasticine.analysis.trend import Slope, slope_over_seeds
from plasticine.report.curves import Line, Panel, draw_multiples, draw_panels
from plasticine.report.evidence import curve_of
from plasticine.report.layout import Column, Layout
from plasticine.report.lettering import steps_unit
from plasticine.report.runs import RETURN, RunData
from plasticine.report.style import Palette, Wanted
from plasticine.report.workers import spread_over_cores

__all__ = ["METRICS", "Stream", "measure", "streams_of"]

#: Metrics that are drawn if nobody asks for others, as far as they were measured.
METRICS = ("rdu", "fau", "effective_rank", "weight_magnitude", "gradient_norm", "policy_entropy")
#: What a metric is, for its axis.
_WORDS = {
    "rdu": "dormant units, share", "rdu_mean": "dormant units, share", "fau": "active units, share",
    "dead_units": "dead units, share", "effective_rank": "effective rank of features",
    "stable_rank": "stable rank of features", "srank": "srank of features",
    "weight_magnitude": "RMS of weights", "gradient_norm": "gradient norm", "policy_entropy": "policy entropy, nats",
    "feature_norm": "feature norm", "feature_variance": "feature variance",
}  # fmt: skip
_MANY = 7  # rows from which on each gets a panel of its own
_AHEAD = 64  # runs of a stream from which on other processes help
_TASKS = 8  # panels of tasks at most


@dataclass(frozen=True)
class Stream:
    """The runs of one column and agent.

    Attributes:
        column, agent: Which.
        title: For people.
        runs: By short name of their row.
        known: Curves worked out so far, by key and row.
    """

    column: Column
    agent: str
    title: str
    runs: Mapping[str, Sequence[RunData]]
    known: dict[str, dict[str, Curve]] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Part of the names of files."""
        return re.sub(r"[^\w.=-]+", "_", f"{self.column.level}.{self.column.name}.{self.agent}")

    @cached_property
    def switches(self) -> tuple[int, ...]:
        """Where tasks begin: of the run that has come furthest."""
        return max((run.switches for runs in self.runs.values() for run in runs), key=len, default=())

    @property
    def returns(self) -> dict[str, Curve]:
        """Curve of the return, by row."""
        return self.curves(RETURN)

    def curves(self, key: str) -> dict[str, Curve]:
        """Curve of any key, by row; rows without it are left out."""
        if key not in self.known:
            found = {row: curve_of(runs, key) for row, runs in self.runs.items()}
            self.known[key] = {row: curve for row, curve in found.items() if curve is not None}
        return self.known[key]

    def metrics(self) -> list[str]:
        """Names of the metrics that were measured."""
        keys = {key for runs in self.runs.values() for run in runs for key in run.curves}
        return sorted(key.partition("/")[2] for key in keys if key.startswith("plasticity/"))

    # -- figures ---------------------------------------------------------------------------------------------
    def learning(self, palette: Palette, metrics: Sequence[str]) -> list[Wanted]:
        """Return the figure of returns; nothing if no episode has ended."""
        if not self.returns:
            return []
        scale, words = self._unit(self.returns)
        switches = tuple(step / scale for step in self.switches)
        lines = {row: _line(row, curve, scale) for row, curve in self.returns.items()}
        base = [lines[row] for row in lines if row == palette.baseline]
        if len(lines) > _MANY:
            panels = [
                (row, Panel(row, tuple({id(x): x for x in (*base, line)}.values()), "", switches))
                for row, line in lines.items()
            ]  # fmt: skip
            draw = partial(draw_multiples, palette=palette, panels=panels, x=words, y=RETURN)
        else:
            draw = partial(
                draw_panels,
                palette=palette,
                x=words,
                panels=[Panel("", tuple(lines.values()), RETURN, switches)],
            )
        return [
            Wanted(
                f"curve.{self.stem}", f"Return: {self.title}",
                "Interquartile mean over runs of the raw return of all episodes, with its pointwise 95 % band"
                + self._lengths() + (", dotted: task switches." if len(switches) > 1 else "."),
                draw,
            )
        ]  # fmt: skip

    def _lengths(self) -> str:
        running = sum(not run.done for runs in self.runs.values() for run in runs)
        return f"; {running} unfinished or failed runs are in it as far as they came" if running else ""

    def visits(self, palette: Palette, metrics: Sequence[str]) -> list[Wanted]:
        """Return the figures that compare tasks; nothing for a stream of one task."""
        return [*self._tasks(palette), *self._relative(palette)]

    def _tasks(self, palette: Palette) -> list[Wanted]:
        """Draw the final return of every task: over its visits if there are several, else along the stream."""
        finals = {row: _table(runs, "task_final") for row, runs in self.runs.items()}
        names = {task.index: (task.name, task.visit) for task in self._all_tasks()}
        if len(names) < 2:
            return []
        kinds = list(dict.fromkeys(name for name, _ in names.values()))
        repeated = [name for name in kinds if sum(other == name for other, _ in names.values()) > 1]
        panels, left = [], ""
        if repeated:
            for name in repeated[:_TASKS]:
                places = [index for index, (other, _) in sorted(names.items()) if other == name]
                visits = np.array([names[index][1] + 1.0 for index in places])
                panels.append(_dots(name, finals, places, visits, "return at its end"))
            hidden = len(repeated) - len(panels)
            left = f" {hidden} more tasks are in tasks.csv." if hidden else ""
            words, x = "over its visits", "visit"
        else:
            places = sorted(names)
            panels = [_dots("", finals, places, np.array(places) + 1.0, "return at its end")]
            words, x = "along the stream", "task"
        return [
            Wanted(
                f"tasks.{self.stem}", f"Every task {words}: {self.title}",
                "Mean raw return in the last tenth of a task; interquartile mean over runs, 95 % interval. A method "
                "that loses plasticity gets worse at a task it has had before, and reaches less on late tasks than "
                "on early ones of the same difficulty." + left,
                partial(draw_panels, palette=palette, panels=panels, x=x),
            )
        ]  # fmt: skip

    def _relative(self, palette: Palette) -> list[Wanted]:
        relative = {row: _table(runs, "relative_score") for row, runs in self.runs.items()}
        if not any(np.isfinite(table).any() for table in relative.values()) or len(self.switches) < 2:
            return []
        places = list(range(len(self.switches)))
        panel = _dots("", relative, places, np.array(places) + 1.0, "relative to a fresh agent")
        return [
            Wanted(
                f"relative.{self.stem}", f"Beside a fresh agent: {self.title}",
                "Mean return over each task divided by that of agents that start the task with new networks (1: "
                "equal; where returns near 0 forbid dividing, 1 plus the difference in normalised units). It "
                "separates loss of plasticity, a falling line, from tasks that are merely harder.",
                partial(draw_panels, palette=palette, panels=[panel], x="task"),
            )
        ]  # fmt: skip

    def plasticity(self, palette: Palette, metrics: Sequence[str]) -> list[Wanted]:
        """Return the figure of plasticity metrics; nothing if none of them was measured."""
        panels, words = [], ""
        for name in metrics:
            curves = self.curves(f"plasticity/{name}")
            if curves:
                scale, words = self._unit(curves)
                lines = tuple(_line(row, curve, scale) for row, curve in curves.items())
                switches = tuple(step / scale for step in self.switches)
                panels.append(Panel(name, lines, _WORDS.get(name, name), switches))
        if not panels:
            return []
        return [
            Wanted(
                f"metrics.{self.stem}", f"Plasticity: {self.title}",
                "Interquartile mean over runs with its pointwise 95 % band, mean over the agent's networks, dotted: "
                "task switches. Loss of plasticity often shows as more dormant units, lower rank and smaller "
                "gradients; none of them proves it.",
                partial(draw_panels, palette=palette, panels=panels, x=words),
            )
        ]  # fmt: skip

    def slopes(self) -> dict[str, Slope]:
        """Return the trend of the relative score over the tasks by row; only rows with a fresh agent."""
        tables = {row: _table(runs, "relative_score") for row, runs in self.runs.items()}
        return {row: slope_over_seeds(table) for row, table in tables.items() if np.isfinite(table).any()}

    def _unit(self, curves: Mapping[str, Curve]) -> tuple[float, str]:
        return steps_unit(max(float(curve.steps[-1]) for curve in curves.values()))

    def _all_tasks(self) -> list[TaskScore]:
        runs = [run for runs in self.runs.values() for run in runs if run.scores is not None]
        return [task for run in runs if run.scores for task in run.scores.tasks]


def measure(streams: Sequence[Stream], keys: Sequence[str]) -> None:
    """Work out the curves of all streams ahead, by several processes if there are many."""
    many = max((sum(map(len, stream.runs.values())) for stream in streams), default=0) >= _AHEAD
    jobs = [(stream, tuple(keys)) for stream in streams]
    results = spread_over_cores(_known, jobs, least=2 if many else len(jobs) + 1)
    for stream, known in zip(streams, results, strict=True):
        stream.known.update(known)


def _known(job: tuple[Stream, tuple[str, ...]]) -> dict[str, dict[str, Curve]]:
    stream, keys = job
    return {key: stream.curves(key) for key in keys}


def streams_of(layout: Layout, runs: Sequence[RunData]) -> list[Stream]:
    """Sort runs by column and agent."""
    found: dict[tuple[Column, str], dict[str, list[RunData]]] = {}
    for run in runs:
        row, column = layout.place[run.cell]
        found.setdefault((column, run.agent), {}).setdefault(layout.short(row), []).append(run)
    order = {layout.short(row): k for k, row in reversed(list(enumerate(layout.rows)))}
    return [
        Stream(
            column, agent, column.name if len(layout.agents) == 1 else f"{agent} on {column.name}",
            {row: rows[row] for row in sorted(rows, key=lambda row: order[row])},
        )
        for (column, agent), rows in sorted(found.items())
    ]  # fmt: skip


def _line(row: str, curve: Curve, scale: float) -> Line:
    return Line(row, curve.steps / scale, curve.value, curve.low, curve.high)


def _table(runs: Sequence[RunData], what: str) -> NDArray[np.float64]:
    """Return a score of every complete task, [runs, tasks]; NaN where a run has not come so far."""
    scored = [run.scores for run in runs if run.scores is not None]
    count = max((task.index + 1 for scores in scored for task in scores.tasks), default=0)
    table = np.full((len(scored), count), np.nan)
    for k, scores in enumerate(scored):
        for task in scores.tasks:
            if task.complete:
                table[k, task.index] = getattr(task, what)
    return table


def _dots(
    title: str,
    tables: Mapping[str, NDArray[np.float64]],
    places: Sequence[int],
    x: NDArray[np.float64],
    y: str,
) -> Panel:
    """Return a panel with a dot and an interval at each task."""
    lines = []
    for row, table in tables.items():
        inside = [place for place in places if place < table.shape[1]]
        if not inside or not np.isfinite(table[:, inside]).any():
            continue
        kept = table[:, inside]
        kept = kept[np.isfinite(kept).any(axis=1)]
        curve = mean_curve([kept], x[: len(inside)])
        lines.append(Line(row, curve.steps, curve.value, curve.low, curve.high, dots=True))
    every = max(1, len(x) // 8)
    ticks = tuple((float(place), f"{place:.0f}") for place in x[::every])
    return Panel(title, tuple(lines), y, ticks=ticks)
