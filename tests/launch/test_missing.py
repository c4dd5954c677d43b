"""Runs that were asked for on this machine and never began."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from plasticine.api import configure
from plasticine.launch.folder import RunFolder
from plasticine.launch.job import Job
from plasticine.launch.slurm.ledger import Ledger
from plasticine.launch.survey import configuration, survey
from tests.launch.test_survey import command

PROVENANCE = {"command": "plasticine-run", "time": "now"}


def jobs(folder: Path, *seeds: int) -> list[Job]:
    config = configure("env=classic", "budget=smoke", "tracker=local", "study=s")
    return [Job.of({**config, "seed": seed}, folder) for seed in seeds]


def states(folder: Path) -> dict[str, str]:
    return {seen.path.name: seen.state for seen in survey(folder / "runs").runs}


def plans(folder: Path) -> list[list[int]]:
    return [[run.seed for run in made.runs] for made in Ledger(folder / "runs").submissions()]


def test_a_launch_says_what_it_is_going_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: None)  # no SLURM: nothing of this is its business
    ledger, some = Ledger(tmp_path / "runs"), jobs(tmp_path, 0, 1)
    facts = {some[0].cell: {"level": "continual"}}
    with ledger.announced(some, facts, PROVENANCE, ""):
        assert states(tmp_path) == {"seed=0": "queued", "seed=1": "queued"}
        some[0].folder.path.mkdir(parents=True)
        some[0].folder.write_status("failed", {}, error="it broke")
        assert states(tmp_path) == {"seed=0": "failed", "seed=1": "queued"}
    found = survey(tmp_path / "runs")
    assert found.warning == ""
    assert [seen.state for seen in found.runs] == ["failed", "missing"]
    missing = found.runs[1]
    assert (missing.group, missing.level) == (("vanilla", "ppo", "classic/cartpole"), "continual")
    assert configuration(missing) == some[1].config
    assert ledger.claims() == {}


def test_a_larger_request_takes_the_place_of_a_smaller_one(tmp_path):
    ledger = Ledger(tmp_path / "runs")
    with ledger.announced(jobs(tmp_path, 0, 1), {}, PROVENANCE, ""):
        pass
    with ledger.announced(jobs(tmp_path, 5), {}, PROVENANCE, ""):
        pass
    assert plans(tmp_path) == [[0, 1], [5]]
    with ledger.announced(jobs(tmp_path, 0, 1, 2), {}, PROVENANCE, ""):
        assert plans(tmp_path) == [[5], [0, 1, 2]]
        with ledger.announced(
            jobs(tmp_path, 0, 1, 2), {}, PROVENANCE, ""
        ):  # by somebody else, at the same time
            assert plans(tmp_path) == [[5], [0, 1, 2], [0, 1, 2]]
    with ledger.announced(jobs(tmp_path, 1), {}, PROVENANCE, ""):
        pass
    assert [set(seeds) for seeds in plans(tmp_path)][-1] == {1}
    assert set(states(tmp_path)) == {f"seed={seed}" for seed in (0, 1, 2, 5)}


def test_a_plan_that_was_not_written_to_its_end_is_none(tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("plasticine.launch.slurm.ledger.replace_json", killed)
    ledger = Ledger(tmp_path / "runs")
    with pytest.raises(KeyboardInterrupt), ledger.announced(jobs(tmp_path, 0, 1), {}, PROVENANCE, ""):
        pass
    assert states(tmp_path) == {}


def test_a_killed_launch_is_missed_and_can_be_made_up_for(launcher):
    switch = launcher.folder.parent / "wait"
    switch.touch()
    line = ["-m", "seed=0-2", "env.fault=wait", f"env.while_exists={switch}", "env.steps_per_task=40960",
            "tracker=local", "launcher.workers=1"]  # fmt: skip
    process = launcher.start(*line)
    (begun,) = launcher.wait_for("running")
    launcher.wait_for_log(begun, "entering the second task")
    assert sorted(states(launcher.folder).values()) == ["queued", "queued", "running"]
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=60)
    time.sleep(1)  # the worker notices
    switch.unlink()
    _wait_until_free(begun)
    assert sorted(states(launcher.folder).values()) == ["interrupted", "missing", "missing"]
    code, out = command(launcher, "status", "default")
    assert code == 0
    assert "1 interrupted, 2 missing" in out
    assert "2 asked for and not begun: plasticine retry default --all starts them" in out
    code, out = command(launcher, "retry", "default", "--all")
    assert code == 0, out
    assert set(states(launcher.folder).values()) == {"done"}
    assert len(launcher.runs()) == 3


def _wait_until_free(path: Path) -> None:
    """Wait until the worker has noticed that nobody is there any more."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with RunFolder(path).locked() as mine:
            if mine:
                return
        time.sleep(0.1)
    raise AssertionError("the run's process goes on")
