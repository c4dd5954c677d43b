"""``plasticine list``: what there is to choose from, and what goes with what."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from plasticine.cli.catalogue import SECTIONS, choices, entries, metrics, section
from plasticine.cli.facts import facts
from plasticine.cli.schema import Schema

__all__ = ["collect", "configure", "run"]

_WIDE = 150  # columns where the output is no terminal
_TITLES = {
    "agents": "which agent can act in which level, as they come",
    "networks": "which network can read the observations of which level",
    "methods": "which method goes with which agent; networks are named where some of the agent's do not go with it",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("section", nargs="?", help=f"one of: {', '.join(SECTIONS)} (default: all)")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--config-dir", help="a further folder with YAML files of your own")


def run(arguments: argparse.Namespace) -> int:
    """Print the sections asked for.

    Raises:
        UserError: There is no such section or folder.
    """
    wanted = list(SECTIONS) if arguments.section is None else [section(arguments.section)]
    found = collect(Schema(config_dir=arguments.config_dir), wanted)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        _print(found)
    return 0


def collect(schema: Schema, wanted: Sequence[str]) -> dict[str, Any]:
    """Return the sections as plain data: a list of options each, with ``name`` and ``about``.

    Agents and networks have ``levels``, a mapping to an empty text where they fit, else to the reason why not;
    methods have ``agents``, with one such mapping over networks for each agent. A level that cannot be built here
    has a ``problem`` and a ``fix``.
    """
    found: dict[str, Any] = {}
    for name in wanted:
        rows: list[dict[str, Any]] = [row._asdict() for row in entries(schema, SECTIONS[name])]
        if name == "metrics":
            sets = metrics(schema)
            for row in rows:
                row["metrics"] = [entry._asdict() for entry in sets[row["name"]]]
        found[name] = rows
    if not {"levels", "agents", "networks", "methods"}.intersection(wanted):
        return found
    if sys.stderr.isatty():
        print("asking every part what it goes with ...", end="\r", file=sys.stderr, flush=True)
    known = facts(schema)[0]
    for row in found.get("levels", ()):
        row |= {"choices": choices(schema, row["name"]), **known["levels"][row["name"]]}
    for group in ("agents", "networks"):
        for row in found.get(group, ()):
            row["levels"] = {level: by_name[row["name"]] for level, by_name in known[group].items()}
    for row in found.get("methods", ()):
        row["agents"] = known["methods"][row["name"]]
    return found


def _print(found: Mapping[str, Any]) -> None:
    console = Console(width=None if sys.stdout.isatty() else _WIDE, highlight=False, soft_wrap=False)
    for name, rows in found.items():
        group = SECTIONS[name]
        console.print(Text(f"{name}  ({group}=...)", style="bold"))
        show = {"levels": _levels, "metrics": _metrics}.get(name, _plain)
        show(console, rows)
        if name in ("agents", "networks"):
            levels = {level: None for row in rows for level in row["levels"]}
            _matrix(
                console,
                name,
                {
                    level: {row["name"]: "-" if row["levels"].get(level) else "yes" for row in rows}
                    for level in levels
                },
            )
        elif name == "methods":
            _matrix(
                console,
                name,
                {row["name"]: {a: _networks(by) for a, by in row["agents"].items()} for row in rows},
            )
        console.print()


def _plain(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(box=None, show_header=False, pad_edge=False)
    for row in rows:
        table.add_row(row["name"], Text(row["about"]))
    _print_inside(console, table, 2)


def _metrics(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        _plain(console, [row])
        table = Table(box=None, show_header=False, pad_edge=False)
        for metric in row["metrics"]:
            table.add_row(metric["name"], Text(metric["about"]))
        _print_inside(console, table, 6)


def _levels(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        _print_inside(console, Text(f"{row['name']}: {row['about']}"), 2)
        lines = {key: said for key, said in row["choices"].items()}
        if "problem" in row:
            lines = {"not here": f"{row['problem']}; {row['fix']}", **lines}
        else:
            shape = " x ".join(map(str, row["observations"]))
            kind = f"images of {shape}" if row["images"] else f"vectors of {shape}"
            actions = "discrete actions" if row["actions"] == "discrete" else "continuous components"
            tasks = "1 task" if row["tasks"] == 1 else f"{row['tasks']} tasks, {row['visits']} visits"
            lines = {
                "by default": f"{row['level']}, {row['simulator']}: {tasks}; {kind}, {row['num_actions']} {actions}, "
                f"network={row['network']}",
                **lines,
            }
        table = Table(box=None, show_header=False, pad_edge=False)
        for key, said in lines.items():
            table.add_row(key, Text(said))
        _print_inside(console, table, 6)


def _networks(by_network: Mapping[str, str]) -> str:
    """Where one method goes with one agent."""
    fits = [name for name, reason in by_network.items() if not reason]
    if len(fits) == len(by_network):
        return "yes"
    return ", ".join(fits) if fits else "-"


def _matrix(console: Console, name: str, cells: Mapping[str, Mapping[str, str]]) -> None:
    """Print a table of what goes with what: rows, and what to say of each column."""
    console.print()
    _print_inside(console, Text(_TITLES[name], style="italic"), 2)
    table = Table("", *next(iter(cells.values()), {}), box=None, pad_edge=False)
    for row, by_column in cells.items():
        table.add_row(row, *by_column.values())
    _print_inside(console, table, 2)


def _print_inside(console: Console, what: Text | Table, left: int) -> None:
    console.print(Padding(what, (0, 0, 0, left), expand=False))
