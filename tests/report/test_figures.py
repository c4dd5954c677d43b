"""Figures: nothing is cut off, nothing lies on top of something else, nothing is too small to read."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ET
from collections.abc import Iterator

import numpy as np
import pytest

from plasticine.analysis.stats import Estimate
from plasticine.report.curves import Line, Panel, draw_multiples, draw_panels
from plasticine.report.forest import Item, draw_forest
from plasticine.report.lettering import clip, number, spread, steps_unit, width
from plasticine.report.matrix import Tile, draw_matrix
from plasticine.report.style import (
    COLUMN,
    DARK,
    FONT,
    LIGHT,
    PAGE,
    Palette,
    Wanted,
    figure_files,
    for_page,
    themed,
)

ROWS = [
    "vanilla",
    "snp",
    "redo every 100 updates tau=0.025",
    "a_very_long+combination_of+methods",
    "cbp",
    "trac",
    "l2",
]
PALETTE = Palette.choose(ROWS, "vanilla")
X = np.linspace(1, 8, 50)


def lines(rows: list[str] = ROWS, dots: bool = False) -> tuple[Line, ...]:
    """All end at nearly the same height: the hardest case for labels."""
    found = []
    for k, row in enumerate(rows):
        y = np.tanh(X) * (100 + 0.1 * k)
        found.append(Line(row, X, y, y - 1, y + 1, dots=dots))
    return tuple(found)


def panel(**more) -> Panel:
    return Panel(
        "PPO on a level with a name that does not fit", lines(), "episodic return", tuple(range(8)), **more
    )


def estimate(value: float) -> Estimate:
    return Estimate(np.array(value), np.array(value - 0.1), np.array(value + 0.1), (5,), "")


TILES = {
    (row, f"{level}\n{env}"): Tile(0.5, ("0.51  n=5 ⚠", "[0.41, 0.62]"), best=True)
    for row in ROWS
    for level, env in (
        ("continual", "classic/cartpole"),
        ("continual", "continual_dmc/quadruped shift=permute"),
    )
}
FIGURES = {
    "one": lambda theme: draw_panels(theme, PALETTE, [panel()], "environment steps (millions)"),
    "several": lambda theme: draw_panels(theme, PALETTE, [panel(), panel(), panel(labels="mean")], "task"),
    "multiples": lambda theme: draw_multiples(
        theme, PALETTE, [(row, Panel(row, (lines()[0], line), "")) for row, line in zip(ROWS, lines(), strict=True)],
        "environment steps (millions)", "episodic return",
    ),
    "forest": lambda theme: draw_forest(
        theme, [Item(row, estimate(0.1 * k), note="n=5, 1 of 3 env.") for k, row in enumerate(ROWS)], "P(better)", 0.5
    ),
    "matrix": lambda theme: draw_matrix(
        theme, ROWS, list(dict.fromkeys(column for _, column in TILES)), TILES, groups=["continual", "continual"]
    ),
    "ranks": lambda theme: draw_matrix(
        theme, ROWS, [str(k + 1) for k in range(7)],
        {(row, str(k + 1)): Tile(k / 7, (str(10 * k),)) for row in ROWS for k in range(7)},
        across="rank", notes=dict.fromkeys(ROWS, "1.65 [1.32, 1.98]"),
    ),
}  # fmt: skip


def texts(figure) -> Iterator[tuple[str, float, tuple[float, float, float, float]]]:
    """Every visible text: what, size in points, box in pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text().strip():
            box = text.get_window_extent(canvas.get_renderer())
            if not all(_drawn(axes, text, box) for axes in figure.axes):
                continue
            if any(np.isnan(part) for part in (box.x0, box.y0, box.x1, box.y1)):
                continue
            yield text.get_text(), text.get_fontsize(), (box.x0, box.y0, box.x1, box.y1)


def _drawn(axes, text, box) -> bool:
    """Whether a text is what matplotlib really draws: no tick of hidden axes, or outside of the limits."""
    middle = ((box.x0 + box.x1) / 2, (box.y0 + box.y1) / 2)
    for k, axis in enumerate((axes.xaxis, axes.yaxis)):
        if text in axis.findobj(type(text)):
            if not axes.axison or text not in [axis.label, axis.get_offset_text(), *axis.get_ticklabels()]:
                return False
            inside = (axes.bbox.x0, axes.bbox.y0)[k] - 1 <= middle[k] <= (axes.bbox.x1, axes.bbox.y1)[k] + 1
            return inside or text is axis.label
    return True


@pytest.mark.parametrize("name", FIGURES)
def test_everything_fits_and_can_be_read(name):
    with themed(LIGHT):
        figure = FIGURES[name](LIGHT)
        found = list(texts(figure))
        wide, high = figure.bbox.width, figure.bbox.height
    assert len(found) >= 7
    for text, size, (x0, y0, x1, y1) in found:
        assert size >= 7, text
        assert x0 >= -1, text
        assert y0 >= -1, text
        assert x1 <= wide + 1, text
        assert y1 <= high + 1, text
    for (a, _, p), (b, _, q) in itertools.combinations(found, 2):
        across = min(p[2], q[2]) - max(p[0], q[0])
        down = min(p[3], q[3]) - max(p[1], q[1])
        assert across <= 1.5 or down <= 2.5, f"{a!r} lies on {b!r}"


