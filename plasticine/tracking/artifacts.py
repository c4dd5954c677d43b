"""Files of a run that are kept with it in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["Artifacts"]

_START = ("config.yaml", "provenance.json", "git.diff", "run.json")


class Artifacts:
    """Sends files; a store that takes metrics but no files (no permission, no proxy) keeps its metrics.

    Args:
        run_dir: Folder of the run.
        client: MLflow client.
        run_id: MLflow's id of the run.
    """

    def __init__(self, run_dir: Path, client: MlflowClient, run_id: str) -> None:
        self.run_dir = run_dir
        self.client = client
        self.run_id = run_id

    def send_start(self) -> str:
        """Send what is known when the run starts; return what went wrong, or an empty text."""
        return self._send(_START, None)

    def send_end(self, outcome: str, events: list[dict[str, Any]]) -> str:
        """Send the complete record and the logs; return what went wrong, or an empty text."""
        names = (
            "metrics.jsonl",
            "layers.parquet",
            "log.txt",
            *(("error.txt",) if outcome == "failed" else ()),
        )
        return self._send(names, events)

    def send_films(self, paths: list[str]) -> tuple[list[str], str]:
        """Send films given by their paths in the run's folder; return those that are dealt with, and what went wrong.

        One that has been deleted is dealt with.
        """
        from mlflow.exceptions import MlflowException

        done: list[str] = []
        for path in paths:
            try:
                if (self.run_dir / path).exists():
                    self.client.log_artifact(self.run_id, str(self.run_dir / path), str(Path(path).parent))
            except (OSError, MlflowException) as error:
                return done, f"artifacts: {error}"
            done.append(path)
        return done, ""

    def _send(self, names: tuple[str, ...], events: list[dict[str, Any]] | None) -> str:
        from mlflow.exceptions import MlflowException

        try:
            for name in names:
                if (self.run_dir / name).exists():
                    self.client.log_artifact(self.run_id, str(self.run_dir / name))
            if events is not None:
                self.client.log_dict(self.run_id, {"events": events}, "events.json")
        except (OSError, MlflowException) as error:
            return f"artifacts: {error}"
        return ""
