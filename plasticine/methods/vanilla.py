"""The baseline."""

from __future__ import annotations

from plasticine.core.method import Method

__all__ = ["Vanilla"]


class Vanilla(Method):
    """Does nothing: bit-identical to a learner built without any method."""
