"""The disk of the runs is full, or a signal comes at a bad moment: one run has trouble, the launch goes on."""

from __future__ import annotations

import errno
import json
import types
from pathlib import Path

import pytest

from plasticine.launch.display import Display
from plasticine.launch.folder import RunFolder
from plasticine.launch.interrupt import Interrupt
from plasticine.launch.job import Job, UnwritableError, carry_out
from plasticine.launch.pool import Pool
from plasticine.launch.provenance import Provenance
from plasticine.launch.slurm import cluster
from plasticine.launch.slurm.ledger import Ledger
from plasticine.launch.slurm.submit import Submitter
from plasticine.launch.slurm.watch import Watch

FULL = OSError(errno.ENOSPC, "No space left on device")


def full(*_args, **_more):
    raise FULL


class Lines(Display):
    """Keeps what is told."""

    def __init__(self, jobs) -> None:
        super().__init__(jobs)
        self.lines: list[str] = []

    def log(self, text: str) -> None:
        self.lines.append(text)

    def show(self) -> None:
        pass


@pytest.fixture
def job(tmp_path) -> Job:
    config = {
        "seed": 0, "study": "s", "agent": {"_target_": "a.b.PPO"}, "env": {"_target_": "a.b.Env"}, "method": {},
    }  # fmt: skip
    folder = RunFolder(tmp_path / "runs" / "s" / "cell" / "seed=0")
    folder.path.mkdir(parents=True)
    return Job(config, folder, state="running")


def pool_with(job: Job, **more) -> tuple[Pool, Lines]:
    lines = Lines([job])
    return Pool(1, Provenance({}, ""), lines, Interrupt(), **more), lines


WORKER = types.SimpleNamespace(error_tail="the last words")


def test_a_run_whose_failure_cannot_be_written_down_does_not_end_the_launch(job, monkeypatch):
    monkeypatch.setattr(RunFolder, "write_error", full)
    pool, lines = pool_with(job)
    pool._bury(job, WORKER, 1)
    assert job.state == "failed"
    assert job.error == "its process ended with exit code 1"
    assert any("cannot be written down" in line and "No space left" in line for line in lines.lines)


def test_a_process_that_a_signal_ends_before_it_can_save_is_interrupted_not_failed(job):
    pool, _ = pool_with(job)
    pool._stopping = True
    pool._bury(job, WORKER, -15)
    assert job.state == "interrupted"
    assert job.folder.status()["state"] == "interrupted"
    job.state = "running"
    pool._bury(job, WORKER, 1)  # an exception, also while stopping, is a failure
    assert job.state == "failed"
    again, _ = pool_with(job, retries=1)
    job.attempts = 1
    again._bury(job, WORKER, -15)
    assert job.state == "waiting"


def test_what_went_wrong_is_told_even_if_the_folder_cannot_say_it(job, monkeypatch):
    import plasticine.run

    monkeypatch.setattr(plasticine.run, "execute", full)
    monkeypatch.setattr(RunFolder, "describe", lambda *_: None)
    monkeypatch.setattr(RunFolder, "write_error", full)
    result = carry_out(job.config, job.folder, {}, Provenance({}, ""), Interrupt(), print, capture=False)
    assert result["outcome"] == "failed"
    assert result["error"].startswith("OSError: [Errno 28] No space left on device (not written down")


def test_an_interrupted_rewrite_leaves_the_old_configuration(job, monkeypatch):
    from plasticine.tracking import jsonfile

    path = job.folder.path / "config.yaml"
    path.write_text("seed: 0\n")
    monkeypatch.setattr(jsonfile.os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        jsonfile.replace_text(path, "seed: 1\n")
    assert path.read_text() == "seed: 0\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["config.yaml"]


def test_half_a_plan_is_no_plan(job, tmp_path, monkeypatch):
    ledger = Ledger(tmp_path / "runs")
    monkeypatch.setattr("plasticine.launch.slurm.ledger.replace_json", full)
    with pytest.raises(OSError, match="No space"):
        ledger.create([job], {}, [[0]], {}, "")
    assert list(ledger.path.iterdir()) == []


def test_a_submission_that_cannot_be_written_is_tried_again(job, tmp_path, monkeypatch):
    monkeypatch.setattr(cluster, "queue", lambda _users: {})
    tried = []

    class Flaky(Submitter):
        def __init__(self) -> None:
            self.ledger = Ledger(tmp_path / "runs")
            self.profile = types.SimpleNamespace(retries=0, fail_fast=False, poll_seconds=0.0)

        def claim(self, jobs, display):
            tried.append(len(jobs))
            if len(tried) < 3:
                raise UnwritableError("the submission cannot be written down: full")
            jobs[0].folder.write_status("finished", {}, summary={"final_return": 1.0})
            jobs[0].state = "finished"
            return {}, 0

    monkeypatch.setattr("plasticine.launch.slurm.watch._SUBMIT_EVERY", 0.0)
    job.state, lines = "waiting", Lines([job])
    Watch([job], {}, Flaky(), lines, Interrupt(), print).follow()
    assert tried == [1, 1, 1]
    assert job.state == "finished"
    assert [line for line in lines.lines if "I keep trying" in line] == lines.lines[:2]


def test_a_full_disk_is_told_in_one_line_by_the_submitter(job, tmp_path, monkeypatch):
    submitter = Submitter(Ledger(tmp_path / "runs"), types.SimpleNamespace(), Provenance({}, ""), {})
    monkeypatch.setattr(Ledger, "claims", lambda _self: {})
    monkeypatch.setattr(Submitter, "_submit", full)
    with pytest.raises(UnwritableError, match=r"cannot be written down: .*No space left"):
        submitter.claim([job], Lines([job]))


def test_a_failure_that_cannot_be_recorded_is_shown_all_the_same(job, tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "write_error", full)
    lines = Lines([job])
    watch = Watch([job], {}, types.SimpleNamespace(profile=None), lines, Interrupt(), print)
    watch._record(job, "its job ended without it", "details")
    assert job.state == "failed"
    assert any("cannot be written down" in line for line in lines.lines)
    assert json.loads(Path(job.folder.path / "lock").read_text() or "null") is None
