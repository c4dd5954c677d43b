"""How figures look: colours, sizes and the files they become."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = [
    "COLUMN",
    "DARK",
    "FONT",
    "LIGHT",
    "PAGE",
    "Palette",
    "Theme",
    "Wanted",
    "css_variables",
    "figure_files",
    "for_page",
    "themed",
]

#: Widths in inches: one column and the text width of a two-column paper.
COLUMN, PAGE = 3.25, 6.75
#: Points; nothing in a figure is smaller.
FONT = 7.0
_DPI = 200


@dataclass(frozen=True)
class Theme:
    """Colours on one background.

    Attributes:
        name: ``light`` or ``dark``.
        paper, ink, muted, faint: Background, text, secondary lines and text, grid lines.
        hues: Told apart with every common colour blindness (Okabe and Ito, 2008, without the yellow, which is
            not seen on white; lighter on dark paper).
    """

    name: str
    paper: str
    ink: str
    muted: str
    faint: str
    hues: tuple[str, ...]

    def tone(self, name: str) -> str:
        """Return a colour by its name: ``ink``, ``muted``, ``hue0`` ..."""
        return _variables(self)[name]


LIGHT = Theme(
    "light", "#fefefe", "#1b1f24", "#6a7079", "#d6dae0",
    ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
)  # fmt: skip
DARK = Theme(
    "dark", "#14171b", "#e6e8eb", "#9aa3ad", "#3a4048",
    ("#4a9fe0", "#ff8a4c", "#2fc79d", "#e39cc4", "#f2b840", "#9bdafc"),
)  # fmt: skip


@dataclass(frozen=True)
class Palette:
    """Which hue belongs to which row of the study, in every figure.

    Attributes:
        baseline: Drawn in grey; None if there is none.
        focus: Rows with a hue of their own, in order; all others are thin lines without a label.
    """

    baseline: str | None
    focus: tuple[str, ...]

    @classmethod
    def choose(cls, ranked: Sequence[str], baseline: str | None) -> Palette:
        """Give hues to the best rows of `ranked` (best first), but hand them out in alphabetical order.

        So a method keeps its colour whenever the same methods are compared, whoever wins.
        """
        others = [row for row in ranked if row != baseline]
        return cls(baseline, tuple(sorted(others[: len(LIGHT.hues)])))

    def color(self, row: str, theme: Theme) -> str:
        """Return the colour of a row."""
        if row == self.baseline:
            return theme.muted
        return theme.hues[self.focus.index(row)] if row in self.focus else theme.faint

    def named(self, row: str) -> bool:
        """Whether a row gets a colour and a label."""
        return row == self.baseline or row in self.focus


@dataclass(frozen=True)
class Wanted:
    """One figure before it is drawn.

    Attributes:
        name: Stem of its files.
        title: For the page.
        caption: What it shows and how to read it; one or more sentences.
        draw: ``draw(theme) -> Figure``.
    """

    name: str
    title: str
    caption: str
    draw: Callable[[Theme], Any]


@contextlib.contextmanager
def themed(theme: Theme) -> Iterator[None]:
    """Draw in the colours of `theme`; no text is taken for a formula, names may hold any character."""
    import matplotlib as mpl

    mpl.use("Agg")
    settings: dict[Any, Any] = {
        "text.parse_math": False,
        "font.family": ["DejaVu Sans"], "font.size": FONT,
        "axes.titlesize": FONT, "axes.labelsize": FONT, "xtick.labelsize": FONT, "ytick.labelsize": FONT,
        "axes.titleweight": "bold", "axes.titlelocation": "left",
        "figure.facecolor": theme.paper, "axes.facecolor": theme.paper, "savefig.facecolor": theme.paper,
        "text.color": theme.ink, "axes.labelcolor": theme.ink, "axes.titlecolor": theme.ink,
        "xtick.color": theme.muted, "ytick.color": theme.muted,
        "xtick.labelcolor": theme.ink, "ytick.labelcolor": theme.ink,
        "axes.edgecolor": theme.muted, "grid.color": theme.faint, "grid.linewidth": 0.5,
        "axes.linewidth": 0.6, "xtick.major.width": 0.6, "ytick.major.width": 0.6,
        "xtick.major.size": 2.5, "ytick.major.size": 2.5,
        "axes.spines.top": False, "axes.spines.right": False, "lines.linewidth": 1.3,
        "svg.fonttype": "path", "svg.hashsalt": "plasticine", "pdf.fonttype": 42,
        "figure.dpi": 100, "savefig.dpi": _DPI, "axes.unicode_minus": True,
    }  # fmt: skip
    with mpl.rc_context(settings):
        yield


def figure_files(wanted: Wanted, folder: Path | None) -> str:
    """Draw a figure light and dark, write PNG and PDF below `folder` (None: nothing) and return its SVG.

    The bytes follow from the drawing alone: no time, no version, no random identifier.
    """
    with themed(LIGHT):
        figure = wanted.draw(LIGHT)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
        if folder is not None:
            figure.savefig(folder / f"{wanted.name}.png", metadata={"Software": None})
            figure.savefig(
                folder / f"{wanted.name}.pdf",
                metadata={"CreationDate": None, "Creator": None, "Producer": None},
            )
    if folder is not None:
        with themed(DARK):
            wanted.draw(DARK).savefig(folder / f"{wanted.name}-dark.png", metadata={"Software": None})
    return text.getvalue()


def for_page(svg: str, name: str) -> str:
    """Return an SVG to be put into HTML: its colours are variables of the page, its identifiers its own."""
    svg = svg[svg.index("<svg") :]
    for variable, color in _variables(LIGHT).items():
        svg = svg.replace(color, f"var(--{variable})")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(?<=\sid=")|(?<=href="#)|(?<=url\(#)', f"{name}-", svg)
    svg = re.sub(r'(<svg[^>]*?) height="[\d.]+pt"', r"\1", svg, count=1)
    return re.sub(r'(?<=<svg)([^>]*?) width="([\d.]+)pt"', _wider, svg, count=1)


def _wider(found: re.Match[str]) -> str:
    """A page is read from further away than a paper."""
    return f'{found[1]} width="{2 * float(found[2]):.0f}"'


def _variables(theme: Theme) -> dict[str, str]:
    hues = {f"hue{index}": color for index, color in enumerate(theme.hues)}
    return {"paper": theme.paper, "ink": theme.ink, "muted": theme.muted, "faint": theme.faint, **hues}


def css_variables() -> str:
    """Return the rules that give the page its colours, light and dark."""
    light, dark = (
        "".join(f"--{name}:{color};" for name, color in _variables(theme).items()) for theme in (LIGHT, DARK)
    )
    return f":root{{color-scheme:light dark;{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}"
