"""Estimates with their intervals, one line each, beside a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticine.analysis.stats import Estimate
from plasticine.report.lettering import clip, number, width
from plasticine.report.style import COLUMN, FONT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Item", "bracket", "draw_forest"]

_ROW = FONT * 1.55 / 72
_LABEL = 30


@dataclass(frozen=True)
class Item:
    """One line: its name, the estimate, its colour (see `Theme.tone`), and words after the numbers."""

    name: str
    estimate: Estimate
    tone: str = "ink"
    note: str = ""


def draw_forest(
    theme: Theme, items: Sequence[Item], x: str, reference: float, limits: tuple[float, float] | None = None
) -> Figure:
    """Draw a dot and an interval for each item, the numbers at the right, a line at `reference`."""
    from matplotlib.figure import Figure

    labels = [clip(item.name, _LABEL) for item in items]
    texts = [" ".join(filter(None, (number(i.estimate.value), bracket(i.estimate), i.note))) for i in items]
    left = max((width(label) for label in labels), default=0.3) + 0.12
    right = max((width(text) for text in texts), default=0.3) + 0.15
    wide = max(COLUMN, left + right + 1.1)
    bottom, top = 0.4, 0.05
    size = (wide, bottom + top + _ROW * len(items))
    figure = Figure(figsize=size)
    axes = figure.add_axes(
        (left / wide, bottom / size[1], (wide - left - right) / wide, 1 - (bottom + top) / size[1])
    )
    axes.axvline(reference, color=theme.muted, linewidth=0.8, linestyle=(0, (3, 2)), zorder=0)
    for y, (item, text) in enumerate(zip(items, texts, strict=True)):
        color = theme.tone(item.tone)
        value, low, high = (float(part) for part in item.estimate[:3])
        if math.isfinite(low):
            axes.plot([low, high], [y, y], color=color, linewidth=1.2, solid_capstyle="butt")
        axes.plot([value], [y], marker="o", markersize=3.5, color=color,
                  markerfacecolor=color if math.isfinite(low) else theme.paper)  # fmt: skip
        axes.text(1.03, y, text, transform=axes.get_yaxis_transform(), va="center", ha="left")
    axes.set_yticks(range(len(items)), labels)
    axes.set_ylim(len(items) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    axes.set_axisbelow(True)
    if limits is not None:
        axes.set_xlim(*limits)
    axes.locator_params(axis="x", nbins=5)
    axes.set_xlabel(x, labelpad=2)
    return figure


def bracket(estimate: Estimate) -> str:
    """``[0.41, 0.77]``, or nothing where there are too few runs for an interval."""
    low, high = float(estimate.low), float(estimate.high)
    return f"[{number(low)}, {number(high)}]" if math.isfinite(low) else ""
