"""Everything is killed at once in the middle of a multirun; the same command ends as if nothing had happened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from plasticine.api import configure
from tests.core.runs import series
from tests.launch.conftest import children

LINE = (
    "method=[snp,redo]", "env=classic", "-m", "seed=0-1", "budget=smoke", "env.steps_per_task=61440",
    "env.num_tasks=2", "agent.epochs=2", "metrics.every=5", "checkpoint.seconds=0.3", "tracker=mlflow",
)  # fmt: skip


def start(folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "plasticine.cli.run", *LINE]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL)


def kill_everything(process: subprocess.Popen[bytes]) -> None:
    for pid in [process.pid, *children(process.pid)]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.wait()


def read(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return {}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One folder in which the runs were never disturbed, one in which everything was killed twice."""
    whole = tmp_path_factory.mktemp("whole")
    assert start(whole).wait(timeout=240) == 0
    killed = tmp_path_factory.mktemp("killed")
    ids: set[str] = set()
    for _ in range(2):
        process = start(killed)
        end, before = time.monotonic() + 120, total(killed)
        # Killed once points of this life have reached MLflow and more have been written since.
        while not (total(killed) > before + 4000 and all_pushed(killed)):
            assert time.monotonic() < end
            assert process.poll() is None, "it was over before it could be killed"
            time.sleep(0.02)
        kill_everything(process)
        ids |= {read(p)["run_id"] for p in killed.rglob("mlflow.json")}
    assert start(killed).wait(timeout=240) == 0
    return whole, killed, ids


def total(folder: Path) -> int:
    return sum(read(p).get("step") or 0 for p in folder.rglob("committed.json"))


def all_pushed(folder: Path) -> bool:
    states = [read(p) for p in folder.rglob("mlflow.json")]
    return len(states) == 2 and all((s.get("step") or 0) > 0 for s in states)


def runs_by_seed(folder: Path):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [e.experiment_id for e in client.search_experiments() if e.name == "default"]
    return client, {r.data.params["seed"]: r for r in client.search_runs(experiments, "tags.kind = 'seed'")}


def test_the_record_is_that_of_an_undisturbed_run(folders):
    whole, killed, _ = folders
    paths = sorted(p.parent.relative_to(whole) for p in whole.glob("runs/**/metrics.jsonl"))
    assert len(paths) == 2
    for path in paths:
        assert series(whole / path) == series(killed / path)


def test_the_same_mlflow_runs_go_on_without_a_gap_or_a_point_twice(folders):
    whole, killed, ids = folders
    client, runs = runs_by_seed(killed)
    reference_client, reference = runs_by_seed(whole)
    assert set(runs) == set(reference) == {"0", "1"}
    assert {r.info.run_id for r in runs.values()} == ids
    for seed, run in runs.items():
        assert run.info.status == "FINISHED"
        twin = reference[seed]
        assert set(run.data.metrics) == set(twin.data.metrics)
        assert len(run.data.metrics) <= 40
        for key in ("loss/value_loss", "train/episodic_return", "plasticity/srank", "summary/final_return"):
            points = [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, key)]
            expected = [(m.step, m.value) for m in reference_client.get_metric_history(twin.info.run_id, key)]
            assert len({s for s, _ in points}) == len(points)
            assert sorted(points) == sorted(expected)


def test_every_run_carries_what_is_needed_to_group_and_to_repeat_it(folders):
    whole, _, _ = folders
    client, runs = runs_by_seed(whole)
    for seed, run in runs.items():
        for data in (run.data.params, run.data.tags):
            found = {k: data[k] for k in ("study", "level", "env", "method", "agent", "seed")}
            assert found == {
                "study": "default", "level": "continual", "env": "classic/cartpole",
                "method": "snp+redo", "agent": "ppo", "seed": seed,
            }  # fmt: skip
        names = {a.path for a in client.list_artifacts(run.info.run_id)}
        assert {"config.yaml", "provenance.json"} <= names
        keys = set(run.data.metrics)
        assert {
            "train/episodic_return",
            "train/episodic_length",
            "task/index",
            "speed/env_steps_per_s",
        } <= keys
        assert {k for k in keys if k.startswith("plasticity/")} == {
            f"plasticity/{m}" for m in configure("env=classic")["metrics"]["set"]
        }
