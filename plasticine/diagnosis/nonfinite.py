"""Numbers that are none."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from plasticine.diagnosis.curves import Curves
from plasticine.diagnosis.signature import Evidence, Signature

__all__ = ["NonFinite"]


class NonFinite(Signature):
    """A loss, a gradient or a weight was NaN or infinite at least once. Nothing to be tested: it is a fact.

    Args:
        watched: Patterns of keys that are always finite in a run that works, e.g. ``loss/*``.
        except_for: Keys among them that may be undefined, e.g. an explained variance.
        common: See `Signature`.
    """

    def __init__(self, *, watched: Sequence[str], except_for: Sequence[str], **common: Any) -> None:
        super().__init__(**common)
        self.watched, self.except_for = tuple(watched), tuple(except_for)

    def reads(self) -> tuple[str, ...]:
        """The patterns."""
        return self.watched

    def judge(self, curves: Curves) -> Evidence | None:
        """The earliest one."""
        found = [
            (step, key)
            for key, step in curves.nonfinite.items()
            if any(fnmatchcase(key, pattern) for pattern in self.watched)
            and not any(fnmatchcase(key, pattern) for pattern in self.except_for)
        ]
        if not found:
            return None
        step, key = min(found)
        return Evidence(key, step, 0.0, math.nan, math.nan, "seen in the record")
