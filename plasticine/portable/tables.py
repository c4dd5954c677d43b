"""A run's record as tables, and back again, line by line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from plasticine.errors import UserError
from plasticine.tracking.jsonfile import plain

if TYPE_CHECKING:
    import pyarrow

__all__ = ["TABLES", "Rows", "lines_of", "rows_of", "schema"]

#: Tables of the record, with their columns after ``run``: what is in each line of the record, in its order.
TABLES: Mapping[str, Mapping[str, str]] = {
    "metrics": {"line": "int32", "time": "int64", "step": "int64", "metric": "string", "value": "double"},
    "episodes": {
        "line": "int32",
        "time": "int64",
        "step": "int64",
        "task": "int32",
        "episodic_return": "double",
        "length": "int64",
    },
    "events": {"line": "int32", "time": "int64", "step": "int64", "kind": "string", "facts": "string"},
    "layers": {
        "line": "int32",
        "time": "int64",
        "step": "int64",
        "metric": "string",
        "network": "string",
        "layer": "string",
        "value": "double",
    },
}
#: Columns of names and of numbers that repeat from row to row.
_REPEATED = ("run", "line", "time", "step", "metric", "kind", "network", "layer", "task")


class Rows(NamedTuple):
    """Rows of the four tables by name, and the number of lines they come from."""

    tables: dict[str, list[tuple[Any, ...]]]
    lines: int


def schema(table: str) -> pyarrow.Schema:
    """Column types of a table; ``run`` comes first."""
    import pyarrow

    columns = {"run": "string", **TABLES[table]}
    return pyarrow.schema(
        [
            (name, getattr(pyarrow, kind if kind != "double" else "float64")())
            for name, kind in columns.items()
        ]
    )


def writing(table: str) -> dict[str, Any]:
    """How a table is written to Parquet."""
    names = ("run", *TABLES[table])
    return {
        "compression": "zstd",
        "compression_level": 12,
        "use_dictionary": [name for name in names if name in _REPEATED],
        "use_byte_stream_split": [name for name in names if name in ("value", "episodic_return")],
    }


def rows_of(path: Path) -> Rows:
    """Read ``metrics.jsonl``; a half-written last line is left out.

    Raises:
        UserError: A line is broken, or of a kind that this version does not know.
    """
    tables: dict[str, list[tuple[Any, ...]]] = {name: [] for name in TABLES}
    content = path.read_bytes() if path.exists() else b""
    lines = content[: content.rfind(b"\n") + 1].splitlines()
    for number, line in enumerate(lines):
        try:
            _sort(json.loads(line), number, tables)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"line {number + 1} of {path} cannot be exported: {type(error).__name__}: {error}",
                "it is broken, or was written by a newer version of Plasticine",
            ) from error
    return Rows(tables, len(lines))


def _sort(entry: Mapping[str, Any], number: int, tables: Mapping[str, list[tuple[Any, ...]]]) -> None:
    time = entry["t"]
    if "m" in entry:
        tables["metrics"] += [(number, time, entry["s"], key, float(v)) for key, v in entry["m"].items()]
    elif "episodes" in entry:
        tables["episodes"] += [
            (number, time, step, task, float(value), length)
            for step, task, value, length in entry["episodes"]
        ]
    elif "event" in entry:
        tables["events"].append((number, time, entry["s"], entry["event"], _text(entry["facts"])))
    elif "layers" in entry:
        tables["layers"] += [
            (number, time, entry["s"], metric, network, layer, value)
            for metric, networks in entry["layers"].items()
            for network, layers in networks.items()
            for layer, value in layers.items()
        ]
    else:
        raise ValueError(f"unknown kind of line with {sorted(entry)}")


def lines_of(tables: Mapping[str, Iterable[Sequence[Any]]]) -> list[bytes]:
    """The lines that rows come from, each with its line end, in their order."""
    entries: dict[int, dict[str, Any]] = {}
    for number, time, step, key, value in tables["metrics"]:
        entries.setdefault(number, {"t": time, "s": step, "m": {}})["m"][key] = value
    for number, time, *episode in tables["episodes"]:
        episode[2] = plain(episode[2])
        entries.setdefault(number, {"t": time, "episodes": []})["episodes"].append(episode)
    for number, time, step, kind, facts in tables["events"]:
        entries[number] = {"t": time, "s": step, "event": kind, "facts": json.loads(facts)}
    for number, time, step, metric, network, layer, value in tables["layers"]:
        found = entries.setdefault(number, {"t": time, "s": step, "layers": {}})["layers"]
        found.setdefault(metric, {}).setdefault(network, {})[layer] = value
    return [(_text(entries[number]) + "\n").encode() for number in sorted(entries)]


def _text(entry: Any) -> str:
    return json.dumps(entry, separators=(",", ":"), allow_nan=False)
