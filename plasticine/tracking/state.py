"""How far one run has got in MLflow: the forwarder's note in the folder of the run."""

from __future__ import annotations

import uuid
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from plasticine.tracking.jsonfile import read_json, replace_json
from plasticine.tracking.selection import Selection

__all__ = ["STATE_FILE", "ForwardState"]

STATE_FILE = "mlflow.json"


@dataclass
class ForwardState:
    """Contents of ``mlflow.json``.

    Attributes:
        uri: Tracking URI the rest is about.
        experiment_id: MLflow's id of the experiment.
        run_id: MLflow's id of the run; None until it is made.
        parent: MLflow's id of the study's run, which this run is shown under.
        token: Names this folder in a tag of the MLflow run. Written before the run is made, so that after a
            crash in between the run is found and not made again.
        described: Parameters are in MLflow.
        offset: Bytes of metrics.jsonl dealt with.
        step: Largest env step dealt with.
        time: Time stamp of the last line dealt with, unix ms.
        rewinds: `rewinds` of committed.json that `offset` belongs to.
        through: Steps up to this one are in MLflow from before the record was rewound; they are not sent again.
        closed: Outcome that MLflow knows, None while the run is open there.
        artifacts: Which files are in MLflow: nothing, those of the ``start``, those of the ``end``.
        films: Paths of the films that are in MLflow.
        pushed: Points sent.
        selection: Thinning as of `offset`.
    """

    uri: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    parent: str | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)
    described: bool = False
    offset: int = 0
    step: int = -1
    time: int = 0
    rewinds: int = 0
    through: int = -1
    closed: str | None = None
    artifacts: str | None = None
    films: list[str] = field(default_factory=list)
    pushed: int = 0
    selection: Selection = field(default_factory=Selection)

    @classmethod
    def load(cls, run_dir: Path) -> ForwardState:
        """Read the note of a run; a run that was never forwarded gives a fresh one."""
        content = read_json(run_dir / STATE_FILE) or {}
        known = {f.name for f in fields(cls)}
        state = cls(**{key: value for key, value in content.items() if key in known})
        if isinstance(state.selection, dict):
            state.selection = Selection(**state.selection)
        return state

    def save(self, run_dir: Path) -> None:
        """Write the note atomically."""
        replace_json(run_dir / STATE_FILE, asdict(self))

    def restart(self) -> None:
        """Read the record from its start again, without sending what is already there."""
        self.offset, self.through = 0, max(self.step, self.through)
        self.films = []  # what was filmed after the point of return is filmed again
        self.selection = Selection()
