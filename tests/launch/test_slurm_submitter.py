"""Claiming, submitting and following runs, with a SLURM made of a dictionary."""

from __future__ import annotations

import json
import time

import pytest

from plasticine.launch.display import Display, overall
from plasticine.launch.folder import RunFolder
from plasticine.launch.interrupt import Interrupt
from plasticine.launch.job import Job
from plasticine.launch.provenance import Provenance
from plasticine.launch.slurm import cluster, submit, watch
from plasticine.launch.slurm.ledger import Array, Ledger
from plasticine.launch.slurm.script import ArrayScript
from plasticine.launch.slurm.submit import Submitter
from plasticine.launch.slurm.watch import Watch
from tests.launch.test_slurm_parts import config, profile


class Fake:
    """A SLURM made of a dictionary."""

    def __init__(self, monkeypatch) -> None:
        self.tasks: dict[str, cluster.LiveTask] = {}
        self.ends: dict[str, str] = {}
        self.cancelled: list[str] = []
        self.arrays = 0
        monkeypatch.setattr(cluster, "queue", lambda users: dict(self.tasks))
        monkeypatch.setattr(cluster, "final_state", lambda task: self.ends.get(task, ""))
        monkeypatch.setattr(cluster, "config", lambda: {"MaxArraySize": "3", "MaxJobCount": "20"})
        monkeypatch.setattr(cluster, "cancel", lambda tasks, pending_only: self.cancelled.extend(tasks))
        monkeypatch.setattr(submit.ArrayScript, "submit", lambda script: self.submit(script))
        monkeypatch.setattr(watch, "_GRACE", 0.0)

    def submit(self, script: ArrayScript) -> str:
        self.arrays += 1
        for task in range(script.tasks):
            self.tasks[f"{self.arrays}_{task}"] = cluster.LiveTask(script.name, "PENDING", "Priority")
        return str(self.arrays)


@pytest.fixture
def fake(monkeypatch):
    return Fake(monkeypatch)


def submitter(tmp_path, **launcher) -> Submitter:
    facts = {"time": "t", "host": "h", "git": {"plasticine": None}}
    return Submitter(
        Ledger(tmp_path / "runs"), profile(snapshot=False, **launcher), Provenance(facts, ""), {}
    )


def test_claims_are_read_off_the_names_in_the_queue(tmp_path, fake):
    (tmp_path / "runs").mkdir()
    ours = submitter(tmp_path, runs_per_job=2)
    jobs = [Job.of(config(seed), tmp_path) for seed in range(9)]
    claims, count = ours.claim(jobs, Display(jobs))
    assert count == 9
    assert [claims[ours.key(job)].task for job in jobs] == [
        "1_0",
        "1_0",
        "1_1",
        "1_1",
        "1_2",
        "1_2",
        "2_0",
        "2_0",
        "2_1",
    ]
    (made,) = ours.ledger.submissions()
    assert made.arrays == [Array("1", 0, 3, None), Array("2", 3, 2, None)]
    assert made.configuration(made.runs[4]) == jobs[4].config
    assert len(list((made.path / "configs").iterdir())) == 1  # one for all seeds
    fake.tasks["7_0"] = cluster.LiveTask("somebody-else", "RUNNING", "")
    fake.tasks["8_0"] = cluster.LiveTask(
        "plasticine-20200101-000000-abcd.0", "RUNNING", ""
    )  # of another runs_dir
    del fake.tasks["2_0"]
    assert set(ours.ledger.claims()) == {
        ours.key(job) for job in jobs if int(job.config["seed"]) not in (6, 7)
    }
    claims, count = ours.claim(jobs, Display(jobs))
    assert count == 2
    assert [claims[ours.key(job)].task for job in jobs[6:8]] == ["3_0", "3_0"]


