"""What is in an MLflow store against what is in the run folders: plain SQL and plain JSON, none of our own code."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: Files of a run that are kept with it, and those of them that need not be there.
ARTIFACTS = ("config.yaml", "provenance.json", "run.json", "metrics.jsonl", "log.txt", "events.json")
#: What two equal runs may differ in.
VARIABLE = ("speed/env_steps_per_s", "summary/env_steps_per_s")

Point = tuple[str, int, int, float]  # key, ms, env steps, value


@dataclass
class StoreCount:
    """Sums over all runs.

    Attributes:
        runs: Run folders.
        expected, found: Points in the folders and in the store.
        params, artifacts: Found in the store.
        wrong: One line for each thing that is missing, doubled or different; empty if all is well.
    """

    runs: int = 0
    expected: int = 0
    found: int = 0
    missing: int = 0
    doubled: int = 0
    params: int = 0
    artifacts: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.runs} runs, {self.expected} points expected, {self.found} found, {self.missing} missing, "
            f"{self.doubled} doubled, {self.params} params, {self.artifacts} artifacts"
        )


def run_folders(runs_dir: Path) -> list[Path]:
    return sorted(path.parent for path in runs_dir.glob("*/*/seed=*/run.json"))


def local_points(folder: Path) -> list[Point]:
    """All numbers of a record, in order."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        (key, line["t"], line["s"], float(value))
        for line in lines
        for key, value in line.get("m", {}).items()
    ]


def series(folder: Path) -> list[Any]:
    """The record without what may differ between two equal runs: times, speeds, and that it was resumed."""
    rows = []
    for text in (folder / "metrics.jsonl").read_text().splitlines():
        row = json.loads(text)
        if row.get("event") == "resume":
            continue
        row.pop("t")
        for key in VARIABLE:
            row.get("m", {}).pop(key, None)
        rows.append(row)
    return rows


def count(runs_dir: Path, connection: Any, artifacts: Path | None) -> StoreCount:
    """Compare the runs below a folder with a store.

    Args:
        runs_dir: Folder of studies.
        connection: To the database of the store (DB-API).
        artifacts: Folder of the artifacts, whatever its layout below; None: do not look.
    """
    cursor = connection.cursor()
    ids: dict[str, list[str]] = {}
    for run_id, where in _rows(cursor, "select run_uuid, value from tags where key = 'plasticine.run_dir'"):
        ids.setdefault(where, []).append(run_id)
    states = dict(_rows(cursor, "select run_uuid, status from runs"))
    points: dict[str, list[Point]] = {}
    for run_id, key, time, step, value in _rows(
        cursor, 'select run_uuid, key, "timestamp", step, value from metrics'
    ):
        points.setdefault(run_id, []).append((key, int(time), int(step), float(value)))
    params: dict[str, dict[str, str]] = {}
    for run_id, key, value in _rows(cursor, "select run_uuid, key, value from params"):
        params.setdefault(run_id, {})[key] = value
    total = StoreCount()
    for folder in run_folders(runs_dir):
        total.runs += 1
        found = ids.get(str(folder), [])
        if len(found) != 1:
            total.wrong.append(f"{folder} is {len(found)} runs of the store")
            continue
        if states[found[0]] != "FINISHED":
            total.wrong.append(f"{folder} is {states[found[0]]} in the store")
        _count_points(total, folder, points.get(found[0], []))
        _count_params(total, folder, params.get(found[0], {}))
        if artifacts is not None:
            _count_artifacts(total, folder, artifacts, found[0])
    return total


def _rows(cursor: Any, query: str) -> list[tuple[Any, ...]]:
    cursor.execute(query)
    return list(cursor.fetchall())


def _count_points(total: StoreCount, folder: Path, found: Sequence[Point]) -> None:
    expected = Counter(local_points(folder))
    there = Counter(found)
    missing, surplus = expected - there, there - expected
    steps = Counter((key, step) for key, _, step, _ in found)
    doubled = sum(number - 1 for number in steps.values())
    total.expected += expected.total()
    total.found += there.total()
    total.missing += missing.total()
    total.doubled += doubled
    if missing or surplus or doubled:
        examples = [*missing][:2], [*surplus][:2]
        total.wrong.append(
            f"{folder}: {missing.total()} missing, {surplus.total()} strange, {doubled} doubled {examples}"
        )


def _count_params(total: StoreCount, folder: Path, found: Mapping[str, str]) -> None:
    card = json.loads((folder / "run.json").read_text())
    names = ("study", "level", "env", "method", "agent", "seed", "cell")
    wanted = {**card["params"], **{name: card[name] for name in names}}
    wanted |= {"kind": "seed", "budget": card["tags"]["budget"]}
    total.params += len(found)
    for key, value in wanted.items():
        text = value if isinstance(value, str) else json.dumps(value)
        if found.get(key) != text:
            total.wrong.append(f"{folder}: param {key} is {found.get(key)!r}, not {text!r}")
    if len(found) != len(wanted):
        total.wrong.append(f"{folder}: {len(found)} params instead of {len(wanted)}")


def _count_artifacts(total: StoreCount, folder: Path, artifacts: Path, run_id: str) -> None:
    (home,) = list(artifacts.glob(f"**/{run_id}/artifacts")) or [artifacts / run_id]
    for name in ARTIFACTS:
        if not (home / name).is_file():
            total.wrong.append(f"{folder}: artifact {name} is missing")
            continue
        total.artifacts += 1
        if name == "metrics.jsonl" and (home / name).read_bytes() != (folder / name).read_bytes():
            total.wrong.append(f"{folder}: artifact {name} is not the record")
