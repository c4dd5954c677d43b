"""The curves of a run as a diagnosis sees them: bounded in length, the same while it runs and afterwards."""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Curves", "Line"]

Floats = NDArray[np.float64]
#: A longer line is halved by averaging neighbours.
_MOST = 256


class Line:
    """One key over time. Never longer than 256 points; a point is the mean of equally many values."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self._steps = array("d", state.get("steps", ()))
        self._values = array("d", state.get("values", ()))
        self._block = int(state.get("block", 1))  # values in a point
        self._sum = float(state.get("sum", 0.0))  # of the point being gathered
        self._count = int(state.get("count", 0))

    def add(self, step: int, value: float) -> None:
        """Append a finite value."""
        self._sum += value
        self._count += 1
        if self._count < self._block:
            return
        self._steps.append(float(step))
        self._values.append(self._sum / self._block)
        self._sum, self._count = 0.0, 0
        if len(self._steps) == _MOST:
            self._steps = self._steps[1::2]
            v = self._values
            self._values = array("d", [(v[i] + v[i + 1]) / 2.0 for i in range(0, _MOST, 2)])
            self._block *= 2

    @property
    def steps(self) -> Floats:
        """Env steps at the end of each point [n]."""
        return np.asarray(self._steps, np.float64)

    @property
    def values(self) -> Floats:
        """Means [n]."""
        return np.asarray(self._values, np.float64)

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        return {
            "steps": list(self._steps),
            "values": list(self._values),
            "block": self._block,
            "sum": self._sum,
            "count": self._count,
        }


@dataclass
class Curves:
    """What a run has logged so far.

    Attributes:
        lines: By key.
        nonfinite: First env step at which a key was NaN or infinite.
        facts: What else is known of the run: ``actions`` (``{"kind", "n"}``), ``relative_scores`` (of the complete
            tasks beside a fresh agent) and ``task_starts``. Any may be missing.
        env_steps: The last step.
    """

    lines: dict[str, Line] = field(default_factory=dict)
    nonfinite: dict[str, int] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    env_steps: int = 0

    def add(self, scalars: Mapping[str, float], env_steps: int) -> None:
        """Take in what was logged at a step."""
        self.env_steps = env_steps
        for key, value in scalars.items():
            if math.isfinite(value):
                if key not in self.lines:
                    self.lines[key] = Line()
                self.lines[key].add(env_steps, value)
            else:
                self.nonfinite.setdefault(key, env_steps)

    def line(self, key: str, least: int = 1) -> Line | None:
        """The line of a key; None if it has fewer than `least` points."""
        found = self.lines.get(key)
        return found if found is not None and found.values.size >= least else None

    def networks(self, key: str) -> list[str]:
        """The keys ``<key>/<network>``, or the key itself if there are none."""
        prefix = f"{key}/"
        found = sorted(name for name in self.lines if name.startswith(prefix))
        return found or ([key] if key in self.lines else [])

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        return {
            "lines": {key: line.state() for key, line in self.lines.items()},
            "nonfinite": dict(self.nonfinite),
            "env_steps": self.env_steps,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state`; the facts stay."""
        self.lines = {key: Line(line) for key, line in state["lines"].items()}
        self.nonfinite = {key: int(step) for key, step in state["nonfinite"].items()}
        self.env_steps = int(state["env_steps"])
