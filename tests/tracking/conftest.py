"""A prepared SQLite store (made once, copied for each test) and folders that look like runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

import plasticine
from plasticine.tracking.local import LocalLog
from plasticine.tracking.store import artifact_root, connect, prepare_store, resolve_uri

STUDY = "grid"


@pytest.fixture(scope="session")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    prepare_store(
        resolve_uri(None, folder), "other", artifact_root(resolve_uri(None, folder), folder, "other")
    )
    return folder / "mlflow.db"


@pytest.fixture
def launch(tmp_path, template, monkeypatch) -> Path:
    """A launch folder whose store is there already; the package is importable by child processes."""
    paths = [str(Path(plasticine.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    shutil.copy(template, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def make_run() -> Callable[..., Path]:
    def make(
        launch: Path,
        seed: int = 0,
        params: dict | None = None,
        log_lines: int | None = None,
        method: str = "snp",
        cell: str = "12345678",
        **tracker,
    ) -> Path:
        run_dir = launch / "runs" / STUDY / f"{method}.ppo.toy-{cell}" / f"seed={seed}"
        run_dir.mkdir(parents=True)
        settings = {"kind": "mlflow", "uri": None, "experiment": None}
        settings |= {"per_network": False, "max_keys": 40, "max_points": 2000, **tracker}
        (run_dir / "config.yaml").write_text(yaml.safe_dump({"study": STUDY, "tracker": settings}))
        card = {
            "name": f"{method} s{seed} · ppo · toy",
            "study": STUDY,
            "level": "shift",
            "env": "toy",
            "method": method,
            "agent": "ppo",
            "seed": seed,
            "cell": cell,
            "params": {"agent.lr": 0.001, "env.tasks[0]": None, **(params or {})},
            "tags": {"plasticine.version": plasticine.__version__, "budget": "smoke"},
            "log_lines": log_lines,
        }
        (run_dir / "run.json").write_text(json.dumps(card))
        (run_dir / "provenance.json").write_text("{}")
        (run_dir / "log.txt").write_text("hello\n")
        return run_dir

    return make


@pytest.fixture
def write_lines() -> Callable[..., LocalLog]:
    def write(run_dir: Path, steps: range, log: LocalLog | None = None) -> LocalLog:
        log = log or LocalLog(run_dir)
        for step in steps:
            log.log({"train/episodic_return": step / 2, "loss/value": 1.0 / (step + 1)}, step)
        log.commit(log.mark())
        return log

    return write


class Seen:
    """What MLflow shows of the runs of a launch folder."""

    def __init__(self, launch: Path, study: str = STUDY) -> None:
        self.client = connect(resolve_uri(None, launch))
        self.experiment = self.client.get_experiment_by_name(study)

    @property
    def runs(self) -> list:
        """The runs that are runs, not those that sum them up."""
        return self.kind("seed")

    def kind(self, kind: str) -> list:
        query = f"tags.kind = '{kind}'"
        return (
            list(self.client.search_runs([self.experiment.experiment_id], query)) if self.experiment else []
        )

    @property
    def run(self):
        (run,) = self.runs
        return run

    def history(self, key: str) -> list[tuple[int, float]]:
        return [(m.step, m.value) for m in self.client.get_metric_history(self.run.info.run_id, key)]

    def artifact(self, name: str) -> str:
        return self.artifact_of(self.run, name)

    def artifact_of(self, run, name: str) -> str:
        root = Path(run.info.artifact_uri.removeprefix("file://"))
        return (root / name).read_text()


@pytest.fixture
def seen() -> type[Seen]:
    return Seen
