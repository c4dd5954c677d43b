"""Did everything finish: counts, failures with their causes, runs that are missing."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from plasticine.launch.survey import STATES
from plasticine.report.gather import Gathered
from plasticine.report.layout import Layout
from plasticine.report.runs import RunData
from plasticine.report.table import Table

__all__ = ["Completeness", "completeness"]


@dataclass(frozen=True)
class Completeness:
    """How complete a study is.

    Attributes:
        counts: Runs by state, in the order of `STATES`; runs that were never asked for are not in it.
        failures: Runs that failed, with what went wrong.
        gaps: Cells or seeds that others of the study have.
        notes: What else to know.
    """

    counts: dict[str, int]
    failures: Table
    gaps: Table
    notes: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Return all of it in a line."""
        total = sum(self.counts.values())
        done = self.counts.get("done", 0)
        if done == total and not self.gaps.rows:
            return f"All {total} runs are done."
        parts = [f"{done} of {total} runs are done"]
        parts += [f"{count} {state}" for state, count in self.counts.items() if state != "done"]
        if self.gaps.rows:
            parts.append(f"{len(self.gaps.rows)} gaps in the grid")
        return ", ".join(parts) + "."


def completeness(gathered: Gathered, runs: Sequence[RunData], layout: Layout) -> Completeness:
    """Look at the state of every run."""
    count = Counter(found.seen.state for found in gathered.runs)
    counts = {state: count[state] for state in (*STATES, *sorted(set(count) - set(STATES))) if count[state]}
    failed = [found for found in gathered.runs if found.seen.state == "failed"]
    causes = Counter(_cause(str(found.seen.status.get("error") or "")) for found in failed)
    rows = sorted(
        (
            (
                _cause(error),
                causes[_cause(error)],
                found.seen.name,
                _done(found.seen.fraction),
                error,
                found.seen.dir,
            )
            for found in failed
            for error in [str(found.seen.status.get("error") or "no error was recorded")]
        ),
        key=lambda row: (-row[1], row[0], row[2]),
    )
    failures = Table(
        "failures", "Failures", ("run", "came to", "error", "folder"), [row[2:] for row in rows],
        "The same cause together, the most frequent first. `plasticine logs RUN` has the traceback, `plasticine "
        "retry` starts them again.",
    )  # fmt: skip
    notes = list(gathered.notes)
    broken = [run for run in runs if run.error.startswith("unreadable record")]
    notes += [f"{run.where}: {run.error}" for run in broken[:5]]
    if len(broken) > 5:
        notes.append(f"... and {len(broken) - 5} more records cannot be read")
    if failed:
        notes.append(
            f"Scores are those of finished runs. {len(failed)} failed runs are not in them: where a method fails "
            "because it diverges, its scores are better than it is."
        )
    return Completeness(counts, failures, _gaps(gathered, layout), tuple(notes))


def _cause(error: str) -> str:
    """Return an error without the numbers and paths that differ from run to run."""
    return re.sub(r"\S*/\S+|0x[0-9a-f]+|\d+(\.\d+)?", "…", error)


def _done(fraction: float) -> str:
    return f"{100 * fraction:.0f} %"


def _gaps(gathered: Gathered, layout: Layout) -> Table:
    """Return rows without a column, and cells without seeds that others have."""
    seeds: dict[str, set[int]] = defaultdict(set)
    for found in gathered.runs:
        if found.cell in layout.place and found.seed.isdigit() and found.seen.state != "missing":
            seeds[found.cell].add(int(found.seed))
    cells = {place: cell for cell, place in layout.place.items()}
    rows: list[tuple[str, ...]] = []
    everything = set().union(*seeds.values()) if seeds else set()
    for row in layout.rows:
        for column in layout.columns:
            if any(r == row and c == column for r, c in cells):
                lacking = everything - seeds[cells[row, column]]
                if lacking:
                    rows.append((row, column.name, f"no seed {_ranges(lacking)}"))
            else:
                rows.append((row, column.name, "never started"))
    waiting = sorted(
        f"{found.seen.name}" for found in gathered.runs if found.cell not in layout.place
    )  # fmt: skip
    rows += [(name, "", "asked for, not started") for name in waiting]
    return Table(
        "missing", "Missing", ("method", "environment", "what is missing"), rows,
        "Compared with what the rest of the study has. It need not be a mistake; but what is missing is missing from "
        "every comparison, too.",
    )  # fmt: skip


def _ranges(numbers: set[int]) -> str:
    """``0-2, 5``."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
