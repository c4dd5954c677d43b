"""``plasticine status``: which runs of a study are done, go on, wait, failed, or are missing."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from plasticine.launch.display import clock
from plasticine.launch.survey import STATES, Seen, survey

__all__ = ["configure", "run", "table"]

_FAILURES = 10  # shown at most


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("study", nargs="?", help="name of a study; default: all")
    parser.add_argument("--runs-dir", default="runs", type=Path, help="folder of the runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="one JSON object a run, for programs")


def run(arguments: argparse.Namespace) -> int:
    """Print the matrix of methods and levels."""
    found = survey(arguments.runs_dir, arguments.study)
    if arguments.json:
        for seen in found.runs:
            print(json.dumps(_record(seen)))
        return 0
    studies: dict[str, list[Seen]] = {}
    for seen in found.runs:
        studies.setdefault(seen.dir.partition("/")[0], []).append(seen)
    for study, runs in studies.items():
        print(f"{study}: {_counts(runs)}{_left(runs)}")
        print("\n".join(f"  {line}" for line in table(runs)))
        failed = [seen for seen in runs if seen.state == "failed"]
        for seen in failed[:_FAILURES]:
            print(f"  failed: {seen.name}: {seen.status.get('error')}\n          {seen.path}")
        if len(failed) > _FAILURES:
            print(f"  ... and {len(failed) - _FAILURES} more failed")
        missing = sum(seen.state == "missing" for seen in runs)
        if missing:
            print(f"  {missing} asked for and not begun: plasticine retry {study} --all starts them")
        print()
    if not studies:
        print(f"no runs in {arguments.runs_dir}")
    if found.warning:
        print(f"warning: {found.warning}")
    return 0


def table(runs: Sequence[Seen]) -> list[str]:
    """Return the lines of a matrix: a row for each method and agent, a column for each environment.

    Cells of one row and column that differ in other settings get a row each, with the cell's digits.
    """
    columns = list(dict.fromkeys(_column(seen) for seen in runs))
    cells: dict[tuple[str, str], dict[str, list[Seen]]] = {}
    for seen in runs:
        row = " ".join(seen.group[:2])
        digits = seen.path.parent.name.rpartition("-")[2]
        cells.setdefault((row, _column(seen)), {}).setdefault(digits, []).append(seen)
    rows: dict[str, dict[str, list[Seen]]] = {}
    for (row, column), by_digits in cells.items():
        for digits, members in by_digits.items():
            label = f"{row} {digits}" if len(by_digits) > 1 else row
            rows.setdefault(label, {})[column] = members
    texts = [["", *columns]]
    for row in sorted(rows):
        texts.append([row, *(_counts(rows[row][c]) if c in rows[row] else "" for c in columns)])
    widths = [max(len(line[index]) for line in texts) for index in range(len(texts[0]))]
    return ["  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in texts]


def _column(seen: Seen) -> str:
    return seen.group[2]


def _counts(runs: Sequence[Seen]) -> str:
    count = Counter(seen.state for seen in runs)
    parts = []
    for state in STATES:
        if count[state]:
            parts.append(f"{count[state]} {state}{_progress(runs) if state == 'running' else ''}")
    return ", ".join(parts)


def _progress(runs: Sequence[Seen]) -> str:
    active = [seen for seen in runs if seen.state == "running"]
    left = [seconds for seen in active if (seconds := seen.seconds_left) is not None]
    mean = sum(seen.fraction for seen in active) / len(active)
    return f" {mean:.0%}" + (f" ({clock(max(left))} left)" if left else "")


def _left(runs: Sequence[Seen]) -> str:
    """Return how long all of it may take: what is left, at the speed at which runs go on now."""
    active = [seen for seen in runs if seen.state == "running" and seen.seconds_left]
    rates = [(1 - seen.fraction) / seen.seconds_left for seen in active if seen.seconds_left]
    todo = sum(1 - seen.fraction for seen in runs if seen.state in ("running", "queued"))
    return f"; about {clock(todo / sum(rates))} to go" if rates and sum(rates) > 0 else ""


def _record(seen: Seen) -> dict[str, object]:
    method, agent, env = seen.group
    return {
        "run": seen.dir, "state": seen.state, "method": method, "agent": agent, "env": env, "level": seen.level,
        "fraction": round(seen.fraction, 4), "seconds_left": seen.seconds_left,
        "slurm_job": seen.claim.task if seen.claim else None,
        "reason": seen.claim.reason if seen.claim else None, "error": seen.status.get("error"),
    }  # fmt: skip
