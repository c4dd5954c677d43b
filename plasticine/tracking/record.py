"""Reading the record of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from plasticine.core.tracker import Episode
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.local import COMMITTED_FILE, METRICS_FILE

__all__ = ["EventRow", "MetricRow", "Record", "read_lines", "read_metrics"]


class MetricRow(NamedTuple):
    """Scalars at one step: unix ms, env steps, values by key."""

    time: int
    env_steps: int
    values: dict[str, float]


class EventRow(NamedTuple):
    """Something that happened: unix ms, env steps, kind, plain facts."""

    time: int
    env_steps: int
    kind: str
    facts: dict[str, Any]


class Record(NamedTuple):
    """Everything a run recorded; `metrics` has one row a step, in increasing order."""

    metrics: list[MetricRow]
    events: list[EventRow]
    episodes: list[Episode]


def read_lines(path: Path, start: int = 0, stop: int | None = None) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each complete line between two byte offsets, with the offset of its end.

    A torn last line is left out.

    Raises:
        ValueError: A complete line is not a JSON object: the file was changed by something else.
    """
    with open(path, "rb") as file:
        file.seek(start)
        position = start
        for line in file:
            position += len(line)
            if not line.endswith(b"\n") or (stop is not None and position > stop):
                return
            try:
                entry = json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{path}: the line that ends at byte {position} is not JSON ({error})"
                ) from error
            yield entry, position


def read_metrics(run_dir: Path | str, committed_only: bool = False) -> Record:
    """Read the record of a run, live ones included; a run that recorded nothing gives empty lists.

    Args:
        run_dir: Folder of the run.
        committed_only: Leave out what lies after the last durable checkpoint.
    """
    folder = Path(run_dir)
    record = Record([], [], [])
    if not (folder / METRICS_FILE).exists():
        return record
    stop = int((read_json(folder / COMMITTED_FILE) or {"offset": 0})["offset"]) if committed_only else None
    for entry, _ in read_lines(folder / METRICS_FILE, 0, stop):
        if "m" in entry:
            rows = record.metrics
            if rows and rows[-1].env_steps == entry["s"]:
                rows[-1].values.update(entry["m"])
            else:
                rows.append(MetricRow(entry["t"], entry["s"], dict(entry["m"])))
        elif "event" in entry:
            record.events.append(EventRow(entry["t"], entry["s"], entry["event"], entry["facts"]))
        elif "episodes" in entry:
            record.episodes.extend(Episode(s, task, float(r), n) for s, task, r, n in entry["episodes"])
    return record
