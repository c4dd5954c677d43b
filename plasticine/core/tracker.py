"""What the trainer tells the outside world, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Episode", "Mark", "NullTracker", "Outcome", "Tracker"]

Outcome = Literal["finished", "failed", "interrupted"]
#: Position in the record of a run, stored in checkpoints (plain data).
Mark = dict[str, Any]


class Episode(NamedTuple):
    """One finished episode: raw (unscaled, unclipped) return, length in env steps, where it ended."""

    env_steps: int
    task: int
    episodic_return: float
    length: int


class Tracker(Protocol):
    """Sink of a run's record. Called between iterations only, never inside them."""

    def log(self, scalars: Mapping[str, float], env_steps: int) -> None:
        """Record scalars at a step. Non-finite values are counted (``health/nonfinite``), never written."""

    def episodes(self, finished: Sequence[Episode]) -> None:
        """Record finished episodes one by one."""

    def event(self, kind: str, env_steps: int, facts: Mapping[str, Any]) -> None:
        """Record something that happened (task switch, intervention, resume) with plain facts."""

    def film(
        self,
        name: str,
        frames: Sequence[NDArray[np.uint8]],
        fps: float,
        env_steps: int,
        facts: Mapping[str, Any],
    ) -> None:
        """Keep RGB images [height, width, 3] as a film, and record that there is one.

        Args:
            name: Of the film within the run; a film of the same name is replaced.
            frames: At least one.
            fps: Images per second.
            env_steps: Where the run is.
            facts: Plain facts about what is to be seen.
        """

    def layers(self, values: Mapping[str, Mapping[str, Mapping[str, float]]], env_steps: int) -> None:
        """Record values of single layers: metric -> network -> layer -> value, NaN where there is none."""

    def mark(self) -> Mark:
        """Make everything recorded so far durable and return the position reached."""

    def commit(self, mark: Mark) -> None:
        """A checkpoint that contains `mark` is durable: what lies before it can never be undone."""

    def rewind(self, mark: Mark) -> None:
        """Drop everything recorded after `mark` (the run continues from the checkpoint that holds it)."""

    def close(self, outcome: Outcome) -> None:
        """Say how the run ended and make the record durable."""


class NullTracker:
    """Records nothing (``tracker=none``, tests)."""

    def log(self, scalars: Mapping[str, float], env_steps: int) -> None:
        """Ignore."""

    def episodes(self, finished: Sequence[Episode]) -> None:
        """Ignore."""

    def event(self, kind: str, env_steps: int, facts: Mapping[str, Any]) -> None:
        """Ignore."""

    def film(
        self,
        name: str,
        frames: Sequence[NDArray[np.uint8]],
        fps: float,
        env_steps: int,
        facts: Mapping[str, Any],
    ) -> None:
        """Ignore."""

    def layers(self, values: Mapping[str, Mapping[str, Mapping[str, float]]], env_steps: int) -> None:
        """Ignore."""

    def mark(self) -> Mark:
        """Return an empty position."""
        return {}

    def commit(self, mark: Mark) -> None:
        """Ignore."""

    def rewind(self, mark: Mark) -> None:
        """Ignore."""

    def close(self, outcome: Outcome) -> None:
        """Ignore."""
