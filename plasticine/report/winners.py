"""Figures about who won: the grid, ranks, probability of improvement, profiles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from plasticine.analysis.bootstrap import FEW_RUNS
from plasticine.analysis.stats import Estimate
from plasticine.report.curves import Line, Panel, draw_panels
from plasticine.report.evidence import SCORES, Comparison, Evidence
from plasticine.report.forest import Item, bracket, draw_forest
from plasticine.report.lettering import number
from plasticine.report.matrix import Tile, draw_matrix
from plasticine.report.runs import RunData
from plasticine.report.style import Palette, Wanted

__all__ = ["Grid", "grid_of", "sizes", "winners"]

#: Heading of the column over all environments of a level.
ALL = "all {} env."


def winners(evidence: Evidence, grid: Grid, baseline: str, palette: Palette) -> list[Wanted]:
    """Return the figures; fewer where there is nothing to compare."""
    figures = [_grid(evidence, grid)]
    if evidence.improvement:
        figures.append(_improvement(evidence, baseline))
    if evidence.comparison is not None:
        figures += [_ranks(evidence.comparison), _profiles(evidence, evidence.comparison, palette)]
    return figures


@dataclass(frozen=True)
class Grid:
    """The grid as it is drawn and printed.

    Attributes:
        columns: (level, name); the environments of a level, then all of them together.
        estimates: By row and column.
        counts: By row and column, how many runs are in which state; not for columns over several environments.
    """

    columns: tuple[tuple[str, str], ...]
    estimates: Mapping[tuple[str, tuple[str, str]], Estimate]
    counts: Mapping[tuple[str, tuple[str, str]], Mapping[str, int]]

    def best(self, column: tuple[str, str]) -> tuple[str | None, float]:
        """Return the row with the highest value of a column (None if there is no other) and the value."""
        known = {row: float(e.value) for (row, where), e in self.estimates.items() if where == column}
        if not known:
            return None, 1.0
        row = max(sorted(known), key=lambda name: known[name])
        return (row if len(known) > 1 else None), known[row]

    def absent(self, row: str, column: tuple[str, str]) -> str:
        """Return why there is no value."""
        count = self.counts.get((row, column), {})
        return ", ".join(f"{n} {state}" for state, n in sorted(count.items())) or "–"


def grid_of(evidence: Evidence, runs: Sequence[RunData]) -> Grid:
    """Arrange the estimates of all cells."""
    layout = evidence.layout
    columns: list[tuple[str, str]] = []
    estimates = {(row, (c.level, c.name)): found for (row, c), found in evidence.grid.items()}
    for level in dict.fromkeys(column.level for column in layout.columns):
        mine = [(column.level, column.name) for column in layout.columns if column.level == level]
        columns += mine
        if len(mine) > 1:
            together = (level, ALL.format(len(mine)))
            columns.append(together)
            estimates |= {(row, together): e for (row, name), e in evidence.levels.items() if name == level}
    counts: dict[tuple[str, tuple[str, str]], Counter[str]] = {}
    for run in runs:
        row, column = layout.place[run.cell]
        counts.setdefault((row, (column.level, column.name)), Counter())[run.state] += 1
    return Grid(tuple(columns), estimates, counts)


def sizes(estimate: Estimate) -> str:
    """``n=5``, or ``n=3–5`` where environments differ, with a sign if that is few."""
    low, high = min(estimate.runs), max(estimate.runs)
    return f"n={low}" + (f"–{high}" if high > low else "") + (" ⚠" if low <= FEW_RUNS else "")


def _grid(evidence: Evidence, grid: Grid) -> Wanted:
    rows = [row for row in evidence.layout.rows if any(where[0] == row for where in grid.counts)]
    tiles = {}
    for column in grid.columns:
        best, top = grid.best(column)
        for row in rows:
            found = grid.estimates.get((row, column))
            if found is None:
                tiles[row, "\n".join(column)] = Tile(None, (grid.absent(row, column),))
                continue
            lines = (f"{number(found.value)}  {sizes(found)}", bracket(found) or "one seed")
            shade = float(found.value) / top if top > 0 else float(found.value >= top)
            tiles[row, "\n".join(column)] = Tile(shade, lines, row == best)
    scales = "; ".join(f"{c.name}: {evidence.scales[c].words}" for c in evidence.layout.columns)
    return Wanted(
        "grid", "Every method on every level",
        f"Interquartile mean over runs of the {SCORES[evidence.score][2]}, normalised, with its 95 % "
        "stratified-bootstrap interval and the number of runs. Brighter is better: from 0 to the best of the column, "
        f"which is bold. ⚠ marks up to {FEW_RUNS} seeds, whose interval is too narrow to rely on. "
        f"What counts as 0 and 1: {scales}.",
        partial(
            draw_matrix, rows=rows, columns=["\n".join(column) for column in grid.columns], tiles=tiles,
            groups=[column[0] for column in grid.columns],
        ),
    )  # fmt: skip


def _improvement(evidence: Evidence, baseline: str) -> Wanted:
    rows = [row for row in evidence.ranked if row in evidence.improvement]
    rows.sort(key=lambda row: -float(evidence.improvement[row][0].value))
    most = max(len(columns) for _, columns in evidence.improvement.values())
    items = []
    for row in rows:
        found, columns = evidence.improvement[row]
        where = "" if len(columns) == most else f", {len(columns)} of {most} env."
        items.append(Item(row, found, note=f"{sizes(found)}{where}"))
    return Wanted(
        "improvement", f"Probability of improvement over {baseline}",
        f"How likely a run of the method scores higher than a run of {baseline} on the same environment, averaged "
        "over the environments both have; 95 % stratified-bootstrap interval. Dashed: 0.5, no difference. An "
        "interval that does not reach 0.5 is evidence for a difference, not for a large one. "
        "Nothing is corrected for the number of methods.",
        partial(draw_forest, items=items, x=f"P(better than {baseline})", reference=0.5, limits=(-0.02, 1.02)),
    )  # fmt: skip


def _ranks(comparison: Comparison) -> Wanted:
    count = len(comparison.rows)
    order = sorted(range(count), key=lambda k: (float(comparison.ranks[comparison.rows[k]].value), k))
    heads = [str(place + 1) for place in range(count)]
    tiles = {}
    for k in order:
        row = comparison.rows[k]
        for place, head in enumerate(heads):
            share = float(comparison.places[k, place])
            text = f"{100 * share:.0f}" if share >= 0.005 else ""
            tiles[row, head] = Tile(share / max(float(comparison.places.max()), 1e-9), (text,))
    notes = {}
    for row, ranks in comparison.ranks.items():
        notes[row] = " ".join(filter(None, (number(ranks.value), bracket(ranks))))
    return Wanted(
        "ranks", "Ranks",
        "Chance in per cent of each rank (1: best) when one run of every method is drawn on the same environment, "
        "averaged over environments; beside it the mean rank with its 95 % interval. " + _of(comparison),
        partial(
            draw_matrix, rows=[comparison.rows[k] for k in order], columns=heads, tiles=tiles,
            across="rank", notes=notes,
        ),
    )  # fmt: skip


def _profiles(evidence: Evidence, comparison: Comparison, palette: Palette) -> Wanted:
    lines = tuple(
        Line(row, comparison.thresholds, found.value, found.low, found.high)
        for row, found in comparison.profiles.items()
    )
    panel = Panel("", lines, "share of runs above τ", limits=(0.0, 1.02), labels="mean")
    return Wanted(
        "profiles", "Performance profiles",
        "Share of runs whose normalised score is above τ, averaged over environments, with its 95 % band. A line "
        "above another everywhere is better everywhere; where lines cross, it depends on what counts as good. "
        + _of(comparison),
        partial(draw_panels, palette=palette, panels=[panel], x="τ, normalised score"),
    )  # fmt: skip


def _of(comparison: Comparison) -> str:
    text = "Over " + ", ".join(column.name for column in comparison.columns) + "."
    if comparison.left_out:
        text += f" Left out, as they lack one of these: {', '.join(comparison.left_out)}."
    return text
