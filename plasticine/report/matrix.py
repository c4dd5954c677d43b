"""A table whose tiles have colours: the grid of results, the distribution of ranks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plasticine.report.lettering import clip, width
from plasticine.report.style import COLUMN, FONT, Theme

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Tile", "draw_matrix"]

_ROW_LABEL = 34  # characters
_LINE = FONT * 1.3 / 72  # inches


@dataclass(frozen=True)
class Tile:
    """One tile.

    Attributes:
        shade: 0 (dark) to 1 (bright); None: no colour, as there is nothing to see.
        lines: Of text.
        best: The first line is bold.
    """

    shade: float | None
    lines: tuple[str, ...] = ()
    best: bool = False


def draw_matrix(
    theme: Theme,
    rows: Sequence[str],
    columns: Sequence[str],
    tiles: Mapping[tuple[str, str], Tile],
    *,
    groups: Sequence[str] = (),
    across: str = "",
    notes: Mapping[str, str] | None = None,
) -> Figure:
    """Draw the table.

    Args:
        theme: Colours.
        rows, columns: Names, in order; of a column's name only the last line is written.
        tiles: By row and column; what is missing is drawn as such.
        groups: Heading above each column; equal neighbours share one.
        across: What the columns are.
        notes: Words at the right of each row; the tiles are then only as wide as their text.
    """
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    labels = [clip(row, _ROW_LABEL) for row in rows]
    longest = max((width(line, bold=True) for tile in tiles.values() for line in tile.lines), default=0.0)
    longest = max(longest, 0.16)
    depth = max((len(tile.lines) for tile in tiles.values()), default=1)
    left = max((width(label) for label in labels), default=0.3) + 0.12
    wide, high = longest + 0.12, _LINE * depth + 0.09
    if notes is None:
        wide = max(wide, min(1.2, (COLUMN - left - 0.05) / max(len(columns), 1)))
    heads = [_wrapped(column.rpartition("\n")[2], wide) for column in columns]
    over = [group for group in groups] if any(groups) else []
    top = max((len(head) for head in heads), default=1) * _LINE + 0.06
    top += (_LINE + 0.06) * (bool(over) + bool(across))
    right = max((width(note) + 0.12 for note in (notes or {}).values()), default=0.05)
    size = (left + wide * len(columns) + right, top + high * len(rows) + 0.05)
    figure = Figure(figsize=size)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, size[0]), ylim=(size[1], 0))
    axes.axis("off")
    colors = colormaps["cividis"]
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        y = top + i * high
        axes.text(left - 0.07, y + high / 2, label, ha="right", va="center")
        note = (notes or {}).get(row, "")
        axes.text(left + wide * len(columns) + 0.06, y + high / 2, note, ha="left", va="center")
        for j, column in enumerate(columns):
            tile = tiles.get((row, column), Tile(None, ("–",)))
            x = left + j * wide
            fill = theme.paper if tile.shade is None else colors(min(max(tile.shade, 0.0), 1.0))
            axes.add_patch(
                Rectangle((x + 0.012, y + 0.012), wide - 0.024, high - 0.024, facecolor=fill,
                          edgecolor=theme.faint if tile.shade is None else "none", linewidth=0.5)
            )  # fmt: skip
            ink = theme.muted if tile.shade is None else "#ffffff" if tile.shade < 0.55 else "#000000"
            first = y + high / 2 - _LINE * (len(tile.lines) - 1) / 2
            for k, line in enumerate(tile.lines):
                axes.text(
                    x + wide / 2, first + k * _LINE, line, ha="center", va="center", color=ink,
                    fontweight="bold" if tile.best and k == 0 else "normal",
                )  # fmt: skip
    for j, head in enumerate(heads):
        axes.text(left + (j + 0.5) * wide, top - 0.05, "\n".join(head), ha="center", va="bottom",
                  linespacing=1.15)  # fmt: skip
    y = _LINE / 2 + 0.03
    if across:
        axes.text(left + wide * len(columns) / 2, y, across, ha="center", va="center", color=theme.muted)
        y += _LINE + 0.06
    start = 0
    for j in range(1, len(over) + 1):
        if j == len(over) or over[j] != over[start]:
            text = _fitting(over[start], wide * (j - start))
            axes.text(left + wide * (start + j) / 2, y, text, ha="center", va="center", fontweight="bold")
            axes.plot([left + wide * start + 0.05, left + wide * j - 0.05], [y + _LINE * 0.62] * 2,
                      color=theme.muted, linewidth=0.6)  # fmt: skip
            start = j
    return figure


def _fitting(text: str, room: float, bold: bool = True) -> str:
    characters = len(text)
    while characters > 4 and width(clip(text, characters), bold=bold) > room - 0.06:
        characters -= 1
    return clip(text, characters)


def _wrapped(text: str, room: float) -> list[str]:
    """Break a heading at its separators into lines that fit; a part too long is clipped."""
    lines: list[str] = []
    parts = text.replace("/", "/\0").replace("_", "_\0").replace(" ", " \0").replace("=", "=\0").split("\0")
    for part in parts:
        if lines and width(lines[-1] + part) <= room - 0.08:
            lines[-1] += part
        else:
            lines.append(part)
    lines = [_fitting(line.strip(), room, bold=False) for line in lines if line.strip()]
    return lines if len(lines) <= 4 else [*lines[:2], "…", lines[-1]]
