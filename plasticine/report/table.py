"""Plain tables: what the page, the files and LaTeX show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Table"]


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        name: Stem of its files.
        title: For people.
        heads: One a column.
        rows: Text, numbers (NaN: unknown) or None.
        note: What it shows.
    """

    name: str
    title: str
    heads: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]
    note: str = ""
