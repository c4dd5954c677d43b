"""What the report needs of every run: its scores, and its curves on a common grid of steps."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.baselines import find_baseline, fresh_tasks
from plasticine.analysis.correlation import Track, track
from plasticine.analysis.record import RunRecord, read_run
from plasticine.analysis.scores import FreshTask, RunScores, run_scores
from plasticine.analysis.stats import common_grid, on_grid
from plasticine.errors import UserError
from plasticine.report.gather import Found, Gathered
from plasticine.report.workers import spread_over_cores

__all__ = ["POINTS", "RETURN", "RunData", "read_runs"]

#: Points of a curve.
POINTS = 150
#: Key of the curve of returns.
RETURN = "episodic return"
_PARALLEL = 64  # runs from which on more than one process reads


@dataclass(frozen=True)
class RunData:
    """One run that has a card.

    Attributes:
        where: Folder below its folder of runs.
        folder: Its folder.
        state: As in ``plasticine status``.
        error: What went wrong, in one line; empty if nothing did.
        method, agent, env, level, seed, cell, params: Who it is.
        total: Env steps of the whole run.
        grid: Env steps [`POINTS`] from its start to its end; the same for all runs of a cell.
        curves: By key, values [`POINTS`], NaN where the run has not come so far.
        switches: Env steps at which its tasks begin.
        interventions: How often its methods acted, by name.
        scores: None if there is no readable record.
        track: What it contributes to the question which metric announces lost performance; None: nothing.
    """

    where: str
    folder: Path
    state: str
    error: str
    method: str
    agent: str
    env: str
    level: str
    seed: int
    cell: str
    params: Mapping[str, Any]
    total: int
    grid: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    curves: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    switches: tuple[int, ...] = ()
    interventions: Mapping[str, int] = field(default_factory=dict)
    scores: RunScores | None = None
    track: Track | None = None

    @property
    def done(self) -> bool:
        """Whether it counts in comparisons: finished, with a record."""
        return self.state == "done" and self.scores is not None


def read_runs(gathered: Gathered) -> list[RunData]:
    """Read every run that has started; an unreadable record costs its run, not the report.

    Large studies are read by several processes; the result does not depend on how many.
    """
    bare = [_bare(found) for found in gathered.runs if found.card]
    fresh = _fresh(bare, {run.where: found.card for run, found in _carded(bare, gathered)})
    jobs = [(run, fresh.get(run.cell, {})) for run in bare]
    return spread_over_cores(_read, jobs, least=_PARALLEL)


def _carded(bare: Sequence[RunData], gathered: Gathered) -> Iterator[tuple[RunData, Found]]:
    return zip(bare, (found for found in gathered.runs if found.card), strict=True)


def _bare(found: Found) -> RunData:
    card, status = found.card, found.seen.status
    return RunData(
        where=found.seen.dir,
        folder=found.seen.path,
        state=found.seen.state,
        error=str(status.get("error") or ""),
        method=str(card["method"]),
        agent=str(card["agent"]),
        env=str(card["env"]),
        level=str(card["level"]),
        seed=int(card["seed"]),
        cell=found.cell,
        params=card.get("params") or {},
        total=int(status.get("total_env_steps") or status.get("env_steps") or 1),
    )


def _fresh(
    runs: Sequence[RunData], cards: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[int, FreshTask]]:
    """By cell, what fresh agents reached on its tasks; only runs that reset everything are read for that."""
    resets = [run for run in runs if run.state == "done" and _may_reset(run.params)]
    records = []
    for run in resets:
        try:
            records.append(read_run(run.folder))
        except UserError:
            continue  # told as unreadable when it is read as a run of its own
    found: dict[str, dict[int, FreshTask]] = {}
    if records:
        for cell, run in {run.cell: run for run in runs}.items():
            empty = RunRecord(run.folder, cards[run.where], run.state, None, {}, np.zeros((0, 4)))
            found[cell] = fresh_tasks(find_baseline(empty, records).runs)
    return found


def _may_reset(params: Mapping[str, Any]) -> bool:
    """Whether some method resets layers: all that a fresh agent can be, `find_baseline` looks closer."""
    return any(
        str(value).endswith(".LayerReset") for key, value in params.items() if key.startswith("method.")
    )


def _read(job: tuple[RunData, Mapping[int, FreshTask]]) -> RunData:
    run, fresh = job
    try:
        record = read_run(run.folder)
    except UserError as error:
        return dataclasses.replace(run, error=f"unreadable record: {error.what}")
    grid = common_grid([max(run.total, record.env_steps)], POINTS)
    curves = {
        key: on_grid(series.steps, series.values, grid)
        for key, series in record.series.items()
        if key.startswith("plasticity/") and key.count("/") == 1
    }
    if len(record.episodes):
        curves[RETURN] = on_grid(record.episodes[:, 0], record.episodes[:, 2], grid)
    acted: dict[str, int] = defaultdict(int)
    for event in record.events:
        if event.kind == "intervention":
            acted[str(event.facts.get("method"))] += 1
    return dataclasses.replace(
        run,
        grid=grid,
        curves=curves,
        switches=tuple(task.start for task in record.tasks),
        interventions=dict(acted),
        scores=run_scores(record, fresh),
        track=track(record, fresh),
    )
