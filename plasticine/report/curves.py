"""Lines over environment steps, over visits, over strengths: with bands, labels at their ends, task switches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from plasticine.report.lettering import clip, spread, width
from plasticine.report.style import COLUMN, FONT, PAGE, Palette, Theme

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Line", "Panel", "draw_multiples", "draw_panels"]

_HEIGHT = 1.85  # of a panel with labels, inches
_SMALL = (1.62, 1.22)  # of one of many panels
_LABEL = 20  # characters


@dataclass(frozen=True)
class Line:
    """One line.

    Attributes:
        row: Whose it is.
        x, y: Points [k]; NaN where there is none.
        low, high: Ends of the 95 % interval [k], or None: no band.
        dots: Mark the points; for few of them.
    """

    row: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    dots: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Above it.
        lines: In it; those in front last.
        y: Words at the axis, with the unit.
        switches: Where tasks begin, in units of x; the first is the start.
        limits: Of y, or None.
        log: Whether x is logarithmic.
        ticks: Places and words on the x axis, or None.
        labels: Stand as high as the ``end`` of their line, or as its ``mean`` where all lines end alike.
    """

    title: str
    lines: tuple[Line, ...]
    y: str
    switches: tuple[float, ...] = ()
    limits: tuple[float, float] | None = None
    log: bool = False
    ticks: tuple[tuple[float, str], ...] | None = None
    labels: str = "end"


def draw_panels(theme: Theme, palette: Palette, panels: Sequence[Panel], x: str) -> Figure:
    """Draw panels one column wide, two beside each other if there are several, each line labelled at its end."""
    from matplotlib.figure import Figure

    across = min(2, max(1, len(panels)))
    down = max(1, math.ceil(len(panels) / across))
    headed = any(panel.title or len(panel.switches) > 1 for panel in panels)
    each_high = _HEIGHT if headed else _HEIGHT - 0.25
    size = (COLUMN if across == 1 else PAGE, each_high * down + 0.05)
    figure = Figure(figsize=size)
    names = sorted({line.row for panel in panels for line in panel.lines if palette.named(line.row)})
    right = max((width(clip(name, _LABEL)) for name in names), default=0.0) + 0.12
    left, bottom, top = 0.52, 0.36, 0.34 if headed else 0.09
    each = size[0] / across
    for index, panel in enumerate(panels):
        row, column = divmod(index, across)
        y0 = size[1] - each_high * (row + 1) - 0.02
        box = (column * each + left, y0 + bottom, each - left - right, each_high - bottom - top)
        axes = figure.add_axes((box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]))
        _fill(axes, theme, palette, panel)
        _switches(axes, theme, panel, box[2])
        axes.set_xlabel(x, labelpad=1.5)
        axes.set_ylabel(clip(panel.y, 30), labelpad=2)
        axes.set_title(_title(panel.title, each - left), pad=4 if len(panel.switches) < 2 else 12)
        _label_ends(axes, theme, palette, panel, box[3])
    return figure


def draw_multiples(
    theme: Theme, palette: Palette, panels: Sequence[tuple[str, Panel]], x: str, y: str
) -> Figure:
    """Draw one small panel a row of the study, all on the same axes, the baseline in grey in each.

    Args:
        theme, palette: Colours.
        panels: The row each panel is about, and the panel.
        x, y: Words at the axes.
    """
    from matplotlib.figure import Figure

    across = min(4, len(panels))
    down = math.ceil(len(panels) / across)
    left, bottom, top, gap = 0.5, 0.38, 0.04, 0.17
    size = (left + across * (_SMALL[0] - 0.08) + 0.02, bottom + top + down * (_SMALL[1] + 0.06))
    figure = Figure(figsize=size)
    wide, high = _SMALL[0] - 0.08 - 0.1, _SMALL[1] - gap - 0.06
    limits = _limits([line for _, panel in panels for line in panel.lines])
    for index, (own, panel) in enumerate(panels):
        row, column = divmod(index, across)
        x0 = left + column * (_SMALL[0] - 0.08)
        y0 = size[1] - top - (row + 1) * (_SMALL[1] + 0.06) + 0.06
        axes = figure.add_axes((x0 / size[0], y0 / size[1], wide / size[0], high / size[1]))
        _fill(axes, theme, Palette(palette.baseline, (own,)), panel)
        for step in panel.switches[1:]:
            axes.axvline(step, color=theme.muted, linestyle=(0, (1, 2)), linewidth=0.6, zorder=0)
        axes.set_title(_title(panel.title, wide), pad=2)
        axes.set_ylim(*limits)
        bare = row < down - 1 and index + across < len(panels)
        axes.tick_params(labelbottom=not bare, labelleft=column == 0)
        axes.locator_params(axis="x", nbins=4)
        axes.locator_params(axis="y", nbins=4)
    figure.text((left + (size[0] - left) / 2) / size[0], 0.05 / size[1], x, ha="center", va="bottom")
    figure.text(0.02 / size[0], 0.5, y, ha="left", va="center", rotation=90)
    return figure


