"""The runs of one cell as MLflow shows them together: curves of mean, IQM and interval over the seeds."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.aggregate import iqm, mean
from plasticine.analysis.bootstrap import estimate, note
from plasticine.analysis.efficiency import common_grid, mean_curve, on_grid
from plasticine.analysis.record import RunRecord
from plasticine.tracking.aggregate import Aggregate
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.local import COMMITTED_FILE
from plasticine.tracking.selection import Point
from plasticine.tracking.state import ForwardState

__all__ = ["RETURN", "SCORES", "STATISTICS", "CellRuns", "aggregate", "curve_keys"]

RETURN = "train/episodic_return"
#: Numbers of a whole run that are averaged as well.
SCORES = ("summary/final_return", "summary/mean_return")
#: In front of every key of an aggregate.
STATISTICS = ("mean", "iqm", "ci_low", "ci_high")
_TASK = "task/index"
_FORMAT = 1  # part of the digest: with another one, all aggregates are computed anew
_MAX_KEYS = 40  # of an aggregate, like those of a run
_CURVES = (_MAX_KEYS - len(SCORES) * len(STATISTICS) - 1) // len(STATISTICS)
_EVALS = 2  # curves of returns on tasks that nothing is learnt from


@dataclass(frozen=True)
class CellRuns:
    """The runs of one cell that are in one store.

    Attributes:
        card: ``run.json`` of one of them.
        finished: Folders of those that are over, in the order of their seeds.
        seeds: Their seeds.
        total: How many runs there are, whatever their state.
        failed: How many of them failed.
        digest: Changes when the aggregate does.
    """

    card: dict[str, Any]
    finished: tuple[Path, ...]
    seeds: tuple[int, ...]
    total: int
    failed: int
    digest: str

    @classmethod
    def of(cls, folders: Sequence[Path]) -> CellRuns:
        """Look at the runs of a cell, without reading their records."""
        cards = {folder: read_json(folder / "run.json") or {} for folder in folders}
        states = {folder: (read_json(folder / "status.json") or {}).get("state") for folder in folders}
        ordered = sorted(folders, key=lambda folder: int(cards[folder]["seed"]))
        finished = tuple(folder for folder in ordered if states[folder] == "finished")
        content: list[Any] = [_FORMAT, len(folders)]
        for folder in finished:
            committed = read_json(folder / COMMITTED_FILE) or {}
            run_id = ForwardState.load(folder).run_id
            content.append([cards[folder]["seed"], run_id, committed.get("offset"), committed.get("step")])
        failed = sum(state == "failed" for state in states.values())
        text = json.dumps([*content, failed], sort_keys=True)
        return cls(
            card=cards[ordered[0]],
            finished=finished,
            seeds=tuple(int(cards[folder]["seed"]) for folder in finished),
            total=len(folders),
            failed=failed,
            digest=hashlib.sha256(text.encode()).hexdigest()[:16],
        )

    @property
    def identity(self) -> dict[str, str]:
        """Names to group by."""
        names = {key: str(self.card[key]) for key in ("level", "env", "method", "agent")}
        budget = (self.card.get("tags") or {}).get("budget")
        return {**names, **({"budget": str(budget)} if budget else {}), "seeds": str(len(self.finished))}

    @property
    def state(self) -> str:
        """How many seeds, in words."""
        text = f"{len(self.finished)} of {self.total} seeds" if len(self.finished) < self.total else ""
        text = text or (f"{self.total} seeds" if self.total != 1 else "1 seed")
        return f"{text}, {self.failed} failed" if self.failed else text


def aggregate(runs: CellRuns, records: Sequence[RunRecord], ambiguous: bool) -> Aggregate:
    """Compute what MLflow is to show of a cell.

    All statistics are those of `plasticine report`: the curves are put on the same grid of steps, and the intervals
    are 95 % percentile-bootstrap intervals of the IQM over seeds. One seed has none.

    Args:
        runs: The cell.
        records: Of its finished runs; at least one.
        ambiguous: Another cell has the same method, agent and environment, so the name needs more.
    """
    now = time.time_ns() // 1_000_000
    last = [record.env_steps for record in records]
    grid = common_grid(last)
    points: list[Point] = []
    kept, left_out = curve_keys(records)
    for key in kept:
        curves = [on_grid(*record.series[key], grid) for record in records if key in record.series]
        points += _curve(key, np.stack(curves), grid, now)
    for key in SCORES:
        values = [record.series[key].values[-1] for record in records if key in record.series]
        if values:
            points += _score(key, np.asarray(values), max(last), now)
    switches = [[span.start for span in record.tasks[1:]] for record in records]
    same = all(steps == switches[0] for steps in switches)
    if same and switches[0]:
        points += [Point(_TASK, now, int(span.start), float(span.index)) for span in records[0].tasks]
        points.append(Point(_TASK, now, max(last), float(records[0].tasks[-1].index)))
    identity = runs.identity
    tags = {
        "seed_list": ",".join(map(str, runs.seeds)),
        "runs": str(runs.total),
        "failed": str(runs.failed),
        "plasticine.switches": ",".join(map(str, switches[0])) if same else "differ between seeds",
        "mlflow.note.content": _description(runs, left_out),
    }
    name = f"{identity['method']} · {identity['agent']} · {identity['env']}"
    name += f" · {str(runs.card['cell'])[:8]}" if ambiguous else ""
    name += f" ({runs.state})"
    return Aggregate(str(runs.card["cell"]), name, identity, tags, runs.digest, points)


def curve_keys(records: Sequence[RunRecord]) -> tuple[list[str], list[str]]:
    """Return the keys whose curves are averaged, and those there is no room for: returns first, then plasticity."""
    present = dict.fromkeys(key for record in records for key in record.series)
    evals = [key for key in present if key.startswith("eval/") and key.endswith("/episodic_return")][:_EVALS]
    plasticity = [key for key in present if key.startswith("plasticity/") and key.count("/") == 1]
    wanted = [*([RETURN] if RETURN in present else []), *evals, *plasticity]
    return wanted[:_CURVES], wanted[_CURVES:]


def _curve(key: str, curves: NDArray[np.float64], grid: NDArray[np.float64], now: int) -> list[Point]:
    """Points of the statistics of curves [n, points] on a grid; none where there is no value."""
    averaged, middle = (
        mean_curve([curves], grid, mean, reps=1),
        mean_curve([curves], grid, iqm),
    )
    columns = dict(zip(STATISTICS, (averaged.value, middle.value, middle.low, middle.high), strict=True))
    return [
        Point(f"{name}/{key}", now, round(step), float(value))
        for name, column in columns.items()
        for step, value in zip(grid, column, strict=True)
        if np.isfinite(value)
    ]


def _score(key: str, values: NDArray[np.float64], step: int, now: int) -> list[Point]:
    averaged, middle = (_of(values, statistic) for statistic in (mean, iqm))
    numbers = dict(zip(STATISTICS, (averaged[0], *middle), strict=True))
    return [Point(f"{n}/{key}", now, step, value) for n, value in numbers.items() if np.isfinite(value)]


def _of(values: NDArray[np.float64], statistic: Callable[..., Any]) -> tuple[float, float, float]:
    found = estimate([values], statistic)
    return float(found.value), float(found.low), float(found.high)


def _description(runs: CellRuns, left_out: Sequence[str]) -> str:
    seeds = ", ".join(map(str, runs.seeds))
    lines = [
        f"Statistics over {runs.state} (finished: {seeds}) of one configuration, `cell` {runs.card['cell']}.",
        "`mean/`, `iqm/`: mean and interquartile mean; `ci_low/`, `ci_high/`: 95 % bootstrap interval of the "
        "interquartile mean. Task switches: tag `plasticine.switches` and curve `task/index`.",
    ]
    warning = note([len(runs.finished)])
    if warning:
        lines.append(f"**{warning}**")
    if left_out:
        lines.append(
            f"Not averaged, to keep the page fast: {', '.join(left_out)}. `plasticine report` has all."
        )
    return "\n\n".join(lines)
