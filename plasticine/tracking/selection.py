"""What of a run's record goes to MLflow: its pages stay usable with about 40 keys of about 2,000 points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

from plasticine.errors import UserError

__all__ = ["ForwardSettings", "Point", "Selection"]

#: Which keys stay when there are too many, first to last; then single items of a list (``train/success/<item>``), and
#: then single networks.
_ORDER = ("train", "eval", "task", "speed", "loss", "plasticity", "health")


@dataclass(frozen=True)
class ForwardSettings:
    """The part of ``tracker`` that says how much goes to MLflow.

    Attributes:
        per_network: Also forward ``plasticity/<metric>/<network>`` (always in metrics.jsonl).
        max_keys: Keys a run, at least 1; ``summary/*`` comes on top.
        max_points: Points a key, its last value included, at least 2; never more, however long the run.
    """

    per_network: bool
    max_keys: int
    max_points: int

    @classmethod
    def from_config(cls, tracker: Mapping[str, Any]) -> ForwardSettings:
        """Read the settings from the ``tracker`` group of a resolved config.

        Raises:
            UserError: A setting is missing or out of range.
        """
        missing = [f.name for f in fields(cls) if f.name not in tracker]
        if missing:
            raise UserError(f"tracker.{missing[0]} is not set", "choose one of the files in conf/tracker")
        settings = cls(bool(tracker["per_network"]), int(tracker["max_keys"]), int(tracker["max_points"]))
        if settings.max_keys < 1 or settings.max_points < 2:
            raise UserError(
                f"tracker.max_keys={settings.max_keys} or max_points={settings.max_points} forwards nothing",
                "max_keys is at least 1, max_points at least 2; tracker=local forwards nothing on purpose",
            )
        return settings


class Point(NamedTuple):
    """One value for MLflow: key, unix ms, env steps, value."""

    key: str
    time: int
    step: int
    value: float


@dataclass
class Selection:
    """Chooses points line by line; the same lines after the same state always give the same points.

    A key is forwarded again once `stride` lines have passed since its last point, whatever else is on the
    lines between: thinning by line number alone would drop keys that appear on every tenth line only.

    Attributes:
        lines: Lines seen.
        last: Line of each key's last forwarded point.
        held: Latest value of each key that was not forwarded: [unix ms, env steps, value].
        seen: Keys in order of appearance (without ``summary/*`` and unwanted per-network keys).
        sent: Points forwarded of each key.
    """

    lines: int = 0
    last: dict[str, int] = field(default_factory=dict)
    held: dict[str, list[Any]] = field(default_factory=dict)
    seen: list[str] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=dict)

    def take(self, entry: Mapping[str, Any], settings: ForwardSettings, planned: int | None) -> list[Point]:
        """Return the points of one ``m`` line.

        Args:
            entry: The line.
            settings: How much is wanted.
            planned: Number of lines the whole run will write, if known. Lines beyond it, or beyond half of
                `max_points` if it is not known, are thinned more and more.
        """
        stride = _stride(self.lines, settings.max_points, planned)
        values = {k: v for k, v in entry["m"].items() if math.isfinite(v)}
        self._notice(values, settings)
        kept = self.kept(settings)
        points = []
        for key, value in values.items():
            point = Point(key, entry["t"], entry["s"], value)
            if key.startswith("summary/"):
                points.append(point)
            elif key in kept:
                due = key not in self.last or self.lines - self.last[key] >= stride
                if due and self.sent.get(key, 0) < settings.max_points - 1:  # one is kept for the last value
                    points.append(point)
                    self.last[key] = self.lines
                    self.sent[key] = self.sent.get(key, 0) + 1
                    self.held.pop(key, None)
                else:
                    self.held[key] = [point.time, point.step, point.value]
        self.lines += 1
        return points

    def rest(self, settings: ForwardSettings) -> list[Point]:
        """Return the last value of every key whose last value was thinned out; call it when the run ends."""
        kept = self.kept(settings)
        room = {key for key in kept if self.sent.get(key, 0) < settings.max_points}
        points = [Point(key, *held) for key, held in self.held.items() if key in room]
        self.held.clear()
        for point in points:
            self.sent[point.key] = self.sent.get(point.key, 0) + 1
        return points

    def kept(self, settings: ForwardSettings) -> set[str]:
        """Return the keys that are forwarded, ``summary/*`` apart."""
        return set(self._ranked()[: settings.max_keys])

    def left_out(self, settings: ForwardSettings) -> list[str]:
        """Return the keys that are not forwarded because there are too many."""
        return self._ranked()[settings.max_keys :]

    def _ranked(self) -> list[str]:
        return sorted(self.seen, key=_rank)  # stable: first come, first served within a rank

    def _notice(self, keys: Mapping[str, float], settings: ForwardSettings) -> None:
        for key in keys:
            wanted = settings.per_network or not _is_per_network(key)
            if wanted and key not in self.seen and not key.startswith("summary/"):
                self.seen.append(key)


def _is_per_network(key: str) -> bool:
    return key.startswith("plasticity/") and key.count("/") >= 2


def _is_item(key: str) -> bool:
    return key.startswith("train/") and key.count("/") >= 2


def _rank(key: str) -> tuple[bool, bool, int]:
    group = key.split("/", 1)[0]
    return _is_per_network(key), _is_item(key), _ORDER.index(group) if group in _ORDER else len(_ORDER)


def _stride(line: int, max_points: int, planned: int | None) -> int:
    """Return how many lines apart the points of a key are at this line.

    The k-th doubling of the length beyond what was expected gets a 1/(k(k+1)) of the points that are left; all of
    them together never get more.
    """
    if planned is not None and planned <= max_points:
        stride = 1
    elif planned is not None:
        stride = -(
            -planned // (max_points - max_points // 50)
        )  # room for the last value at every interruption
    else:
        planned, stride = max(1, max_points // 2), 1
    if line < planned:
        return stride
    left = max(1, max_points - -(-planned // stride))
    doubling = (line // planned).bit_length()
    length = planned * 2 ** (doubling - 1)
    return max(stride, -(-length * doubling * (doubling + 1) // left))
