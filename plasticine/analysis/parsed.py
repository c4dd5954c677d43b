"""What was read of a record, kept beside it, so that it is parsed once and not for every report.

``.record.npz`` can be deleted at any time. It counts as long as size and time of ``metrics.jsonl`` are those it was
made from; otherwise, or if it is damaged, the record itself is read.
"""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.lines import Event, Parsed, Series

__all__ = ["CACHE_FILE", "is_cached", "load_cached", "save_cached", "stamp"]

CACHE_FILE = ".record.npz"
_FORMAT = 1
#: What reading a file raises that is not what it should be.
_DAMAGED = (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile)


def stamp(path: Path) -> tuple[int, int] | None:
    """Size and time of change (ns) of a file; None if it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_size, found.st_mtime_ns


def is_cached(path: Path) -> bool:
    """Whether `load_cached` will find something, short of damage."""
    try:
        with np.load(path.with_name(CACHE_FILE), allow_pickle=False) as file:
            return _about(path, file) is not None
    except _DAMAGED:
        return False


def load_cached(path: Path) -> Parsed | None:
    """What was read of the record `path` before; None if it has changed since, or was never kept."""
    try:
        with np.load(path.with_name(CACHE_FILE), allow_pickle=False) as file:
            about = _about(path, file)
            if about is None:
                return None
            series: dict[str, Series] = {}
            for k, keys in enumerate(about["keys"]):
                steps, values = file[f"steps{k}"], file[f"values{k}"]
                series |= {key: Series(steps, row) for key, row in zip(keys, values, strict=True)}
            events = tuple(Event(*event) for event in about["events"])
            return Parsed({key: series[key] for key in about["order"]}, file["episodes"], events)
    except _DAMAGED:
        return None  # not there, of another version, or damaged: the record itself is the truth


def _about(path: Path, file: Mapping[str, NDArray[Any]]) -> dict[str, Any] | None:
    about: dict[str, Any] = json.loads(bytes(file["about"]).decode())
    return about if about["format"] == _FORMAT and about["stamp"] == list(stamp(path) or ()) else None


def save_cached(path: Path, content: Parsed, seen: tuple[int, int] | None) -> None:
    """Keep what was read of the record `path` when it had the stamp `seen`; a folder one may not write in is left.

    The file is replaced as a whole, so that readers at the same time see the old one or the new one.
    """
    if seen is None:
        return
    groups: dict[int, list[str]] = {}  # keys that share their steps
    for key, series in content.series.items():
        groups.setdefault(id(series.steps), []).append(key)
    keys = list(groups.values())
    about = {
        "format": _FORMAT,
        "stamp": seen,
        "keys": keys,
        "order": list(content.series),
        "events": [list(event) for event in content.events],
    }
    arrays: dict[str, NDArray[Any]] = {
        "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
        "episodes": content.episodes,
        **_arrays(content, keys),
    }
    target = path.with_name(CACHE_FILE)
    temporary = target.with_name(f"{CACHE_FILE}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
        os.replace(temporary, target)
    except OSError:  # a read-only or full disk costs the next reader time, nothing else
        with contextlib.suppress(OSError):
            temporary.unlink()


def _arrays(content: Parsed, groups: Sequence[Sequence[str]]) -> dict[str, NDArray[Any]]:
    found: dict[str, NDArray[Any]] = {}
    for k, keys in enumerate(groups):
        found[f"steps{k}"] = content.series[keys[0]].steps
        found[f"values{k}"] = np.stack([content.series[key].values for key in keys])
    return found
