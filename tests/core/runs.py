"""Small complete runs for tests: composed as the command line does, on the classic level."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from plasticine.api import configure
from plasticine.compose import Parts, assemble_parts
from plasticine.core.checkpoint import Checkpoints
from plasticine.core.tracker import NullTracker, Tracker
from plasticine.core.trainer import Trainer
from plasticine.tracking.local import LocalLog

#: A run of three tasks and a dozen iterations in well under a second.
TINY = (
    "env=classic",
    "env.domain=cartpole",
    "env.shift=offset",
    "env.num_tasks=3",
    "env.cycles=1",
    "env.num_envs=4",
    "env.steps_per_task=256",
    "agent.num_steps=16",
    "agent.num_minibatches=2",
    "agent.epochs=2",
    "network.hidden=[16,16]",
    "metrics.every=3",
    "metrics.probe_size=64",
)


class StopAfter:
    """A stop flag that is raised after so many looks."""

    def __init__(self, looks: int) -> None:
        self.looks = looks

    def is_set(self) -> bool:
        self.looks -= 1
        return self.looks < 0


def config(*overrides: str) -> dict[str, Any]:
    return configure(*TINY, *overrides)


def parts(*overrides: str) -> Parts:
    return assemble_parts(config(*overrides))


def trainer(
    p: Parts,
    *,
    tracker: Tracker | None = None,
    folder: Path | None = None,
    stop: Any = None,
    seed: int = 0,
    save_every: float = float("inf"),
    keep: int = 2,
) -> Trainer:
    return Trainer(
        **p._asdict(),
        tracker=tracker or NullTracker(),
        checkpoints=None if folder is None else Checkpoints(folder / "checkpoints", keep=keep),
        seed=seed,
        save_every=save_every,
        stop=stop or threading.Event(),
        progress=lambda facts: None,
    )


def recorded(
    folder: Path, cfg: dict[str, Any], *, stop: Any = None, save_every: float = float("inf")
) -> Trainer:
    """Run with a local record in `folder` and return the trainer."""
    log = LocalLog(folder)
    t = trainer(
        assemble_parts(cfg), tracker=log, folder=folder, stop=stop, seed=cfg["seed"], save_every=save_every
    )
    log.close(t.fit())
    return t


def series(folder: Path) -> list[Any]:
    """The record without what may differ between two equal runs: wall-clock times, speeds and resume events."""
    rows = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(line)
        row.pop("t")
        if row.get("event") == "resume":
            continue
        for key in ("speed/env_steps_per_s", "summary/env_steps_per_s"):
            row.get("m", {}).pop(key, None)
        rows.append(row)
    return rows


def tensors(t: Trainer) -> dict[str, Any]:
    return {k: v.detach().clone() for k, v in t.learner.state.tensors().items()}
