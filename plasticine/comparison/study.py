"""Keeping the comparison of a study in MLflow up to date: aggregates, the study's own run, views, figures, report."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from plasticine.analysis.record import read_run
from plasticine.comparison.attachments import write_attachments
from plasticine.comparison.cell import CellRuns, aggregate
from plasticine.comparison.overview import describe, state_of, views
from plasticine.errors import UserError
from plasticine.tracking.aggregate import DIGEST_TAG, Aggregates
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.lock import file_lock
from plasticine.tracking.state import STATE_FILE, ForwardState
from plasticine.tracking.store import Store, one_line, store_errors
from plasticine.tracking.sync import find_runs
from plasticine.tracking.views import put_views

__all__ = ["StudyComparison", "update_studies"]

LOCK_FILE = ".comparison.lock"
_LOCK_SECONDS = 5.0


def update_studies(
    store: Store, run_dirs: Iterable[Path], deadline: float = math.inf, complete: bool = True
) -> str:
    """Bring the comparison of all studies that runs belong to up to date.

    Args:
        store: Prepared store.
        run_dirs: Folders of runs, ``runs/<study>/<cell>/seed=<n>``; those that are not in MLflow do not count.
        deadline, complete: See `StudyComparison.update`.

    Returns:
        What could not be done, or an empty text.
    """
    folders = [Path(run).absolute().parents[1] for run in run_dirs if (Path(run) / STATE_FILE).exists()]
    caught: tuple[type[Exception], ...] = (*store_errors(), ValueError)
    problems = []
    for folder in dict.fromkeys(folders):
        try:
            problems.append(StudyComparison(store, folder).update(deadline, complete))
        except caught as error:
            problems.append(one_line(error))
    return "; ".join(filter(None, problems))


class StudyComparison:
    """The comparison of one study in one store.

    Everything follows from the run folders: calling `update` again, or after it was killed, gives the same.

    Args:
        store: Prepared store.
        folder: Of the study.
    """

    def __init__(self, store: Store, folder: Path) -> None:
        self.store = store
        self.folder = folder

    def update(
        self, deadline: float = math.inf, complete: bool = True, clock: Callable[[], float] = time.monotonic
    ) -> str:
        """Send what has changed; return what could not be done, or an empty text.

        Args:
            deadline: Time of `clock` after which nothing further is begun.
            complete: Also send figures and report; otherwise only what the pages' own charts need.
            clock: Seconds.

        Raises:
            mlflow.exceptions.MlflowException: The store does not answer or refuses.
            OSError: A file of the study cannot be read.
        """
        problems: list[str] = []
        with file_lock(self.folder / LOCK_FILE, _LOCK_SECONDS):
            for study, cells in self._cells().items():
                problems += self._update(study, cells, deadline, complete, clock)
        return "; ".join(problems)

    def _update(
        self,
        study: str,
        cells: dict[str, CellRuns],
        deadline: float,
        complete: bool,
        clock: Callable[[], float],
    ) -> list[str]:
        problems: list[str] = []
        aggregates = Aggregates(self.store, study)
        for cell, runs in cells.items():
            if not runs.finished:
                continue
            if clock() > deadline:
                return [*problems, "the time was up"]
            tags = aggregates.tags(cell)
            if tags.get(DIGEST_TAG) == runs.digest:
                aggregates.tidy(cell)
                continue
            known = {int(seed) for seed in tags.get("seed_list", "").split(",") if seed}
            if known - set(runs.seeds):
                problems.append(
                    f"cell {cell[:8]}: MLflow's aggregate has seeds {_list(known - set(runs.seeds))}, which are not "
                    f"finished in {self.folder}; to replace it, delete the run {tags.get('mlflow.runName')!r} there"
                )
                continue
            try:
                records = [read_run(folder) for folder in runs.finished]
            except UserError as error:
                problems.append(one_line(error))
                continue
            ambiguous = sum(_same_names(other, runs) for other in cells.values()) > 1
            aggregates.put(aggregate(runs, records, ambiguous))
        self._describe(study, cells, aggregates)
        if complete and not problems:
            problems += self._attach(study, cells, deadline, clock)
        return problems

    def _describe(self, study: str, cells: dict[str, CellRuns], aggregates: Aggregates) -> None:
        """Bring the study's run and the saved views in line."""
        client, parent = self.store.client, self.store.parents.of(study)
        numbers = {cell: aggregates.metrics(cell) for cell in cells}
        present = client.get_run(parent)
        tags = {
            "runs": str(sum(runs.total for runs in cells.values())),
            "finished": str(sum(len(runs.finished) for runs in cells.values())),
            "failed": str(sum(runs.failed for runs in cells.values())),
            "mlflow.note.content": describe(study, cells, numbers),
        }
        for key, value in tags.items():
            if present.data.tags.get(key) != value:
                client.set_tag(parent, key, value)
        status = state_of(cells)
        if present.info.status != status:
            if status == "RUNNING":
                client.update_run(parent, status=status)
            else:
                client.set_terminated(parent, status=status)
        keys = {key for found in numbers.values() for key in found}
        put_views(self.store, study, views(cells, keys))

    def _attach(
        self, study: str, cells: dict[str, CellRuns], deadline: float, clock: Callable[[], float]
    ) -> list[str]:
        """Put figures and report on the study's run, unless those of the same runs are there."""
        client, parent = self.store.client, self.store.parents.of(study)
        text = ",".join(sorted(runs.digest for runs in cells.values()))
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        if not any(runs.finished for runs in cells.values()):
            return []
        if client.get_run(parent).data.tags.get(DIGEST_TAG) == digest:
            return []
        if clock() > deadline:
            return ["the time was up before the report"]
        with tempfile.TemporaryDirectory(prefix="plasticine-") as folder:
            write_attachments(self.folder, Path(folder))
            client.log_artifacts(parent, folder)
        client.set_tag(parent, DIGEST_TAG, digest)
        return []

    def _cells(self) -> dict[str, dict[str, CellRuns]]:
        """Return the runs that are in this store: study -> cell -> runs. A folder holds one study as a rule."""
        found: dict[str, dict[str, list[Path]]] = {}
        for folder in find_runs(self.folder):
            state = ForwardState.load(folder)
            if (state.uri, state.experiment_id) == (
                self.store.uri,
                self.store.experiment_id,
            ) and state.run_id:
                card = read_json(folder / "run.json") or {}
                found.setdefault(str(card["study"]), {}).setdefault(str(card["cell"]), []).append(folder)
        return {
            study: {cell: CellRuns.of(folders) for cell, folders in cells.items()}
            for study, cells in found.items()
        }


def _same_names(a: CellRuns, b: CellRuns) -> bool:
    return all(a.card[key] == b.card[key] for key in ("method", "agent", "env"))


def _list(seeds: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))
