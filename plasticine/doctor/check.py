"""The result of one check."""

from __future__ import annotations

from typing import Literal, NamedTuple

__all__ = ["Check", "Severity"]

Severity = Literal["ok", "info", "warning", "error"]


class Check(NamedTuple):
    """What was looked at, how bad it is, what was found, and how to repair it (empty if nothing is to do)."""

    name: str
    severity: Severity
    found: str
    fix: str = ""
