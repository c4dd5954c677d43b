"""What a launch on this machine would do, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from plasticine.launch.job import Job
from plasticine.launch.slurm.plan import speed

__all__ = ["summary"]


def summary(jobs: Sequence[Job], todo: Sequence[Job], facts: Mapping[str, Mapping[str, object]]) -> str:
    """Return how many runs of what there are, and about how long they take.

    Args:
        jobs: All runs.
        todo: Those that are not finished.
        facts: Of their cells, from the check.
    """
    rows: dict[tuple[str, str], list[Job]] = {}
    for job in jobs:
        rows.setdefault(job.group[1:], []).append(job)
    lines = [
        f"dry run: {len(todo)} of {len(jobs)} run(s) to do, all of them can be built; nothing was started"
    ]
    for (agent, env), members in rows.items():
        variants = {job.cell for job in members}
        steps = sorted({int(str(facts[cell]["env_steps"])) for cell in variants if cell in facts})
        each = f" of {steps[0]:,}{f' to {steps[-1]:,}' if len(steps) > 1 else ''} env steps" if steps else ""
        lines.append(f"  {env}, {agent}: {len(members)} run(s) of {len(variants)} variant(s){each}")
    return "\n".join([*lines, *_hours(todo, facts)])


def _hours(todo: Sequence[Job], facts: Mapping[str, Mapping[str, object]]) -> list[str]:
    """A line about the time, from finished runs of the same cells."""
    speeds = {job.cell: speed(job.folder.path.parent) for job in todo}
    known = [job for job in todo if speeds[job.cell]]
    if not todo:
        return []
    if not known:
        return ["no run of these variants is finished, so how long they take is not known"]
    hours = sum(float(str(facts[job.cell]["env_steps"])) / (speeds[job.cell] or 1.0) / 3600 for job in known)
    return [f"about {hours:.1f} h of one worker for {len(known)} of them, at the speed of finished runs"]
