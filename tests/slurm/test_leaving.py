"""Jobs that are told to leave with TERM, jobs that SLURM itself queues again, and fail-fast with nobody attached."""

from __future__ import annotations

import json

from tests.launch.conftest import status
from tests.slurm.store_count import series
from tests.slurm.test_launch import SLURM, queued, slurm_states, wait_until


def resumes(run) -> list[int]:
    """Env steps at which a run went on."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["s"] for line in lines if line.get("event") == "resume"]


def restarts(slurm, job: str) -> int:
    text = slurm.client(["scontrol", "-o", "show", "job", job])
    return int(text.partition("Restarts=")[2].partition(" ")[0])


def test_a_job_that_gets_term_or_is_requeued_by_slurm_goes_on_where_it_was(slurm, launcher):
    size = ["tracker=local", "env.steps_per_task=98304", "checkpoint.seconds=3600"]
    code, out, err = launcher("seed=0", "launcher.detach=true", "launcher.check=false", *size, *SLURM)
    assert code == 0, out + err
    (run,) = launcher.wait_for("running", steps=1)
    job = status(run)["slurm_job"]
    # A preemption sends TERM first; the job saves, ends, and its script queues it again.
    slurm.client(["scancel", "--signal=TERM", job])
    launcher.wait_for("interrupted")
    saved = status(run)["env_steps"]
    assert 0 < saved < 2 * 98304
    wait_until(lambda: restarts(slurm, job) == 1, "the job's script queues it again")
    # SLURM takes the job back itself: TERM, and it queues it again. The script must not do so a second time.
    launcher.wait_for("running", steps=saved + 1)
    slurm.client(["scontrol", "requeue", job])
    launcher.wait_for("interrupted")
    assert status(run)["env_steps"] > saved
    launcher.wait_for("finished")
    wait_until(lambda: slurm_states(slurm).get(job) == "COMPLETED", "SLURM notes the end")
    assert restarts(slurm, job) == 2
    assert len(list(launcher.folder.glob("runs/*/*/seed=*"))) == 1

    # Nothing but those two saves was there to go on from, as no checkpoint is made in an hour.
    found = resumes(run)
    assert len(found) == 2
    assert 0 < saved == found[0] < found[1]
    (launcher.folder / "calm").mkdir()
    launcher.folder = launcher.folder / "calm"
    code, out, err = launcher("seed=0", "launcher=local", *size)
    assert code == 0, out + err
    (calm,) = launcher.folder.glob("runs/*/*/seed=0")
    assert series(calm) == series(run)


def test_fail_fast_works_with_nobody_attached(slurm, launcher):
    line = ["-m", "env.fault=raise,none", "seed=0-1", "tracker=local", "launcher.check=false",
            "launcher.max_parallel=1", "launcher.detach=true", *SLURM]  # fmt: skip
    code, out, err = launcher(*line, "--fail-fast")
    assert code == 0, out + err
    assert "detached: 4 run(s)" in out
    launcher.wait_for("failed")
    wait_until(lambda: not queued(slurm), "what waits is cancelled")
    assert set(launcher.states().values()) == {"failed"}
    assert len(launcher.states()) < 4  # the others never began
    assert list(launcher.folder.glob("runs/*/*/seed=*/error.txt"))

    code, out, err = launcher(*line)  # without it: everything has its turn
    assert code == 0, out + err
    wait_until(lambda: not queued(slurm), "all jobs are over", 90)
    assert sorted(launcher.states().values()) == ["failed", "failed", "finished", "finished"]
