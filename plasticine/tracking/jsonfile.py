"""Small files, of JSON mostly, that are either the old one or the new one, never half of one."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["plain", "read_json", "replace_json", "replace_text", "sync_folder"]


def replace_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace `path` by a JSON object, as `replace_text` does."""
    replace_text(path, json.dumps(content, allow_nan=False))


def replace_text(path: Path, text: str) -> None:
    """Replace `path` atomically and durably (temporary file, fsync, rename, fsync of the folder).

    Raises:
        OSError: The folder is not writable or the disk is full; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Make what happened to the names in a folder durable."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the object in `path`, or None if there is no such file.

    Raises:
        ValueError: The file is there but does not hold a JSON object.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    content = json.loads(text)
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not hold a JSON object")
    return content


def plain(value: Any) -> Any:
    """Return `value` as JSON can hold it: numpy and torch scalars become numbers, NaN and inf become text."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    return str(value)
