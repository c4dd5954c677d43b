"""``plasticine diagnose``: which runs show signs of a known failure, since when, and what acts on it."""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from plasticine.errors import UserError

if TYPE_CHECKING:
    from plasticine.analysis.record import RunRecord
    from plasticine.analysis.scores import RunScores
    from plasticine.diagnosis.diagnosis import Diagnosis
    from plasticine.diagnosis.signature import Signature

__all__ = ["configure", "run"]

_OPTION = "core"  # of the group `diagnosis`: for runs that were not watched


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "where",
        nargs="?",
        default=".",
        metavar="STUDY|RUN",
        help="a study, a cell or a run (default: all runs)",
    )
    parser.add_argument("--runs-dir", default="runs", type=Path, help="folder of the runs (default: runs)")
    parser.add_argument("--json", action="store_true", help="print data")


def run(arguments: argparse.Namespace) -> int:
    """Judge runs, write the reports into their folders and print them."""
    from plasticine.analysis.study import find_study, read_study
    from plasticine.diagnosis.afterwards import diagnose, write_report

    wanted = {folder.absolute() for folder in find_study(arguments.where, arguments.runs_dir)}
    studies = list(dict.fromkeys(folder.parents[1] for folder in sorted(wanted)))
    study = read_study(studies)  # all of it: the fresh agent may be anywhere
    found: dict[Path, Diagnosis] = {}
    for record in study.runs:
        folder = record.folder.absolute()
        if folder in wanted:
            found[folder] = diagnose(record, _signatures(folder), _scores(record, study.runs))
            if record.state != "running":  # the run itself writes it
                write_report(folder, found[folder])
    broken = {folder: reason for folder, reason in study.broken.items() if folder.absolute() in wanted}
    if arguments.json:
        print(json.dumps({str(folder): verdict.data() for folder, verdict in found.items()}, indent=1))
    else:
        _print(found, broken)
    return 1 if broken else 0


def _scores(record: RunRecord, others: tuple[RunRecord, ...]) -> RunScores | None:
    """Scores beside the fresh agent; None if there is none."""
    from plasticine.analysis.baselines import find_baseline, fresh_tasks
    from plasticine.analysis.scores import run_scores

    baseline = find_baseline(record, others)
    return run_scores(record, fresh_tasks(baseline.runs)) if baseline.runs else None


def _signatures(folder: Path) -> Mapping[str, Signature]:
    """Those the run was watched for, or the ones there are."""
    path = folder / "config.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8")) if path.exists() else {}
    nodes = (config.get("diagnosis") or {}).get("set")
    return _built(json.dumps(nodes, sort_keys=False)) if nodes else _published()


@functools.cache
def _built(nodes: str) -> Mapping[str, Signature]:
    from plasticine.compose import build_signatures

    return build_signatures(json.loads(nodes))


@functools.cache
def _published() -> Mapping[str, Signature]:
    from plasticine.paths import config_dirs

    path = config_dirs()[0] / "diagnosis" / f"{_OPTION}.yaml"
    nodes: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))["set"]
    return _built(json.dumps(nodes))


def _print(found: Mapping[Path, Diagnosis], broken: Mapping[Path, str]) -> None:
    if not found and not broken:
        raise UserError("there is nothing to diagnose", "the runs have not begun yet")
    for folder, verdict in found.items():
        name = f"{folder.parent.name}/{folder.name}"
        if verdict.findings or len(found) == 1:
            print(f"{name}\n\n{_indented(verdict.paragraph())}\n")
    if len(found) == 1:
        for name, reason in next(iter(found.values())).unknown.items():
            print(f"    not judged: {name}: {reason}")
    counts: dict[str, int] = {}
    for verdict in found.values():
        for name in verdict.names:
            counts[name] = counts.get(name, 0) + 1
    flagged = sum(bool(verdict.findings) for verdict in found.values())
    listed = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    print(f"{flagged} of {len(found)} runs show signs of a failure" + (f": {listed}" if listed else ""))
    for folder, reason in broken.items():
        print(f"cannot be read: {folder}: {reason}")


def _indented(text: str) -> str:
    import textwrap

    return "\n\n".join(
        textwrap.fill(part, 110, initial_indent="    ", subsequent_indent="    ")
        for part in text.split("\n\n")
    )