def test_what_the_queue_has_no_room_for_is_submitted_later(tmp_path, fake, capsys):
    (tmp_path / "runs").mkdir()
    ours = submitter(tmp_path, max_parallel=4)
    jobs = [Job.of(config(seed), tmp_path) for seed in range(25)]
    eyes = follow(tmp_path, jobs, ours)
    assert len(fake.tasks) == 20  # MaxJobCount
    (first,) = ours.ledger.submissions()
    assert sum(array.limit for array in first.arrays[:4]) == 4
    assert "waiting" in overall(jobs, 0.0)

    def look() -> None:
        eyes._ask_again = 0.0
        eyes._look()

    look()
    assert len(fake.tasks) == 20

    def end(*arrays: str) -> None:
        for job in jobs:
            claim = eyes._claims.get(ours.key(job))
            if claim and claim.task.startswith(arrays):
                write(job, "finished", claim.task)
                del fake.tasks[claim.task]
        look()

    end("1_", "2_")
    assert len(ours.ledger.submissions()) == 1  # there is room, but the arrays behind these two run instead
    end("3_", "4_")
    second = ours.ledger.submissions()[-1]
    assert [(array.tasks, array.limit) for array in second.arrays] == [(3, 1), (2, 1)]
    assert len(fake.tasks) == 20 - 12 + 5
    assert all(ours.key(job) in eyes._claims for job in jobs)

    ours = submitter(tmp_path, max_submitted=12, runs_per_job=2)
    more = [Job.of({**config(seed), "study": "t"}, tmp_path) for seed in range(9)]
    fake.tasks = dict(list(fake.tasks.items())[:9])
    claims, count = ours.claim(more, Display(more))
    assert (len(claims), count) == (6, 6)  # three jobs of two runs
    assert ours.limit == 12


def follow(tmp_path, jobs, ours) -> Watch:
    claims, _ = ours.claim(jobs, Display(jobs))
    made = Watch(jobs, claims, ours, Display(jobs), Interrupt(), lambda job: None)
    made._look()
    return made


def write(job: Job, state: str, task: str, **more) -> None:
    job.folder.path.mkdir(parents=True, exist_ok=True)
    content = {"state": state, "slurm_job": task, "updated": time.time(), **more}
    (job.folder.path / "status.json").write_text(json.dumps(content))


def test_the_watch_believes_folders_first_and_the_queue_second(tmp_path, fake, capsys):
    (tmp_path / "runs").mkdir()
    ours = submitter(tmp_path, retries=1)
    jobs = [Job.of(config(seed), tmp_path) for seed in range(6)]
    write(jobs[0], "failed", "0_0", error="of an earlier job")
    eyes = follow(tmp_path, jobs, ours)
    assert {job.state for job in jobs} == {"waiting"}
    assert "6 waiting (Priority)" in overall(jobs, time.monotonic())

    tasks = [eyes._claims[ours.key(job)].task for job in jobs]
    for task in tasks:
        fake.tasks[task] = fake.tasks[task]._replace(state="RUNNING", reason="None")
    for job, task in zip(jobs, tasks, strict=True):
        write(job, "running", task, env_steps=1, total_env_steps=2)
    eyes._look()
    assert {job.state for job in jobs} == {"running"}

    write(jobs[0], "finished", tasks[0], summary={"final_return": 1.0})
    write(jobs[1], "failed", tasks[1], error="it broke")
    for index in (0, 2, 3):
        del fake.tasks[tasks[index]]
    fake.ends = {tasks[2]: "CANCELLED", tasks[3]: "NODE_FAIL"}
    fake.tasks[tasks[4]] = fake.tasks[tasks[4]]._replace(state="PENDING", reason="BeginTime")  # requeued
    eyes._look()
    eyes._look()
    assert [job.state for job in jobs[:3]] == ["finished", "failed", "interrupted"]
    assert jobs[1].error == "it broke"
    assert jobs[3].state == "waiting"  # the node's fault: submitted once more
    assert (jobs[4].state, jobs[4].note) == ("waiting", "BeginTime")
    assert jobs[5].state == "running"
    again = eyes._claims[ours.key(jobs[3])].task
    assert again != tasks[3]
    del fake.tasks[again]
    eyes._look()
    eyes._look()
    assert jobs[3].state == "failed"
    assert "SLURM has forgotten how" in jobs[3].error
    assert RunFolder(jobs[3].folder.path).status()["error"] == jobs[3].error
    assert fake.cancelled == []


def test_fail_fast_cancels_what_waits(tmp_path, fake, capsys):
    (tmp_path / "runs").mkdir()
    ours = submitter(tmp_path, fail_fast=True)
    jobs = [Job.of(config(seed), tmp_path) for seed in range(3)]
    eyes = follow(tmp_path, jobs, ours)
    tasks = [eyes._claims[ours.key(job)].task for job in jobs]
    eyes._stop_waiting()
    assert fake.cancelled == []
    fake.tasks[tasks[1]] = fake.tasks[tasks[1]]._replace(state="RUNNING")
    write(jobs[1], "failed", tasks[1], error="it broke")
    eyes._look()
    eyes._stop_waiting()
    assert fake.cancelled == [tasks[0], tasks[2]]
    assert "fail_fast" in capsys.readouterr().out
