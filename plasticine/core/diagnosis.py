"""What the trainer asks to look out for failures while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

__all__ = ["RunWatch"]


class RunWatch(Protocol):
    """Reads what a run logs, and nothing else; cannot change it."""

    def take(self, scalars: Mapping[str, float], env_steps: int, done: float) -> Sequence[Mapping[str, Any]]:
        """Take in what was logged after an iteration.

        Args:
            scalars: As the tracker gets them.
            env_steps: Where the run is.
            done: Share of the run's iterations, in (0, 1].

        Returns:
            Plain facts, one event ``diagnosis`` each.
        """

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