@pytest.mark.parametrize(("name", "wide"), [("one", COLUMN), ("several", PAGE)])
def test_figures_are_as_wide_as_a_column_or_a_page(name, wide):
    with themed(LIGHT):
        assert FIGURES[name](LIGHT).get_size_inches()[0] == pytest.approx(wide)


def test_the_same_drawing_is_the_same_bytes_and_has_no_date(tmp_path):
    from functools import partial

    wanted = Wanted(
        "f", "t", "c", partial(draw_forest, items=[Item("a", estimate(0.3))], x="x", reference=0.5)
    )
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    svg = figure_files(wanted, tmp_path / "a")
    assert figure_files(wanted, tmp_path / "b") == svg
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert names == ["f-dark.png", "f.pdf", "f.png"]
    for name in names:
        content = (tmp_path / "a" / name).read_bytes()
        assert content == (tmp_path / "b" / name).read_bytes()
        assert b"CreationDate" not in content
        assert b"Matplotlib" not in content
    assert (tmp_path / "a" / "f.png").read_bytes() != (tmp_path / "a" / "f-dark.png").read_bytes()


def test_on_the_page_colours_follow_the_page_and_names_do_not_clash():
    wanted = Wanted("f", "t", "c", FIGURES["forest"])
    svg = for_page(figure_files(wanted, None), "first")
    ET.fromstring(svg)
    assert LIGHT.ink not in svg
    assert "var(--ink)" in svg
    assert 'id="first-' in svg
    assert 'href="#first-' in svg
    assert "<metadata>" not in svg


def test_names_are_text_and_never_formulas():
    items = [
        Item(r"$\frac{1}{0}$ <script>alert(1)</script> & --> ", estimate(0.5)),
        Item(r"$\frac$", estimate(0.4)),
    ]
    svg = for_page(figure_files(Wanted("f", "t", "c", lambda t: draw_forest(t, items, "x", 0.5)), None), "f")
    ET.fromstring(svg)
    assert "script" not in svg


def test_a_row_without_an_interval_has_a_hollow_dot():
    nothing = Estimate(np.array(0.4), np.array(np.nan), np.array(np.nan), (1,), "one seed: no interval")
    with themed(LIGHT):
        figure = draw_forest(LIGHT, [Item("a", nothing)], "x", 0.5)
        (dot,) = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    assert dot.get_markerfacecolor() == LIGHT.paper
    assert len(figure.axes[0].lines) == 2  # the reference and the dot: no interval


def test_a_method_keeps_its_colour_whoever_wins():
    one = Palette.choose(["a", "b", "vanilla", "c"], "vanilla")
    two = Palette.choose(["c", "vanilla", "b", "a"], "vanilla")
    for row in ("a", "b", "c", "vanilla"):
        assert one.color(row, LIGHT) == two.color(row, LIGHT)
    assert one.color("vanilla", DARK) == DARK.muted
    many = Palette.choose([f"m{k}" for k in range(9)], None)
    assert [many.named(f"m{k}") for k in range(9)] == [True] * 6 + [False] * 3


def test_labels_are_moved_no_more_than_needed():
    assert spread([0.1, 0.5, 0.9], 0.1, 0, 1) == pytest.approx([0.1, 0.5, 0.9])
    assert spread([0.5, 0.5], 0.2, 0, 1) == pytest.approx([0.4, 0.6])
    assert spread([0.52, 0.5, 0.1], 0.1, 0, 1) == pytest.approx([0.56, 0.46, 0.1])
    placed = spread([1.0] * 5, 0.2, 0, 1)
    assert sorted(placed) == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    crowded = spread([0.5] * 9, 0.2, 0, 1)
    assert min(np.diff(sorted(crowded))) == pytest.approx(0.125)
    assert spread([], 0.1, 0, 1) == []


def test_numbers_are_short():
    found = [number(x) for x in (0.5123, 31.25, -0.25, 123456.0, 0.0, float("nan"), -0.0001, float("inf"))]
    assert found == ["0.51", "31.2", "−0.25", "1.2e+05", "0.00", "–", "−0.0001", "∞"]


def test_steps_have_a_unit():
    assert steps_unit(8e6) == (1e6, "environment steps (millions)")
    assert steps_unit(6000) == (1e3, "environment steps (thousands)")
    assert steps_unit(500) == (1.0, "environment steps")


def test_long_names_keep_both_ends():
    assert clip("short", 10) == "short"
    assert clip("redo every 100 updates tau=0.025", 16) == "redo every…0.025"
    assert clip("a\x1b[31m\nb", 20) == "a [31m b"
    assert width("wide text") > width("wide")
    assert width("x", 2 * FONT) == pytest.approx(2 * width("x"), rel=0.1)
