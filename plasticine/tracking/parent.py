"""The run of a study under which MLflow shows all runs of the study."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from plasticine.tracking.lock import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["KIND", "PARENT_TAG", "Parents"]

#: Tag that tells the runs of an experiment apart: ``study`` (the parent), ``seed`` (a run), ``aggregate``.
KIND = "kind"
#: MLflow's own tag for the run above.
PARENT_TAG = "mlflow.parentRunId"
_LOCK_SECONDS = 60.0


class Parents:
    """The parent runs of one experiment, one for each study in it.

    One a study and not one a command: the same run may be asked for by several commands (seeds 0-4, then 0-9), and
    the same command may be given many times.

    Args:
        client: Of the store.
        experiment_id: MLflow's id of the experiment.
        lock: File that processes on this machine take turns with.
    """

    def __init__(self, client: MlflowClient, experiment_id: str, lock: Path) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self._lock = lock
        self._known: dict[str, str] = {}

    def of(self, study: str) -> str:
        """Return MLflow's id of a study's parent run, which is made if it is not there yet.

        Two machines that make it at the same time end up with the older one.

        Raises:
            mlflow.exceptions.MlflowException: The store does not answer or refuses.
            UserError: Another process holds the lock for a minute.
        """
        if study not in self._known:
            found = self._oldest(study)
            if found is None:
                with file_lock(self._lock, _LOCK_SECONDS):
                    found = self._oldest(study) or self._make(study)
            self._known[study] = found
        return self._known[study]

    def _make(self, study: str) -> str:
        tags = {KIND: "study", "study": study}
        made: Run = self._client.create_run(self._experiment_id, tags=tags, run_name=f"study {study}")
        self._client.log_param(made.info.run_id, "study", study)
        oldest = self._oldest(study)
        if oldest is None or oldest == made.info.run_id:
            return str(made.info.run_id)
        self._client.delete_run(made.info.run_id)
        return oldest

    def _oldest(self, study: str) -> str | None:
        query = f"tags.`{KIND}` = 'study'"
        runs = self._client.search_runs([self._experiment_id], filter_string=query, max_results=1000)
        mine = [run for run in runs if run.data.tags.get("study") == study]
        ranked = sorted(mine, key=lambda run: (run.info.start_time, run.info.run_id))
        return str(ranked[0].info.run_id) if ranked else None
