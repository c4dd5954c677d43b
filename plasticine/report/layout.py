"""Rows and columns of a study: which cells are the same method, which the same level, and what they are called."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from plasticine.report.runs import RunData

__all__ = ["Column", "Layout", "Setting", "period", "plain_value"]

#: Settings of an environment that say how data is collected, not what the task is: they follow the agent.
_COLLECTION = ("num_envs", "normalize_obs", "normalize_reward", "normalizer_on_switch")
Params = Mapping[str, Any]


@dataclass(frozen=True, order=True)
class Column:
    """A stream of tasks.

    Attributes:
        level: Level of non-stationarity.
        name: Of the environment, with what tells it from other columns of the same environment.
    """

    level: str
    name: str


@dataclass(frozen=True)
class Setting:
    """What one row of the study is.

    Attributes:
        method, agent: Names.
        own: Settings that tell it from other rows of the same method and agent; key to value.
    """

    method: str
    agent: str
    own: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Layout:
    """The grid.

    Attributes:
        rows: Names of the rows, those of the baseline first, then by name.
        columns: In order of level and name.
        settings: By row.
        place: Row and column of every cell.
        baselines: The rows of the baseline method, by agent; a row is compared with that of its own agent.
    """

    rows: tuple[str, ...]
    columns: tuple[Column, ...]
    settings: Mapping[str, Setting]
    place: Mapping[str, tuple[str, Column]]
    baselines: Mapping[str, str]

    @property
    def agents(self) -> tuple[str, ...]:
        """Names of the agents."""
        return tuple(sorted({setting.agent for setting in self.settings.values()}))

    def short(self, row: str) -> str:
        """Return the name of a row where its agent is known: without it."""
        return row.replace(f" · {self.settings[row].agent}", "", 1)

    def baseline_of(self, row: str) -> str | None:
        """Return the row that `row` is compared with; None for a baseline itself, or if there is none."""
        found = self.baselines.get(self.settings[row].agent)
        return None if found == row else found

    @classmethod
    def of(cls, runs: Iterable[RunData], baseline: str) -> Layout:
        """Sort the cells of a study into rows and columns."""
        cells = {run.cell: run for run in runs}
        ordered = [cells[cell] for cell in sorted(cells)]
        split = _column_keys(ordered)
        columns = {
            run.cell: Column(run.level, _named(run.env, run.params, split[run.env])) for run in ordered
        }
        own: dict[tuple[str, str], set[str]] = defaultdict(set)
        groups: dict[tuple[str, str, Column], list[RunData]] = defaultdict(list)
        for run in ordered:
            groups[run.method, run.agent, columns[run.cell]].append(run)
        for (method, agent, _), members in groups.items():
            own[method, agent] |= _varying([member.params for member in members])
        agents = {run.agent for run in ordered}
        settings: dict[str, Setting] = {}
        place: dict[str, tuple[str, Column]] = {}
        for run in ordered:
            keys = sorted(own[run.method, run.agent])
            values = tuple((key, plain_value(run.params[key])) for key in keys if key in run.params)
            name = run.method if len(agents) == 1 else f"{run.method} · {run.agent}"
            row = _named(name, dict(values), {key for key, _ in values})
            if (
                row,
                columns[run.cell],
            ) in place.values():  # differs in a setting that only one of the two has
                row = f"{row} {run.cell}"
            settings[row] = Setting(run.method, run.agent, values)
            place[run.cell] = (row, columns[run.cell])
        rows = sorted(settings, key=lambda row: (settings[row].method != baseline, _natural(row)))
        baselines: dict[str, str] = {}
        for row in rows:
            if settings[row].method == baseline:
                baselines.setdefault(settings[row].agent, row)
        return cls(tuple(rows), tuple(sorted(set(columns.values()))), settings, place, baselines)


def _natural(name: str) -> list[tuple[float, str]]:
    """Sort key under which 2 comes before 10."""
    parts = re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?|\D+", name)
    return [(float(part), "") if part[0].isdigit() else (-1.0, part) for part in parts]


def _column_keys(runs: list[RunData]) -> dict[str, set[str]]:
    """By environment, the settings that make different tasks of it."""
    by_env: dict[str, list[Params]] = defaultdict(list)
    for run in runs:
        by_env[run.env].append(run.params)
    return {
        env: {
            key for key in _varying(members)
            if key.startswith("env.") and key.rpartition(".")[2] not in _COLLECTION
        }
        for env, members in by_env.items()
    }  # fmt: skip


def _varying(members: list[Params]) -> set[str]:
    keys = {key for params in members for key in params}
    found = set()
    for key in keys:
        values = {plain_value(params[key]) for params in members if key in params}
        if len(values) > 1:
            found.add(key)
    return found


def _named(name: str, params: Params, keys: set[str]) -> str:
    """``redo tau=0.1``: the last part of each key, or two where that is not enough."""
    parts = []
    for key in sorted(keys & set(params)):
        short = key.removesuffix("._target_").rpartition(".")[2]
        if sum(other.rpartition(".")[2] == short for other in keys) > 1:
            short = ".".join(key.split(".")[-2:])
        value = plain_value(params[key])
        parts.append(value if short == "when" and value[:5] == "every" else f"{short}={value}")
    return " ".join([name, *parts])


def plain_value(value: Any) -> str:
    """Return a setting as people write it; rules of when something happens in words."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+", value):
        return value.rpartition(".")[2]  # a class: its name is enough
    if isinstance(value, str) and value[:1] in "[{" and value[-1:] in "]}":
        try:
            value = json.loads(value)
        except ValueError:
            return value
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return " or ".join(_rule(item) for item in value)
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, (dict, list)):
        return json.dumps(value)
    return "null" if value is None else str(value)


def _rule(rule: Mapping[str, Any]) -> str:
    if rule.get("every") is not None:
        return f"every {rule['every']} {rule.get('unit', 'iterations')}"
    if rule.get("at") is not None:
        return f"at {rule['at']:g} of {rule.get('of', 'run')}"
    return f"on {rule.get('on', rule.get('true'))}"


def period(value: str) -> tuple[float, str] | None:
    """Return what a plain value says as a number and its unit (``every 10 updates``: 10, updates); else None."""
    words = value.split()
    if len(words) == 3 and words[0] == "every":
        return float(words[1]), words[2]
    if len(words) == 4 and words[0] == "at":
        return float(words[1]), f"share of the {words[3]}"
    try:
        return float(value), ""
    except ValueError:
        return None
