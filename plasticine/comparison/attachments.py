"""The files that are kept with a study's run in MLflow."""

from __future__ import annotations

from pathlib import Path

__all__ = ["write_attachments"]


def write_attachments(study: Path, out: Path) -> None:
    """Write the report of a study, with its figures and tables, into a folder.

    Args:
        study: Folder of the study.
        out: Empty folder.

    Raises:
        UserError: The study has nothing to report on.
    """
    from plasticine.report.build import build_report

    build_report(study.name, out, (study.parent,))
