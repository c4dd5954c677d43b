"""How runs become tasks, tasks become arrays, and what that may cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from plasticine.launch.folder import RunFolder
from plasticine.launch.job import Job
from plasticine.launch.slurm.profile import Profile, minutes

__all__ = ["Chunk", "Estimate", "chunks", "estimate", "packs", "speed", "throttles"]


class Chunk(NamedTuple):
    """An array to submit.

    Attributes:
        first: Index of the pack that its task 0 carries out.
        tasks: Their number.
        limit: Tasks that may run at the same time; None: as many as fit.
        after: Position of the chunk that must be over before this one starts; None: none.
    """

    first: int
    tasks: int
    limit: int | None
    after: int | None


class Estimate(NamedTuple):
    """What a submission may use.

    Attributes:
        limit_hours: Hours of one slot (core or GPU) if every job takes all its time.
        likely_hours: From the speed of finished runs of the same kind; None if there is none.
        measured: How many of those were found.
    """

    limit_hours: float
    likely_hours: float | None
    measured: int


def packs(runs: int, per_job: int) -> list[list[int]]:
    """Return the indices of the runs of each task."""
    return [list(range(start, min(start + per_job, runs))) for start in range(0, runs, per_job)]


def chunks(tasks: int, largest: int, max_parallel: int | None) -> list[Chunk]:
    """Split tasks into arrays that share one limit of parallel jobs.

    SLURM limits each array by itself. The limit is shared out among as many arrays as it allows to run side by
    side; if there are more arrays than that, the others each wait for one of these to be over.

    Args:
        tasks: Number of tasks.
        largest: Tasks that one array may have.
        max_parallel: Jobs that may run at the same time; None: as many as fit.
    """
    count = -(-tasks // largest)
    sizes = [tasks // count + (index < tasks % count) for index in range(count)]
    lanes = count if max_parallel is None else min(count, max_parallel)
    shares = throttles(lanes, max_parallel)
    found = []
    first = 0
    for index, size in enumerate(sizes):
        after = index - lanes if index >= lanes else None
        found.append(Chunk(first, size, shares[index % lanes], after))
        first += size
    return found


def throttles(arrays: int, max_parallel: int | None) -> list[int | None]:
    """Return the limit of each of some arrays, which add up to the limit over all of them."""
    if max_parallel is None:
        return [None] * arrays
    return [max_parallel // arrays + (index < max_parallel % arrays) for index in range(arrays)]


def estimate(jobs: Sequence[Job], facts: Mapping[str, Mapping[str, object]], profile: Profile) -> Estimate:
    """Return what some runs may use, in hours of one job's slot; times `profile.cpus` these are core hours.

    Args:
        jobs: The runs.
        facts: By cell; the key ``env_steps`` is used.
        profile: How they are packed and limited.
    """
    count = len(packs(len(jobs), profile.runs_per_job))
    limit = count * minutes(profile.time) / 60
    speeds: dict[Path, float | None] = {}
    total, measured = 0.0, 0
    for job in jobs:
        cell = job.folder.path.parent
        if cell not in speeds:
            speeds[cell] = speed(cell)
        known, steps = speeds[cell], facts.get(job.cell, {}).get("env_steps")
        if known and isinstance(steps, int):
            total += steps / known / 3600
            measured += 1
    if not measured:
        return Estimate(limit, None, 0)
    likely = total * len(jobs) / measured / min(profile.parallel_per_job, profile.runs_per_job)
    return Estimate(limit, likely, measured)


def speed(cell: Path) -> float | None:
    """Return env steps per second of the finished runs of a cell; None if there are none."""
    found = []
    for path in cell.glob("seed=*"):
        status = RunFolder(path).status()
        summary = status.get("summary") or {}
        told = summary.get("env_steps_per_s") or status.get("env_steps_per_s")
        if status.get("state") == "finished" and told:
            found.append(float(told))
    return sum(found) / len(found) if found else None
