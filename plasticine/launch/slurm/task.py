"""What a task of a job array does: its runs, each in a process of its own, until they are over or it must leave.

Asked to leave (USR2 ahead of the time limit, TERM from a preemption or a cancellation), it lets its runs save at
their next safe point and ends with the code that makes the batch script queue it again. It ends with 1 if a run
failed, so SLURM's own books say FAILED.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from plasticine.errors import UserError
from plasticine.launch.display import Display
from plasticine.launch.folder import RunFolder, slurm_job
from plasticine.launch.interrupt import Interrupt
from plasticine.launch.job import Job, LaunchError
from plasticine.launch.pool import Pool
from plasticine.launch.provenance import Provenance, moved_here
from plasticine.launch.slurm.ledger import Submission, read_submission
from plasticine.launch.slurm.profile import Profile
from plasticine.launch.slurm.script import LEFT
from plasticine.tracking.jsonfile import read_json

__all__ = ["main"]


class Notice(Interrupt):
    """The signals of SLURM. However many arrive, runs are let save: it is SLURM that kills, in its own time."""

    @property
    def urgent(self) -> bool:
        """Never."""
        return False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        print(f"asked to leave by {signal.Signals(number).name}", flush=True)


class _Log(Display):
    """Starts and ends only: progress is in each run's own folder."""

    def show(self) -> None:
        """Nothing."""


def main(arguments: Sequence[str]) -> int:
    """Carry out the pack of this task; return the exit code of the job.

    Args:
        arguments: Folder of the submission, index of the pack of the array's task 0.
    """
    with Notice() as notice:
        submission = read_submission(Path(arguments[0]))
        pack = submission.packs[int(arguments[1]) + int(os.environ["SLURM_ARRAY_TASK_ID"])]
        jobs = [_job(submission, index) for index in pack]
        print(
            f"{slurm_job()} on {os.uname().nodename}, start {1 + _restarts()}: {len(jobs)} run(s)", flush=True
        )
        if not (submission.path / "stop").exists():
            _carry_out(submission, pack, jobs, notice)
    states = [job.state for job in jobs]
    print(f"{slurm_job()}: {', '.join(states)}", flush=True)
    if notice.is_set() and any(state in ("waiting", "interrupted") for state in states):
        return LEFT
    return 1 if any(state in ("failed", "waiting", "interrupted") for state in states) else 0


def _restarts() -> int:
    return int(os.environ.get("SLURM_RESTART_COUNT", "0"))


def _job(submission: Submission, index: int) -> Job:
    run = submission.runs[index]
    config = submission.configuration(run)
    folder = RunFolder(_runs_dir(submission) / run.dir)
    job = Job.at(config, folder)
    status = folder.status()
    # Failed before this job was queued again: it would only fail again.
    if _restarts() and status.get("state") == "failed" and status.get("slurm_job") == slurm_job():
        job.state, job.error = "failed", str(status.get("error"))
    return job


def _runs_dir(submission: Submission) -> Path:
    return submission.path.parent.parent


def _carry_out(submission: Submission, pack: Sequence[int], jobs: Sequence[Job], notice: Interrupt) -> None:
    todo = [job for job in jobs if job.state == "waiting"]
    if not todo:
        return
    profile = Profile.of(todo[0].config)
    plan = read_json(submission.path / "plan.json") or {}
    diff = (submission.path / "git.diff").read_text(encoding="utf-8")
    provenance = Provenance(moved_here(plan["provenance"], slurm_job()), diff)
    facts = {}
    for index, job in zip(pack, jobs, strict=True):
        known = submission.facts(submission.runs[index])
        if known is not None:
            facts[job.cell] = known
    size = min(profile.parallel_per_job, len(todo))
    pool = Pool(size, provenance, _Log(jobs), notice, retries=profile.retries, fail_fast=profile.fail_fast)
    try:
        pool.start(todo)
        facts.update(pool.check({job.cell: job for job in todo if job.cell not in facts}))
        pool.run(todo, facts, lambda job: print(f"start   {job.name}", flush=True))
    except (LaunchError, UserError) as error:
        print(f"cannot go on: {error}", file=sys.stderr, flush=True)
        for job in todo:
            if job.state == "waiting":
                job.fail(str(error).splitlines()[0], str(error))
    finally:
        pool.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
