"""The card of a data set: what is in it, where it comes from, and the hash of every file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from plasticine.errors import UserError

__all__ = ["CARD_FILE", "FORMAT", "RUN_NAME", "hashed", "readme", "verified"]

CARD_FILE = "card.json"
FORMAT = 1
#: ``<study>/<cell>/seed=<n>``: plain names, nothing that leads out of a folder.
RUN_NAME = re.compile(r"(?!\.)[^/\\\0\n]+/(?!\.)[^/\\\0\n]+/seed=\d+")
_TABLES = {f"{name}.parquet" for name in ("runs", "metrics", "episodes", "events", "layers")}
_FOLDERS = ("configs", "checkpoints")


def hashed(folder: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file below a folder, by its path with slashes."""
    return {
        path.relative_to(folder).as_posix(): {"sha256": _sha256(path), "bytes": path.stat().st_size}
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != CARD_FILE
    }


def verified(folder: Path) -> dict[str, Any]:
    """Read the card of a data set after every file was found to be what it says.

    Raises:
        UserError: There is no card, it names files outside of the data set, or a file is missing or altered.
    """
    path = folder / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(
            f"there is no {CARD_FILE} in {folder}", "give a folder made by `plasticine export`"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", "get the data set again") from error
    if not isinstance(card, dict) or card.get("format") != FORMAT or not isinstance(card.get("files"), dict):
        said = card.get("format") if isinstance(card, dict) else None
        raise UserError(
            f"{path} is of format {said!r}, this version reads format {FORMAT}",
            "get the Plasticine that made it",
        )
    missing = {"runs.parquet", "metrics.parquet", "episodes.parquet", "events.parquet"} - set(card["files"])
    if missing:
        raise UserError(f"{path} does not list {sorted(missing)[0]}", "get the data set again")
    for name in card["files"]:
        if not _is_ours(name):
            raise UserError(
                f"{path} names {name!r}, which has no place in a data set", "do not trust this data set"
            )
    for name, facts in card["files"].items():
        _check(folder, name, facts)
    return card


def _is_ours(name: str) -> bool:
    parts = PurePosixPath(name).parts
    plain = "/".join(parts) == name and not any(
        p in ("..", ".", "/") or "\\" in p or "\0" in p for p in parts
    )
    return plain and (name in _TABLES or name == "README.md" or (len(parts) > 1 and parts[0] in _FOLDERS))


def _check(folder: Path, name: str, facts: Any) -> None:
    path = folder / name
    if not path.is_file():
        raise UserError(f"{path} is missing", "get the data set again")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise UserError(f"{path} is a link to somewhere else", "do not trust this data set")
    if (
        not isinstance(facts, Mapping)
        or path.stat().st_size != facts.get("bytes")
        or _sha256(path) != facts.get("sha256")
    ):
        raise UserError(
            f"{path} is not the file that was exported: its size or hash differs", "get the data set again"
        )


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def readme(card: Mapping[str, Any], table: Sequence[Mapping[str, Any]]) -> str:
    """README.md of a data set.

    Args:
        card: Its card, without files.
        table: One row per cell: method, agent, env, level, seeds, states.
    """
    counts, versions = card["counts"], card["versions"]
    rows = "\n".join(
        f"| {row['method']} | {row['agent']} | {row['env']} | {row['level']} | {row['seeds']} | {row['states']} |"
        for row in table
    )
    revisions = ", ".join(card["revisions"]) or "unknown"
    return f"""# {card["study"]}

Runs of reinforcement-learning agents, recorded with Plasticine {versions.get("plasticine", "")}.

{counts["runs"]} runs, {counts["metrics"]:,} logged values, {counts["episodes"]:,} episodes,
{counts["events"]:,} events, {counts["checkpoints"]} checkpoints.

| method | agent | environment | level | seeds | state |
|---|---|---|---|---|---|
{rows}

| file | a row is |
|---|---|
| `runs.parquet` | a run: names, state, configuration card, status and provenance as JSON |
| `metrics.parquet` | a logged value: run, line and time (ms) of the record, step, metric, value |
| `episodes.parquet` | an episode: the step it ended at, task, raw return, length |
| `events.parquet` | something that happened (task switch, intervention): step, kind, facts as JSON |
| `layers.parquet` | a value of a single layer, if there are any |
| `configs/<run>.yaml` | the complete configuration of a run |
| `checkpoints/<run>/` | the newest checkpoint of a run, if they are included |
| `card.json` | where it comes from, versions, and the SHA-256 of every file |

```python
import pandas as pd

values = pd.read_parquet("metrics.parquet")
runs = pd.read_parquet("runs.parquet").set_index("run")
values.join(runs[["method", "seed"]], on="run")
```

`plasticine import <this folder>` verifies the files and makes run folders of them, for reports and MLflow.

Made with code revision {revisions}; {", ".join(f"{name} {version}" for name, version in versions.items())}.
Exported {card["exported"]}.
"""