def _title(text: str, room: float) -> str:
    characters = len(text)
    while characters > 5 and width(clip(text, characters), bold=True) > room:
        characters -= 1
    return clip(text, characters)


def _limits(lines: Sequence[Line]) -> tuple[float, float]:
    parts = [part for line in lines for part in (line.y, line.low, line.high) if part is not None]
    values = np.concatenate(parts) if parts else np.zeros(0)
    values = values[np.isfinite(values)]
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    pad = 0.05 * (high - low) or max(abs(high) * 0.05, 0.5)
    return low - pad, high + pad


def _fill(axes: Axes, theme: Theme, palette: Palette, panel: Panel) -> None:
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    if panel.log:
        axes.set_xscale("log")
    for line in sorted(panel.lines, key=lambda line: (palette.named(line.row), line.row != palette.baseline)):
        color = palette.color(line.row, theme)
        kept = np.isfinite(line.y)
        axes.plot(
            line.x[kept], line.y[kept], color=color, marker="o" if line.dots or kept.sum() == 1 else None,
            markersize=3, linewidth=1.3 if palette.named(line.row) else 0.6, zorder=2 + palette.named(line.row),
        )  # fmt: skip
        if line.low is not None and line.high is not None and palette.named(line.row):
            both = kept & np.isfinite(line.low) & np.isfinite(line.high)
            if line.dots:
                axes.vlines(line.x[both], line.low[both], line.high[both], color=color, linewidth=0.8)
            else:
                axes.fill_between(line.x[both], line.low[both], line.high[both], color=color, alpha=0.2,
                                  linewidth=0)  # fmt: skip
    axes.margins(x=0.02 if any(line.dots for line in panel.lines) else 0)
    axes.set_ylim(*(panel.limits or _limits(panel.lines)))
    if panel.ticks is not None:
        axes.minorticks_off()
        axes.set_xticks([place for place, _ in panel.ticks], [word for _, word in panel.ticks])


def _switches(axes: Axes, theme: Theme, panel: Panel, wide: float) -> None:
    """Draw where tasks begin, and their numbers above as far as they fit."""
    for step in panel.switches[1:]:
        axes.axvline(step, color=theme.muted, linestyle=(0, (1, 2)), linewidth=0.8, zorder=0)
    if len(panel.switches) < 2:
        return
    high = axes.get_xlim()[1]
    edges = [*panel.switches, high]
    room = wide / len(panel.switches)
    every = next((k for k in (1, 2, 5, 10, 20, 50) if room * k > 0.22), 100)
    for index in range(0, len(panel.switches), every):
        middle = (edges[index] + edges[index + 1]) / 2
        text = f"task {index + 1}" if index == 0 and room * every > 0.42 else str(index + 1)
        axes.text(middle, 1.01, text, transform=axes.get_xaxis_transform(), ha="center", va="bottom",
                  color=theme.muted)  # fmt: skip


def _label_ends(axes: Axes, theme: Theme, palette: Palette, panel: Panel, high: float) -> None:
    ends = []
    low, top = axes.get_ylim()
    for line in panel.lines:
        kept = np.flatnonzero(np.isfinite(line.y))
        if len(kept) and palette.named(line.row):
            level = float(line.y[kept[-1]] if panel.labels == "end" else line.y[kept].mean())
            ends.append((line.row, (level - low) / (top - low)))
    gap = FONT * 1.15 / 72 / high
    places = spread([end for _, end in ends], gap, 0.0, 1.0)
    for (row, _), place in zip(ends, places, strict=True):
        axes.text(1.02, place, clip(row, _LABEL), transform=axes.transAxes, ha="left", va="center",
                  color=palette.color(row, theme))  # fmt: skip
