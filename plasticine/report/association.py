"""Which metric announces lost performance: one figure a level, and what can and cannot be concluded."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.correlation import Among, CorrelationStudy, Finding, Scope, correlation_study
from plasticine.analysis.stats import Estimate
from plasticine.report.forest import Item, draw_forest
from plasticine.report.runs import RunData
from plasticine.report.style import Wanted
from plasticine.report.table import Table

__all__ = ["Associations", "associations", "associations_table", "conclusions", "pictures"]

_WORDS: dict[Among, str] = {"seeds": "between seeds of one cell", "methods": "between methods"}
_SHOWN = 20  # metrics in a figure at most
Associations = dict[Among, CorrelationStudy]


def associations(runs: Sequence[RunData]) -> Associations:
    """Correlate metrics with later loss between the seeds of a cell, and between methods."""
    tracks = [run.track for run in runs]
    return {among: correlation_study(tracks, among=among) for among in _WORDS}


def conclusions(found: Associations) -> list[str]:
    """Return what can be said, a sentence a scope."""
    lines = [
        f"{scope.name}, {_WORDS[among]}: {scope.conclusion}"
        for among, study in found.items()
        for scope in study.scopes.values()
    ]
    left = found["seeds"].left_out
    if left:
        lines.append(f"{left} runs are too short or incomplete for this question.")
    return lines


def pictures(found: Associations) -> list[Wanted]:
    """Return a figure for each scope that has enough runs."""
    return [
        _picture(among, scope)
        for among, study in found.items()
        for scope in study.scopes.values()
        if any(np.isfinite(_rho(finding)) for finding in scope.findings)
    ]


def _picture(among: Among, scope: Scope) -> Wanted:
    known = [finding for finding in scope.findings if np.isfinite(_rho(finding))]
    items = [_item(finding, scope.runs) for finding in known[:_SHOWN]]
    hidden = len(known) - len(items)
    return Wanted(
        f"correlation.{among}.{scope.name.replace(' ', '_')}",
        f"Metrics and later loss: {scope.name}, {_WORDS[among]}",
        "Spearman's ρ of a metric with the performance lost later, at the lead time at which it is strongest, with "
        "its 95 % bootstrap interval; p after Holm's correction over the metrics. Above 0: a high value announces "
        "loss; below 0: a low one. Coloured: not by chance. A correlation is no cause. "
        + (f"{hidden} weaker ones are in tables/correlations.csv." if hidden else ""),
        partial(draw_forest, items=items, x="ρ with later loss", reference=0.0, limits=(-1.02, 1.02)),
    )  # fmt: skip


def _item(finding: Finding, runs: int) -> Item:
    c = finding.correlated
    found = Estimate(_rho(finding), np.asarray(c.low), np.asarray(c.high), (runs,), "")
    ahead = f", {finding.steps:,.0f} steps ahead" if np.isfinite(finding.steps) else ""
    tone = "hue0" if finding.verdict == "predicts" else "muted"
    return Item(finding.metric, found, tone, f"p={finding.p_adjusted:.2g}{ahead}")


def _rho(finding: Finding) -> NDArray[np.float64]:
    return np.asarray(finding.correlated.rho[finding.correlated.lag])


def associations_table(found: Associations) -> Table:
    """Return every correlation."""
    rows = [
        (
            scope.name, _WORDS[among], f.metric, float(_rho(f)), float(f.correlated.low), float(f.correlated.high),
            f.p_adjusted, f.steps, scope.runs, f.verdict,
        )
        for among, study in found.items() for scope in study.scopes.values() for f in scope.findings
    ]  # fmt: skip
    heads = (
        "level",
        "compared",
        "metric",
        "rho",
        "low",
        "high",
        "p_adjusted",
        "steps_ahead",
        "runs",
        "verdict",
    )
    return Table("correlations", "Metrics and later loss", heads, rows)
