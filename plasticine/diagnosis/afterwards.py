"""Diagnosis of runs from their records, and the files it leaves in their folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from plasticine.analysis.record import RunRecord
from plasticine.analysis.scores import RunScores
from plasticine.diagnosis.curves import Curves, Line
from plasticine.diagnosis.diagnosis import Diagnosis, judge
from plasticine.diagnosis.signature import Signature
from plasticine.diagnosis.watch import is_wanted
from plasticine.tracking.jsonfile import replace_json

__all__ = ["REPORT_FILES", "curves_of", "diagnose", "write_report"]

#: In a run's folder.
REPORT_FILES = ("diagnosis.json", "diagnosis.md")


def curves_of(record: RunRecord, signatures: Mapping[str, Signature]) -> Curves:
    """The curves that signatures look at, as the run itself saw them."""
    facts = {"actions": record.card["actions"]} if record.card.get("actions") else {}
    curves = Curves(facts=facts, env_steps=record.env_steps)
    for key, series in record.series.items():
        if is_wanted(key, signatures):
            line = curves.lines[key] = Line()
            for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
                line.add(step, value)
    for event in record.events:
        if event.kind == "nonfinite":
            for key in event.facts.get("keys", ()):
                if is_wanted(key, signatures):
                    first = curves.nonfinite.get(key, event.env_steps)
                    curves.nonfinite[key] = min(first, event.env_steps)
    return curves


def diagnose(
    record: RunRecord, signatures: Mapping[str, Signature], scores: RunScores | None = None
) -> Diagnosis:
    """Judge a run by its record.

    Args:
        record: Of the run, finished or not.
        signatures: By name.
        scores: Beside a fresh agent, if there is one.
    """
    curves = curves_of(record, signatures)
    if scores is not None:
        done = [task for task in scores.tasks if task.complete]
        curves.facts["relative_scores"] = [task.relative_score for task in done]
        curves.facts["task_starts"] = [task.start for task in done]
    return judge(signatures, curves)


def write_report(folder: Path, found: Diagnosis) -> None:
    """Write ``diagnosis.json`` and ``diagnosis.md`` into the folder of a run."""
    replace_json(folder / REPORT_FILES[0], found.data())
    parts = [f"# {folder.parent.name}, {folder.name}", found.paragraph()]
    if found.unknown:
        rows = [f"- {name}: {reason}" for name, reason in found.unknown.items()]
        parts.append("\n".join(["Not judged:", "", *rows]))
    (folder / REPORT_FILES[1]).write_text("\n\n".join(parts) + "\n", encoding="utf-8")
