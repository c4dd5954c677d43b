"""``plasticine export``: write a study as a data set that can be passed on."""

from __future__ import annotations

import argparse
from pathlib import Path

from plasticine.analysis.study import find_study
from plasticine.portable.export import export

__all__ = ["configure", "run"]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("study", help="name of the study, or a folder with runs")
    parser.add_argument("out", type=Path, help="folder to be made")
    parser.add_argument("--runs-dir", default="runs", type=Path, help="folder of the runs (default: runs)")
    parser.add_argument(
        "--checkpoints", action="store_true", help="include the newest checkpoint of each run"
    )


def run(arguments: argparse.Namespace) -> int:
    """Write it; return 1 if runs were left out."""
    folders = find_study(arguments.study, arguments.runs_dir)
    done = export(folders, arguments.out, checkpoints=arguments.checkpoints)
    for folder, reason in done.left_out.items():
        print(f"left out: {folder}: {reason}")
    print(f"{arguments.out}: " + ", ".join(f"{count:,} {what}" for what, count in done.counts.items()))
    print(f"SHA-256 of its card.json: {done.card_sha256}")
    return 1 if done.left_out else 0
