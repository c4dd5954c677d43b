"""What ran: versions, and the settings in which cells differ."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from plasticine.report.layout import Layout, plain_value
from plasticine.report.runs import RunData
from plasticine.report.table import Table
from plasticine.tracking.jsonfile import read_json

__all__ = ["confounds", "settings_table", "versions_table"]

#: Parts of a configuration that do not change what is learnt.
_ASIDE = ("metrics.", "evaluation.", "diagnosis.", "budget.")


def versions_table(runs: Sequence[RunData]) -> Table:
    """Return code, packages and hardware with how many runs had which."""
    seen: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        for key, value in _origin(run).items():
            seen[key][value].append(run.where)
    rows = []
    for key in sorted(seen, key=lambda key: (len(seen[key]) < 2, key)):
        values = sorted(seen[key].items(), key=lambda item: (-len(item[1]), item[0]))
        for value, where in values:
            rows.append((key, value, len(where), where[0] if len(values) > 1 else ""))
    return Table(
        "versions", "Versions", ("what", "value", "runs", "for example"), rows,
        "What differs between runs comes first. Every run's `provenance.json` has the rest.",
    )  # fmt: skip


def _origin(run: RunData) -> dict[str, str]:
    try:
        facts = read_json(run.folder / "provenance.json") or {}
    except ValueError:
        return {"provenance": "unreadable"}
    if not facts:
        return {"provenance": "missing"}
    code = (facts.get("git") or {}).get("plasticine") or {}
    found = {f"package {name}": str(version) for name, version in (facts.get("packages") or {}).items()}
    found["python"] = str(facts.get("python"))
    found["code"] = str(code.get("revision")) + (" with uncommitted changes" if code.get("dirty") else "")
    hardware = facts.get("hardware") or {}
    for name in ("cpu", "gpu", "gpus"):
        if hardware.get(name):
            found[name] = plain_value(hardware[name])
    if facts.get("resumed"):
        found["continued"] = "after a stop"
    return found


def settings_table(runs: Sequence[RunData], layout: Layout) -> Table:
    """Return the settings that are not the same in all cells, and who has which value."""
    cells = {run.cell: run.params for run in runs}
    rows = []
    for key in sorted({key for params in cells.values() for key in params}):
        holders: dict[str, list[str]] = defaultdict(list)
        for cell, params in cells.items():
            if key in params:
                holders[plain_value(params[key])].append(cell)
        own = key.startswith("method.")
        if len(holders) < 2 and (not own or len(layout.rows) < 2):
            continue
        everyone = [cell for some in holders.values() for cell in some]
        for value in sorted(holders):
            rows.append((key, value, _who(holders[value], everyone, layout)))
    return Table(
        "settings", "Settings that differ", ("setting", "value", "where"), rows,
        "Everything that is not listed is the same in all runs. The complete configuration of a run is in its "
        "`config.yaml`.",
    )  # fmt: skip


def _who(cells: Sequence[str], among: Sequence[str], layout: Layout) -> str:
    """Name cells as shortly as possible: all, whole columns, whole rows, else one by one."""
    chosen = {layout.place[cell] for cell in cells}
    others = {layout.place[cell] for cell in among} - chosen
    for part, name in ((1, "name"), (0, "")):
        mine = {place[part] for place in chosen}
        if others and not mine & {place[part] for place in others}:
            return ", ".join(sorted(getattr(x, name) if name else str(x) for x in mine))
    if not others:
        return ", ".join(sorted({row for row, _ in chosen}))
    return "; ".join(sorted(f"{row} on {column.name}" for row, column in chosen))


def confounds(runs: Sequence[RunData], layout: Layout) -> list[str]:
    """Return what else differs between rows that are compared, besides their methods and what their names say."""
    cells: dict[tuple[Any, str], dict[str, Mapping[str, Any]]] = defaultdict(dict)
    for run in runs:
        row, column = layout.place[run.cell]
        cells[column, run.agent][row] = run.params
    found: dict[str, set[str]] = defaultdict(set)
    for (column, _), members in cells.items():
        named = {key for row in members for key, _ in layout.settings[row].own}
        for key in {key for params in members.values() for key in params} - named:
            values = {plain_value(params.get(key)) for params in members.values()}
            if len(values) > 1 and not key.startswith(("method.", *_ASIDE)):
                found[f"{key} ({', '.join(sorted(values))})"].add(column.name)
    return [f"{what} on {', '.join(sorted(columns))}" for what, columns in sorted(found.items())]
