"""What a failure looks like in the curves of a run, and what is to be said about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from plasticine.diagnosis.curves import Curves
from plasticine.errors import UserError

__all__ = ["Evidence", "Finding", "Signature", "Unknown"]


class Evidence(NamedTuple):
    """What was seen.

    Attributes:
        key: Of the curve.
        began: Env step at which it began.
        p: Of the test; 0 where nothing random is involved.
        before, after: Value at the start and at the end.
        test: In words.
    """

    key: str
    began: int
    p: float
    before: float
    after: float
    test: str


class Unknown(NamedTuple):
    """Why nothing can be said."""

    reason: str


class Finding(NamedTuple):
    """A signature that fits, with its evidence."""

    name: str
    evidence: Evidence
    says: str
    helps: tuple[str, ...]


class Signature(ABC):
    """One failure.

    Args:
        says: What it means, one or two sentences.
        helps: Methods whose mechanism acts on it, by their names in ``conf/method``.
    """

    def __init__(self, *, says: str, helps: Sequence[str]) -> None:
        if not says.strip():
            raise UserError("a signature of a failure without a text", "say in a sentence what it means")
        self.says = " ".join(says.split())
        self.helps = tuple(helps)

    @abstractmethod
    def reads(self) -> tuple[str, ...]:
        """The keys it looks at; their values per network (``<key>/<network>``) come with them."""

    @abstractmethod
    def judge(self, curves: Curves) -> Evidence | Unknown | None:
        """Look at the curves: evidence if the failure is there, None if not, or why that cannot be told."""

    def finding(self, name: str, curves: Curves) -> Finding | Unknown | None:
        """The verdict under the signature's name."""
        found = self.judge(curves)
        return Finding(name, found, self.says, self.helps) if isinstance(found, Evidence) else found

    def facts(self) -> dict[str, Any]:
        """Plain data for reports."""
        return {"says": self.says, "helps": list(self.helps)}
