"""Runs of MLflow that stand for all seeds of a cell: its curves are statistics over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticine.tracking.parent import KIND, PARENT_TAG
from plasticine.tracking.runcard import RunCard
from plasticine.tracking.selection import Point
from plasticine.tracking.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Run

__all__ = ["DIGEST_TAG", "Aggregate", "Aggregates"]

#: Tag with what the points were computed from. Set when they are all there, so a run without it is half made.
DIGEST_TAG = "plasticine.digest"
_BATCH = 1000  # MLflow's limit for one call


@dataclass(frozen=True)
class Aggregate:
    """What MLflow is to show of one cell.

    Attributes:
        cell: Identity of the cell within the study.
        name: Name of the run.
        identity: Names to group and filter by; parameters and tags alike.
        tags: Further tags.
        digest: Changes when the points do.
        points: All points, without a key and step twice.
    """

    cell: str
    name: str
    identity: Mapping[str, str]
    tags: Mapping[str, str]
    digest: str
    points: Sequence[Point]


class Aggregates:
    """The aggregate runs of one study, as they are in the store.

    MLflow keeps every point it was ever given, and a further seed changes all of them. So a change is a new run; the
    one before is deleted once the new one is complete. Killed in between, the next call clears up.

    Args:
        store: Prepared store.
        study: Whose runs.

    Raises:
        mlflow.exceptions.MlflowException: The store does not answer or refuses; so do all methods.
    """

    def __init__(self, store: Store, study: str) -> None:
        self._store = store
        self._study = study
        self._runs: dict[str, list[Run]] = {}
        token = None
        while True:
            query = f"tags.`{KIND}` = 'aggregate'"
            page = store.client.search_runs([store.experiment_id], query, max_results=1000, page_token=token)
            for run in page:
                if run.data.tags.get("study") == study:
                    self._runs.setdefault(run.data.tags.get("cell", ""), []).append(run)
            token = page.token
            if not token:
                break

    def tags(self, cell: str) -> dict[str, str]:
        """Tags of the complete aggregate of a cell; empty if there is none."""
        kept = self._newest(cell)
        return {} if kept is None else dict(kept.data.tags)

    def metrics(self, cell: str) -> dict[str, float]:
        """Last values of the complete aggregate of a cell; empty if there is none."""
        kept = self._newest(cell)
        return {} if kept is None else dict(kept.data.metrics)

    def put(self, aggregate: Aggregate) -> bool:
        """Make the store show exactly this of a cell; return whether anything was sent."""
        kept = self._newest(aggregate.cell)
        sent = kept is None or kept.data.tags[DIGEST_TAG] != aggregate.digest
        if sent:
            self._runs.setdefault(aggregate.cell, []).append(self._send(aggregate))
        self.tidy(aggregate.cell)
        return sent

    def tidy(self, cell: str) -> None:
        """Delete what a process that was killed left of a cell: half-made aggregates, and outdated ones."""
        kept = self._newest(cell)
        for run in self._runs.get(cell, []):
            if kept is None or run.info.run_id != kept.info.run_id:
                self._store.client.delete_run(run.info.run_id)
        self._runs[cell] = [] if kept is None else [kept]

    def _newest(self, cell: str) -> Run | None:
        complete = [run for run in self._runs.get(cell, []) if DIGEST_TAG in run.data.tags]
        return max(complete, key=lambda run: (run.info.start_time, run.info.run_id), default=None)

    def _send(self, aggregate: Aggregate) -> Run:
        from mlflow.entities import Metric, Param

        client = self._store.client
        identity = {KIND: "aggregate", "study": self._study, "cell": aggregate.cell, **aggregate.identity}
        tags = {**aggregate.tags, **identity, PARENT_TAG: self._store.parents.of(self._study)}
        run = client.create_run(self._store.experiment_id, tags=tags, run_name=aggregate.name)
        run_id = run.info.run_id
        metrics = [Metric(RunCard.clean(p.key), p.value, p.time, p.step) for p in aggregate.points]
        for i in range(0, len(metrics), _BATCH):
            client.log_batch(run_id, metrics=metrics[i : i + _BATCH])
        client.log_batch(run_id, params=[Param(key, value) for key, value in identity.items()])
        client.set_terminated(run_id)
        client.set_tag(run_id, DIGEST_TAG, aggregate.digest)
        return client.get_run(run_id)
