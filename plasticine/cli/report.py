"""``plasticine report``: everything a study shows, as one page with figures and tables, or in the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

__all__ = ["configure", "run"]

_SCORES = ("task_final", "task_auc", "relative_score")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("study", help="name of the study")
    parser.add_argument(
        "--runs-dir", nargs="+", default=[Path("runs")], type=Path, help="folders of runs (default: runs)"
    )
    parser.add_argument("--out", type=Path, help="folder of the report (default: report/STUDY)")
    parser.add_argument("--text", action="store_true", help="print a summary and write nothing")
    parser.add_argument(
        "--baseline", metavar="METHOD", help="what others are compared with (default: vanilla)"
    )
    parser.add_argument(
        "--score", default="task_final", metavar="SCORE",
        help=f"what a run is scored by: {', '.join(_SCORES)} (default: task_final)",
    )  # fmt: skip
    parser.add_argument(
        "--metric", action="extend", nargs="+", default=[], metavar="NAME",
        help="plasticity metrics to draw, or `all` (default: six common ones)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    """Write or print the report."""
    from plasticine.comparison.attachments import attach_report
    from plasticine.report.build import write_report
    from plasticine.report.study import Asked, examine
    from plasticine.report.text import text_report

    asked = Asked(
        arguments.study,
        tuple(arguments.runs_dir),
        arguments.baseline,
        arguments.score,
        tuple(arguments.metric),
    )
    found = examine(asked)
    if arguments.text:
        state = [found.state.sentence]
        print(
            text_report(asked.study, found.evidence, found.grid, state, found.warnings, found.baseline),
            end="",
        )
        return 0
    page = write_report(found, arguments.out or Path("report") / asked.study)
    print(found.state.sentence)
    for warning in found.warnings:
        print(f"warning: {warning}")
    if not found.grid.estimates:
        print("no finished run has a score yet: there is nothing to compare")
    print(f"report: {page}")
    for line in attach_report([run.folder for run in found.runs], page.parent):
        print(line)
    return 0
