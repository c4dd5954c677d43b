"""Figures about how often and how strongly a method acts, where a study varies that."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from plasticine.report.curves import Line, Panel, draw_panels
from plasticine.report.evidence import Evidence
from plasticine.report.layout import period
from plasticine.report.style import Palette, Wanted

__all__ = ["Dose", "doses", "doses_of"]


class Dose(NamedTuple):
    """A setting of a method that takes several values while everything else stays the same.

    Attributes:
        method, agent: Whose.
        key: The setting.
        unit: Of its values.
        others: Settings that stay the same, in words.
        rows: Value and row, by value.
    """

    method: str
    agent: str
    key: str
    unit: str
    others: str
    rows: tuple[tuple[float, str], ...]

    @property
    def name(self) -> str:
        """Of the setting, without its method."""
        short = self.key.removeprefix("method.").partition(".")[2]
        return f"period of {self.method}" if short == "when" and "share" not in self.unit else short


def doses_of(evidence: Evidence) -> list[Dose]:
    """Find the settings of methods that a study varies."""
    found: dict[tuple[str, str, str, str, str], dict[float, str]] = defaultdict(dict)
    for row, setting in evidence.layout.settings.items():
        for key, value in setting.own:
            number = period(value)
            if key.startswith("method.") and number is not None:
                others = " ".join(f"{k.rpartition('.')[2]}={v}" for k, v in setting.own if k != key)
                found[setting.method, setting.agent, key, number[1], others][number[0]] = row
    return [Dose(*key, tuple(sorted(rows.items()))) for key, rows in sorted(found.items()) if len(rows) > 1]


def doses(evidence: Evidence, several_agents: bool) -> list[Wanted]:
    """Return a figure for each method whose settings vary: a panel a setting, a line an environment."""
    by_method: dict[tuple[str, str], list[Dose]] = defaultdict(list)
    for dose in doses_of(evidence):
        by_method[dose.method, dose.agent].append(dose)
    figures = []
    for (method, agent), group in by_method.items():
        panels = [_panel(evidence, dose) for dose in group]
        shown: Sequence[Panel] = [panel for panel in panels if panel.lines]
        if not shown:
            continue
        names = [column.name for column in evidence.layout.columns]
        title = f"{method} · {agent}" if several_agents else method
        stem = re.sub(r"[^\w+.-]+", "_", f"{method}.{agent}")
        axis = {_axis(dose) for dose, panel in zip(group, panels, strict=True) if panel.lines}
        figures.append(
            Wanted(
                f"dose.{stem}", f"How often, how strongly: {title}",
                "Interquartile mean over runs of the normalised score, 95 % interval, against the setting that "
                "varies; a line an environment. A peak inside means that the best value lies in the range that was "
                "tried; one at an end, that the range was too small.",
                partial(
                    draw_panels, palette=Palette.choose(names, None), panels=shown,
                    x=axis.pop() if len(axis) == 1 else "value of the setting",
                ),
            )
        )  # fmt: skip
    return figures


def _axis(dose: Dose) -> str:
    return f"{dose.name}, {dose.unit}" if dose.unit else dose.name


def _panel(evidence: Evidence, dose: Dose) -> Panel:
    lines = []
    for column in evidence.layout.columns:
        points = [
            (value, evidence.grid[row, column]) for value, row in dose.rows if (row, column) in evidence.grid
        ]
        if len(points) > 1:
            x = np.array([value for value, _ in points])
            y, low, high = (
                np.array([float(getattr(found, part)) for _, found in points])
                for part in ("value", "low", "high")
            )
            lines.append(Line(column.name, x, y, low, high, dots=True))
    values = [value for value, _ in dose.rows]
    log = values[0] > 0 and values[-1] / values[0] >= 8
    ticks = tuple((value, f"{value:g}") for value in values) if len(values) <= 8 else None
    title = " ".join(filter(None, (_axis(dose), f"({dose.others})" if dose.others else "")))
    return Panel(title, tuple(lines), "normalised score", log=log, ticks=ticks)
