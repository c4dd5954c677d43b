"""Tables for papers: LaTeX with booktabs."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plasticine.analysis.stats import Estimate
from plasticine.report.evidence import Evidence
from plasticine.report.winners import Grid

__all__ = ["escape", "grid_latex", "improvement_latex"]

_SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "·": r"$\cdot$", "–": "--", "…": r"\dots{}",
}  # fmt: skip


def escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(_SPECIAL.get(character, character) for character in " ".join(text.split()))


def grid_latex(evidence: Evidence, grid: Grid) -> str:
    """Return the grid: IQM over its interval, the best of a column in bold, seeds in the caption."""
    best = {column: grid.best(column)[0] for column in grid.columns}
    body = []
    for row in evidence.layout.rows:
        cells = [escape(row)]
        for column in grid.columns:
            found = grid.estimates.get((row, column))
            cells.append("--" if found is None else _cell(found, best[column] == row))
        body.append(" & ".join(cells) + r" \\")
    levels = [column[0] for column in grid.columns]
    spans, rules, start = [], [], 0
    for k in range(1, len(levels) + 1):
        if k == len(levels) or levels[k] != levels[start]:
            spans.append(rf"\multicolumn{{{k - start}}}{{c}}{{{escape(levels[start])}}}")
            rules.append(rf"\cmidrule(lr){{{start + 2}-{k + 1}}}")
            start = k
    runs = sorted({n for found in grid.estimates.values() for n in found.runs})
    many = (
        "no finished runs"
        if not runs
        else f"{runs[0]} runs"
        if len(runs) == 1
        else f"{runs[0]} to {runs[-1]} runs"
    )
    return _table(
        "l" + "c" * len(grid.columns),
        [" & ".join(["", *spans]) + r" \\", "".join(rules),
         " & ".join(["Method", *(escape(name) for _, name in grid.columns)]) + r" \\"],
        body,
        rf"Normalised score, interquartile mean with 95\,\% stratified-bootstrap interval over {many} per cell.",
        "grid",
    )  # fmt: skip


def improvement_latex(evidence: Evidence, baseline: str) -> str:
    """Return the probabilities of improvement."""
    rows = sorted(evidence.improvement.items(), key=lambda item: (-float(item[1][0].value), item[0]))
    body = [
        f"{escape(row)} & {float(found.value):.2f} & {_interval(found) or '--'} & {min(found.runs)} \\\\"
        for row, (found, _) in rows
    ]
    return _table(
        "lccc", [r"Method & $P(\mathrm{better})$ & 95\,\% interval & runs \\"], body,
        f"Probability that a run scores higher than a run of {escape(baseline)} on the same environment.",
        "improvement",
    )  # fmt: skip


def _cell(found: Estimate, best: bool) -> str:
    value = f"{float(found.value):.2f}"
    value = rf"\textbf{{{value}}}" if best else value
    interval = _interval(found)
    return rf"{value} {{\scriptsize {interval}}}" if interval else value


def _interval(found: Estimate) -> str:
    low, high = float(found.low), float(found.high)
    return f"[{low:.2f}, {high:.2f}]" if math.isfinite(low) else ""


def _table(columns: str, heads: Sequence[str], body: Sequence[str], caption: str, label: str) -> str:
    lines = [
        "% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}",
        rf"\label{{tab:{label}}}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", *heads, r"\midrule", *body,
        r"\bottomrule", r"\end{tabular}", r"\end{table}", "",
    ]  # fmt: skip
    return "\n".join(lines)
