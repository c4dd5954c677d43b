"""What a reader of MLflow's pages sees first of a study: a table, and the views its links open."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping

from plasticine.comparison.cell import RETURN, SCORES, STATISTICS, CellRuns
from plasticine.tracking.views import METHODS_VIEW, Chart, View, only

__all__ = ["describe", "state_of", "views"]

_ROWS = 60  # of the table; a longer one is the report's
_PAGES = 12  # environments with a view of their own


def state_of(cells: Mapping[str, CellRuns]) -> str:
    """Return MLflow's word for how the study stands."""
    total = sum(runs.total for runs in cells.values())
    failed = sum(runs.failed for runs in cells.values())
    finished = sum(len(runs.finished) for runs in cells.values())
    if finished + failed < total:
        return "RUNNING"
    return "FAILED" if failed else "FINISHED"


def describe(study: str, cells: Mapping[str, CellRuns], numbers: Mapping[str, Mapping[str, float]]) -> str:
    """Return the study's description in Markdown: a line for each cell, the best of each environment first.

    Args:
        study: Its name.
        cells: Its cells.
        numbers: Last values of their aggregates.
    """

    def score(cell: str) -> float:
        return numbers[cell].get(f"iqm/{SCORES[0]}", float("-inf"))

    order = sorted(cells, key=lambda cell: (cells[cell].identity["env"], -score(cell), cell))
    rows = [
        "| environment | method | agent | cell | seeds | final return (IQM) | 95 % interval | mean |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in order[:_ROWS]:
        names, found = cells[cell].identity, numbers[cell]
        mean, middle, low, high = (_number(found.get(f"{name}/{SCORES[0]}")) for name in STATISTICS)
        interval = f"{low} to {high}" if low and high else "-"
        rows.append(
            f"| {names['env']} | {names['method']} | {names['agent']} | {cell[:8]} | {cells[cell].state} "
            f"| {middle or '-'} | {interval} | {mean or '-'} |"
        )
    lines = [f"All runs of study `{study}` and what they come to.", "\n".join(rows)]
    if len(order) > _ROWS:
        lines.append(f"{len(order) - _ROWS} more in the report.")
    lines.append(
        "Runs with the tag `kind = aggregate` are statistics over the seeds of one configuration, those with "
        "`kind = seed` the runs themselves. The saved views of the experiment compare them. Figures and report: "
        "artifacts of this run."
    )
    return "\n\n".join(lines)


def views(cells: Mapping[str, CellRuns], keys: Collection[str]) -> list[View]:
    """Return the saved views: methods by their aggregates (for several environments: of each), seeds by method.

    Args:
        cells: Cells of the study.
        keys: Metric keys of their aggregates.
    """
    with_one = {name: [c for c in cells.values() if c.identity["env"] == name] for name in _envs(cells)}
    several = len(with_one) > 1
    found = [_methods(METHODS_VIEW, "Methods compared", "", keys, len(cells))]
    if several:
        for env, members in list(with_one.items())[:_PAGES]:
            name = f"{METHODS_VIEW}-{hashlib.sha256(env.encode()).hexdigest()[:6]}"
            found.append(_methods(name, f"Methods on {env}", f" and tags.env = '{env}'", keys, len(members)))
    return [*found, _seeds(keys, cells, several)]


def _envs(cells: Mapping[str, CellRuns]) -> list[str]:
    return sorted({runs.identity["env"] for runs in cells.values()})


def _methods(name: str, title: str, more: str, keys: Collection[str], runs: int) -> View:
    curves = _curves(keys)
    charts = [Chart("LINE", (f"iqm/{RETURN}",)), Chart("BAR", (f"iqm/{SCORES[0]}",))]
    if f"ci_low/{RETURN}" in keys:
        charts.append(Chart("LINE", tuple(f"{name}/{RETURN}" for name in STATISTICS[1:])))
    charts += [Chart("LINE", (f"iqm/{key}",)) for key in curves if key != RETURN]
    if "task/index" in keys:
        charts.append(Chart("LINE", ("task/index",)))
    first = [f"iqm/{SCORES[0]}", f"ci_low/{SCORES[0]}", f"ci_high/{SCORES[0]}"]
    columns = ("params.`method`", "params.`agent`", "params.`env`", "params.`seeds`")
    return View(
        name=name,
        title=title,
        search=only("aggregate") + more,
        order=f"metrics.`{first[0]}`",
        columns=(*columns, *(f"metrics.`{key}`" for key in first)),
        charts=tuple(charts),
        folded=tuple(sorted(keys)),
        runs=runs,
    )


def _seeds(keys: Collection[str], cells: Mapping[str, CellRuns], several: bool) -> View:
    curves = _curves(keys) or [RETURN]
    agents = {runs.identity["agent"] for runs in cells.values()}
    names = {(r.identity["method"], r.identity["agent"], r.identity["env"]) for r in cells.values()}
    group = ["method", *(["agent"] if len(agents) > 1 else []), *(["env"] if several else [])]
    group += ["cell"] if len(names) < len(cells) else []
    charts = [Chart("LINE", (key,)) for key in curves]
    return View(
        name="seeds",
        title="Seeds, grouped by method",
        search=only("seed"),
        order=f"metrics.`{SCORES[0]}`",
        columns=(
            "params.`method`",
            "params.`agent`",
            "params.`env`",
            "params.`seed`",
            f"metrics.`{SCORES[0]}`",
        ),
        charts=tuple(charts),
        group=tuple(group),
        folded=("loss/", "speed/", "train/", "eval/", "health/", "task/", "plasticity/", "summary/"),
        runs=len(cells),
    )


def _curves(keys: Collection[str]) -> list[str]:
    """Return the keys that aggregates have curves of, the return first."""
    bare = {key.removeprefix("iqm/") for key in keys if key.startswith("iqm/")}
    return sorted(bare - set(SCORES), key=lambda key: (key != RETURN, key))


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
