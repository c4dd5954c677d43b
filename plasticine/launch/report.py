"""What a launch prints when it is over: scores, failures, and where to look next."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path

from plasticine.launch.job import Job
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.views import METHODS_VIEW, view_link

__all__ = ["exit_code", "failures", "findings", "results", "ui_lines"]

_TAIL = 12  # lines of a traceback shown


def exit_code(jobs: Sequence[Job], interrupted: bool) -> int:
    """Return 130 if the launch was interrupted before its end, 1 if a run failed, else 0."""
    states = {job.state for job in jobs}
    if interrupted and states & {"waiting", "running", "interrupted"}:
        return 130
    return 1 if states & {"failed", "waiting", "running", "interrupted"} else 0


def results(jobs: Sequence[Job]) -> str:
    """Return a table of final returns, a line for each cell with a finished run; empty if there is none."""
    by_cell: dict[str, list[Job]] = {}
    for job in jobs:
        if job.state == "finished":
            by_cell.setdefault(job.cell, []).append(job)
    ambiguous = any(job.show_cell for job in jobs)
    header = [
        "method",
        "agent",
        "env",
        *(["cell"] if ambiguous else []),
        "seeds",
        "final return",
        "min",
        "max",
        "steps/s",
    ]
    rows = [header]
    for cell, members in by_cell.items():
        scores = _numbers(members, "final_return")
        speeds = _numbers(members, "env_steps_per_s")
        spread = f" +- {statistics.stdev(scores):.1f}" if len(scores) > 1 else ""
        rows.append(
            [
                *members[0].group,
                *([cell[:8]] if ambiguous else []),
                str(len(members)),
                f"{statistics.fmean(scores):.1f}{spread}" if scores else "-",
                f"{min(scores):.1f}" if scores else "-",
                f"{max(scores):.1f}" if scores else "-",
                f"{statistics.fmean(speeds):.0f}" if speeds else "-",
            ]
        )
    return _table(rows) if len(rows) > 1 else ""


def failures(jobs: Sequence[Job]) -> str:
    """Return a paragraph for each failed run: its error, where it is recorded, and the end of its traceback."""
    parts = []
    for job in jobs:
        if job.state == "failed":
            error = job.folder.path / "error.txt"
            log = job.folder.path / "log.txt"
            tail = error.read_text(encoding="utf-8").rstrip().splitlines()[-_TAIL:] if error.exists() else []
            places = [f"  traceback: {error}", *([f"  output:    {log}"] if log.exists() else [])]
            parts.append("\n".join([f"{job.name}: {job.error}", *places, *(f"    {line}" for line in tail)]))
    return "\n\n".join(parts)


def findings(jobs: Sequence[Job]) -> str:
    """Return a line for each finished run that a diagnosis found something in; empty if there is none."""
    lines = []
    for job in jobs:
        if job.state == "finished":
            report = read_json(job.folder.path / "diagnosis.json") or {}
            found = [f"{f['name']} since step {f['began']:,}" for f in report.get("findings", ())]
            if found:
                lines.append(f"diagnosis: {job.name}: {', '.join(found)}")
    return "\n".join([*lines, "what that means: plasticine diagnose <run>"]) if lines else ""


def ui_lines(jobs: Sequence[Job], launch_dir: Path) -> list[str]:
    """Return how to compare the runs of a launch in MLflow's pages; empty if nothing was forwarded."""
    stores: dict[tuple[str, str, str], None] = {}
    for job in jobs:
        if job.config["tracker"]["kind"] != "mlflow" or not job.folder.path.is_dir():
            continue
        note = read_json(job.folder.path / "mlflow.json")
        if note and note.get("uri") and note.get("experiment_id"):
            stores[note["uri"], note["experiment_id"], str(job.config["study"])] = None
    lines = []
    for uri, experiment, study in stores:
        if uri.startswith(("http://", "https://")):
            lines.append(f"compare: {uri.rstrip('/')}{view_link(experiment, study, METHODS_VIEW)}")
        else:
            lines.append(f"compare: plasticine ui --uri {shlex.quote(uri)}")
    return list(dict.fromkeys(lines))


def _numbers(jobs: Sequence[Job], key: str) -> list[float]:
    found = [job.summary.get(key) for job in jobs]
    return [float(value) for value in found if isinstance(value, (int, float))]


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = len(rows[0]) - 5
    lines = []
    for row in rows:
        texts = [
            t.ljust(w) if i < left else t.rjust(w) for i, (t, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(texts).rstrip())
    return "\n".join(lines)
