"""Which return counts as nothing and which as everything, for each task there are published numbers for."""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from plasticine.errors import UserError

__all__ = ["BOUNDS_FILE", "Bounds", "bounds_of", "normalise"]

#: The table; its head names the sources.
BOUNDS_FILE = Path(__file__).with_name("bounds.csv")


class Bounds(NamedTuple):
    """Returns that are scored 0 and 1, and where they come from (``ale/breakout``)."""

    low: float
    high: float
    source: str

    @property
    def span(self) -> float:
        """Distance between the two, > 0."""
        return self.high - self.low


def normalise(value: float, bounds: Bounds | None) -> float:
    """``(value - low) / (high - low)``; NaN without bounds or for a value that is not finite.

    Human-normalised for Atari, min-max for Procgen, a thousandth for the DeepMind control suite, the share of the
    maximum for Craftax.
    """
    return math.nan if bounds is None or not math.isfinite(value) else (value - bounds.low) / bounds.span


def bounds_of(env: str, task: str, params: Mapping[str, Any]) -> Bounds | None:
    """Look up the bounds of a task.

    Args:
        env: Name of the stream, ``<level>/<domain>``, e.g. ``continual_procgen/games``.
        task: Name of the task, used where the stream's name does not say the game.
        params: Flattened configuration of the run (``run.json``); Procgen's difficulty is read from it.

    Returns:
        None if there is no row: a level of your own has none, unless it is asked for with explicit bounds.
    """
    level, _, domain = env.partition("/")
    suite = level.rpartition("_")[2]
    if suite == "procgen":
        suite = f"procgen_{params.get('env.distribution_mode')}"
    if suite == "craftax":
        domain = domain.removesuffix("_symbolic").removesuffix("_pixels")
    rows = _table()
    for name in (domain, task, "*"):
        if (suite, name) in rows:
            low, high = rows[suite, name]
            return Bounds(low, high, f"{suite}/{name}")
    return None


@functools.cache
def _table(path: Path = BOUNDS_FILE) -> dict[tuple[str, str], tuple[float, float]]:
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    found: dict[tuple[str, str], tuple[float, float]] = {}
    for row in csv.DictReader(lines):
        low, high = float(row["low"]), float(row["high"])
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UserError(f"{path}: {row['suite']},{row['task']} needs finite low < high", "mend the row")
        found[row["suite"], row["task"]] = low, high
    return found
