"""An installed package of somebody else adds every kind of part without a line of ours being changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from plasticine import make
from tests.core.runs import series
from tests.core.test_trainer import Memory
from tests.outsider.pages import ROOT, shell, write_files

PYPROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "mylab"
version = "0.1"

[project.entry-points."plasticine.configs"]
mylab = "my_conf"

[tool.hatch.build.targets.wheel]
include = ["my_*.py", "my_conf"]
"""
OURS = "agent=my_agent method=[my_method,my_reset] env=my_env metrics=my_metrics network=my_network"


class Lab(NamedTuple):
    """Folder of the source, and the one it was installed into."""

    source: Path
    site: Path


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    source, site = (tmp_path_factory.mktemp(name) for name in ("mylab", "site"))
    write_files(source)
    (source / "pyproject.toml").write_text(PYPROJECT, encoding="utf-8")
    (source / "my_conf" / "__init__.py").touch()
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--quiet")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *offline, "--target", site, source],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Lab(source, site)


def test_help_lists_its_parts(lab: Lab, tmp_path: Path) -> None:
    done = shell("plasticine-run --help", tmp_path, PYTHONPATH=str(lab.site))
    assert done.returncode == 0, done.stderr
    words = done.stdout.split()
    assert {"my_agent", "my_env", "my_method", "my_reset", "my_metrics", "my_network"} <= set(words)
    without = shell("plasticine-run --help", tmp_path)
    assert "my_agent" not in without.stdout.split()


def test_a_killed_run_of_its_parts_resumes_exactly(lab: Lab, tmp_path: Path) -> None:
    """Level, agent, method, metric and network of the package at once; SIGKILL, and the same command again."""
    words = f"{OURS} budget=smoke tracker=local launcher=debug checkpoint.seconds=0 metrics.every=3"
    words = f"{words} agent.num_steps=16 env.num_envs=4 env.steps_per_task=1280 evaluation.every=null"
    for name in ("whole", "killed"):
        (tmp_path / name).mkdir()
    done = shell(f"plasticine-run {words}", tmp_path / "whole", PYTHONPATH=str(lab.site))
    assert done.returncode == 0, done.stdout + done.stderr
    (whole,) = (tmp_path / "whole").glob("runs/*/*/seed=0")

    command = [sys.executable, "-m", "plasticine.cli.run", *words.split()]
    env = {**os.environ, "PYTHONPATH": f"{lab.site}:{ROOT}", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(command, cwd=tmp_path / "killed", env=env, stdout=log, stderr=log)
        end = time.monotonic() + 120
        while child.poll() is None and not list(
            (tmp_path / "killed").glob("runs/*/*/*/checkpoints/*1920.ckpt")
        ):
            assert time.monotonic() < end, (tmp_path / "log").read_text()
            time.sleep(0.002)
        assert child.poll() is None, "it ended before it could be killed:\n" + (tmp_path / "log").read_text()
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    (killed,) = (tmp_path / "killed").glob("runs/*/*/seed=0")
    assert series(killed) != series(whole)
    done = shell(f"plasticine-run {words}", tmp_path / "killed", PYTHONPATH=str(lab.site))
    assert done.returncode == 0, done.stdout + done.stderr
    assert killed.parent.name == whole.parent.name
    assert killed.parent.name.startswith("my_method+my_reset.reinforce.windy-")
    assert series(killed) == series(whole)
    kinds = [row.get("event") for row in series(whole)]
    assert kinds.count("task_start") == 3
    assert kinds.count("intervention") == 2
    assert any("plasticity/near_zero/policy" in row.get("m", {}) for row in series(whole))


def test_its_parts_train_from_python(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """And REINFORCE learns: on average the rod stands longer at the end than at the beginning."""
    monkeypatch.syspath_prepend(str(lab.source))
    trainer = make(
        *OURS.replace("[my_method,my_reset]", "my_method").split(),
        "env.winds=[0.0]",
        "env.steps_per_task=20000",
        "evaluation.every=null",
        "agent.num_steps=32",
        "agent.lr=1e-2",
        "metrics.every=100",
        config_dir=lab.source / "my_conf",
    )
    trainer.tracker = memory = Memory()
    assert trainer.fit() == "finished"
    returns = [e.episodic_return for e in memory.finished]
    first, last = (sum(part) / len(part) for part in (returns[:50], returns[-50:]))
    assert first < 12
    assert last > 18
