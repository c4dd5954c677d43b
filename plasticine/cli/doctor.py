"""``plasticine doctor``: check this installation and this machine, and say how to repair what is wrong."""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from plasticine.doctor.check import Check
from plasticine.doctor.machine import check_cpu, check_file_system, check_folder, check_gpu, check_memory
from plasticine.doctor.packages import check_packages, installed_packages
from plasticine.doctor.store import check_store

__all__ = ["configure", "diagnose", "run"]

_COLOURS = {"ok": "green", "info": "cyan", "warning": "yellow", "error": "bold red"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--runs-dir", default="runs", type=Path, help="folder of the runs (default: runs)")


def run(arguments: argparse.Namespace) -> int:
    """Print all checks; return 1 if one of them is an error."""
    checks = diagnose(arguments.runs_dir)
    bad = any(check.severity == "error" for check in checks)
    if arguments.json:
        print(json.dumps({"ok": not bad, "checks": [check._asdict() for check in checks]}, indent=2))
    else:
        _print(checks)
    return int(bad)


def diagnose(runs_dir: Path) -> list[Check]:
    """Run every check for the current folder."""
    return [
        *check_packages(installed_packages(), platform.python_version()),
        check_store(),
        check_folder(runs_dir),
        check_file_system(Path.cwd()),
        check_cpu(),
        check_memory(),
        check_gpu(),
    ]


def _print(checks: list[Check]) -> None:
    console = Console()
    table = Table("check", "", "found", box=None, pad_edge=False)
    for check in checks:
        table.add_row(check.name, Text(check.severity, style=_COLOURS[check.severity]), Text(check.found))
    console.print(table)
    for check in checks:
        if check.fix:
            console.print(
                Text(f"\n{check.severity}: {check.name}: {check.found}", style=_COLOURS[check.severity])
            )
            console.print(Text(f"  fix: {check.fix}"), soft_wrap=True)
    errors = sum(check.severity == "error" for check in checks)
    warnings = sum(check.severity == "warning" for check in checks)
    console.print(f"\n{errors} errors, {warnings} warnings", highlight=False)
