"""``plasticine import``: make run folders of a data set, and send them to MLflow if asked to."""

from __future__ import annotations

import argparse
from pathlib import Path

from plasticine.portable.restore import restore

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("data", type=Path, help="folder made by `plasticine export`")
    parser.add_argument("--runs-dir", default="runs", type=Path, help="folder for the runs (default: runs)")
    parser.add_argument("--uri", help="also send the runs to this MLflow store")


def run(arguments: argparse.Namespace) -> int:
    """Import; return 1 if something could not be sent."""
    folders = restore(arguments.data, arguments.runs_dir)
    print(f"{len(folders)} runs in {arguments.runs_dir}, all files as they were exported")
    if arguments.uri is None:
        return 0
    from plasticine.tracking.sync import sync

    results = list(sync(folders, arguments.uri, Path.cwd()))
    for result in results:
        if result.pending:
            print(f"pending: {result.run_dir}: {result.reason}")
    print(f"{sum(r.points for r in results)} points sent to {arguments.uri}")
    return 1 if any(r.pending for r in results) else 0
