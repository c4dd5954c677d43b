"""``plasticine sync``: send the records of runs to MLflow and bring their comparison there up to date."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from plasticine.tracking.store import Store
from plasticine.tracking.sync import Synced, find_runs, sync

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "runs_dir", nargs="?", default="runs", type=Path, help="folder of the runs (default: runs)"
    )
    parser.add_argument("--study", help="only the runs of this study")
    parser.add_argument(
        "--uri",
        help="MLflow store; default: where the run went before, else its tracker.uri, else ./mlflow.db",
    )


def run(arguments: argparse.Namespace) -> int:
    """Push everything; return 1 if something is still pending."""
    runs = find_runs(arguments.runs_dir, arguments.study)
    table = Table("run", "points sent", "state", box=None, pad_edge=False)
    results = []
    for result in sync(runs, arguments.uri, Path.cwd()):
        results.append(result)
        if result.points or result.pending:
            name = str(result.run_dir.relative_to(arguments.runs_dir))
            table.add_row(name, str(result.points), f"pending: {result.reason}" if result.pending else "sent")
    console = Console()
    if table.row_count:
        console.print(table)
    pending = sum(r.pending for r in results)
    points = sum(r.points for r in results)
    console.print(f"{len(results)} runs, {points} points sent, {pending} runs pending", highlight=False)
    for uri in sorted({r.uri for r in results}):
        console.print(f"store: {uri}", highlight=False, soft_wrap=True)
    problem = _compare(results)
    if problem:
        console.print(f"the comparison is not up to date: {problem}", highlight=False, soft_wrap=True)
    return 1 if pending or problem else 0


def _compare(results: Sequence[Synced]) -> str:
    """Bring aggregates, views, figures and report up to date; return what could not be done."""
    from plasticine.comparison.study import update_studies

    stores: dict[tuple[str, str], Store] = {}
    runs: dict[tuple[str, str], list[Path]] = {}
    for result in results:
        if result.store is not None:
            key = result.store.uri, result.store.experiment_id
            stores[key] = result.store
            runs.setdefault(key, []).append(result.run_dir)
    return "; ".join(filter(None, (update_studies(stores[key], runs[key]) for key in stores)))
