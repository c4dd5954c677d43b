"""Diagnosis per cell: which known failures its runs show, as ``plasticine diagnose`` has judged them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from plasticine.diagnosis.afterwards import REPORT_FILES
from plasticine.report.layout import Layout
from plasticine.report.runs import RunData
from plasticine.report.table import Table
from plasticine.tracking.jsonfile import read_json

__all__ = ["diagnosis_table"]

_HEADS = (
    "method",
    "environment",
    "runs judged",
    "sign",
    "runs with it",
    "began at",
    "means",
    "methods that act on it",
)


def diagnosis_table(runs: Sequence[RunData], layout: Layout) -> tuple[Table, str]:
    """Return the table, and a sentence about runs that nobody has judged (empty if all are)."""
    judged: dict[tuple[str, str], int] = Counter()
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = defaultdict(list)
    without = 0
    for run in runs:
        row, column = layout.place[run.cell]
        try:
            content = read_json(run.folder / REPORT_FILES[0])
        except ValueError:
            content = None  # damaged: as good as not judged
        if content is None:
            without += 1
            continue
        judged[row, column.name] += 1
        for finding in content.get("findings", ()):
            found[row, column.name, str(finding["name"])].append(finding)
    rows: list[tuple[Any, ...]] = []
    for row in layout.rows:
        for column in layout.columns:
            count = judged[row, column.name]
            signs = sorted(key for key in found if key[:2] == (row, column.name))
            for key in signs:
                some = found[key]
                began = float(np.median([float(finding["began"]) for finding in some]))
                helps = ", ".join(some[0].get("helps", ()))
                rows.append(
                    (row, column.name, count, key[2], len(some), began, some[0].get("says", ""), helps)
                )
            if count and not signs:
                rows.append((row, column.name, count, "none", 0, float("nan"), "", ""))
    note = (
        f"{without} of {len(runs)} runs have not been judged: `plasticine diagnose` does that."
        if without
        else ""
    )
    return Table(
        "diagnosis", "Signs of known failures", _HEADS, rows,
        "How many runs of a cell show a sign, and the env step (median) at which it began. A sign is a trend that "
        "passed a test, not a proof of the cause; few signs appear by chance.",
    ), note  # fmt: skip
