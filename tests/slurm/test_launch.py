"""Runs as jobs: from the command to the end of the last of them."""

from __future__ import annotations

import json
import os
import re
import signal
import sqlite3
import time

from tests.launch.conftest import status

SLURM = ["launcher=slurm", "launcher.mem=500M", "launcher.poll_seconds=0.3", "launcher.time=00:05:00"]


def slurm_states(slurm) -> dict[str, str]:
    """State of each array task that SLURM remembers."""
    text = slurm.client(["scontrol", "-o", "show", "job"])
    found = re.findall(r"ArrayJobId=(\d+) ArrayTaskId=(\d+) .*? JobState=(\S+)", text)
    return {f"{job}_{task}": state for job, task, state in found}


def queued(slurm) -> list[str]:
    return slurm.client(["squeue", "-h", "-r", "-o", "%i"]).split()


def wait_until(condition, what: str, timeout: float = 60) -> None:
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"not within {timeout} s: {what}"
        time.sleep(0.1)


def submission(launcher) -> dict:
    (plan,) = launcher.folder.glob("runs/.launches/*/plan.json")
    return json.loads(plan.read_text())


def test_failures_stay_where_they_happen_and_the_same_command_runs_only_those(slurm, launcher):
    switch = launcher.folder.parent / "broken"
    switch.touch()
    line = [
        "-m",
        "env.fault=none,raise,kill",
        "seed=3",
        "tracker=local",
        f"env.while_exists={switch}",
        *SLURM,
    ]
    before = slurm_states(slurm)
    code, out, err = launcher(*line)
    assert code == 1, out + err
    assert launcher.states() == {"none/3": "finished", "raise/3": "failed", "kill/3": "failed"}
    mine = {task: state for task, state in slurm_states(slurm).items() if task not in before}
    assert sorted(mine.values()) == ["COMPLETED", "FAILED", "FAILED"]  # SLURM's books tell the truth
    runs = launcher.runs()
    assert mine[status(runs["none/3"])["slurm_job"]] == "COMPLETED"
    log = (runs["kill/3"] / "log.txt").read_text()
    assert log.count("entering the second task") == 2  # killed: started again, once
    log = (runs["raise/3"] / "log.txt").read_text()
    assert log.count("entering the second task") == 1  # an exception would only happen again
    assert "RuntimeError: the simulator broke" in out
    assert str(runs["kill/3"] / "error.txt") in out
    assert "Traceback" not in err

    switch.unlink()
    done = os.stat(runs["none/3"] / "metrics.jsonl").st_mtime
    code, out, err = launcher(*line)
    assert code == 0, out + err
    assert "1 of 3 run(s) already finished" in out
    assert "submitted 2 run(s)" in out
    assert set(launcher.states().values()) == {"finished"}
    assert os.stat(runs["none/3"] / "metrics.jsonl").st_mtime == done
    facts = json.loads((runs["raise/3"] / "provenance.json").read_text())
    assert len(facts["resumed"]) == 1
    assert facts["resumed"][0]["slurm_job"] == status(runs["raise/3"])["slurm_job"]


def test_what_is_in_the_queue_is_not_submitted_again(slurm, launcher):
    line = [*SLURM, "+launcher.sbatch.hold=true", "launcher.detach=true"]
    both = [launcher.start("-m", "seed=0-2", *line) for _ in range(2)]  # at the same time
    texts = [launcher.wait(process) for process in both]
    assert [code for code, _, _ in texts] == [0, 0], texts
    assert len(queued(slurm)) == 3
    assert sum("submitted 3 run(s)" in out for _, out, _ in texts) == 1
    assert sum("(3 of them were in the queue already)" in out for _, out, _ in texts) == 1

    code, out, _ = launcher("-m", "seed=0-4", *line)
    assert code == 0
    assert "submitted 2 run(s)" in out
    assert len(queued(slurm)) == 5
    # another study, another learning rate: other runs
    code, out, _ = launcher("seed=0", "study=other", *line)
    assert len(queued(slurm)) == 6
    # a submitter that dies after sbatch leaves no note, but its jobs are known by their name
    for state in launcher.folder.glob("runs/.launches/*/state.json"):
        state.unlink()
    code, out, _ = launcher("-m", "seed=0-4", *line)
    assert code == 0
    assert "submitted" not in out
    assert len(queued(slurm)) == 6
    assert not list(launcher.folder.glob("runs/*/*/seed=*/status.json"))


def test_told_to_leave_a_job_saves_queues_again_and_goes_on(slurm, launcher):
    switch = launcher.folder.parent / "wait"
    switch.touch()
    line = ["seed=0", "env.fault=wait", f"env.while_exists={switch}", "tracker=mlflow", "tracker.uri=null",
            "checkpoint.seconds=0", "env.steps_per_task=2048", "launcher.retries=0",
            "--fail-fast", *SLURM]  # fmt: skip
    process = launcher.start(*line)
    (run,) = launcher.wait_for("running")
    job = status(run)["slurm_job"]
    (log,) = launcher.folder.glob("runs/.launches/*/logs/*")
    wait_until((run / "mlflow.json").exists, "the record is being sent")
    launcher.wait_for_log(run, "entering the second task")
    slurm.client(["scancel", "--signal=USR2", job])
    wait_until(lambda: "asked to leave by SIGUSR2" in log.read_text(), "the signal arrives")
    time.sleep(1)  # it is passed on
    switch.unlink()
    launcher.wait_for("interrupted")
    assert 2048 < status(run)["env_steps"] < 4096
    process.send_signal(signal.SIGINT)
    code, out, err = launcher.wait(process)
    assert code == 130, out + err
    first = json.loads((run / "mlflow.json").read_text())["run_id"]
    # It may not be hastened: SLURM waits until the credential of the last start has expired, and a start in the
    # same second as its revocation kills the job.
    launcher.wait_for("finished")  # while nobody is attached
    assert status(run)["slurm_job"] == job
    assert "Restarts=1 " in slurm.client(["scontrol", "-o", "show", "job", job])
    facts = json.loads((run / "provenance.json").read_text())
    assert len(facts["resumed"]) == 1
    assert "start 2: 1 run(s)" in log.read_text()

    code, out, err = launcher(*line)  # sends what is left
    assert code == 0, out + err
    assert "submitted" not in out
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    points = [(line["s"], key) for line in lines for key in line.get("m", {})]
    assert sorted({step for step, _ in points}) == list(
        range(256, 4097, 256)
    )  # no iteration twice or left out
    database = sqlite3.connect(launcher.folder / "mlflow.db")
    seeds = (
        "select run_uuid, status from runs join tags using (run_uuid) where key = 'kind' and value = 'seed'"
    )
    assert database.execute(seeds).fetchall() == [(first, "FINISHED")]
    query = "select step, key from metrics where run_uuid = ? and key not like 'system/%'"
    stored = database.execute(query, (first,)).fetchall()
    database.close()
    assert len(set(stored)) == len(stored)
    assert set(points) <= set(stored)
