"""The files that are kept with a study's run in MLflow."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from plasticine.report.build import LISTING_FILE, build_report
from plasticine.tracking.state import ForwardState
from plasticine.tracking.store import connect, one_line, store_errors

__all__ = ["attach_report", "write_attachments"]


def write_attachments(study: Path, out: Path) -> None:
    """Write the report of a study, with its figures and tables, into a folder.

    Args:
        study: Folder of the study.
        out: Empty folder.

    Raises:
        UserError: The study has nothing to report on.
    """
    build_report(study.name, out, (study.parent,))
    (out / LISTING_FILE).unlink()


def attach_report(run_dirs: Iterable[Path], out: Path) -> list[str]:
    """Put a report that was written on the run of its study, in every store that runs of it are in.

    Args:
        run_dirs: Folders of the runs that are reported on; those that are not in MLflow do not count.
        out: Folder of the report; other files in it stay where they are.

    Returns:
        A line for each store: that it is there, or why it is not.
    """
    found = {(state.uri, state.parent) for state in map(ForwardState.load, run_dirs)}
    lines = []
    for uri, parent in sorted((uri, parent) for uri, parent in found if uri and parent):
        try:
            client = connect(uri)
            for name in json.loads((out / LISTING_FILE).read_text(encoding="utf-8")):
                folder = Path(name).parent.as_posix()
                client.log_artifact(parent, str(out / name), None if folder == "." else folder)
        except store_errors() as error:
            lines.append(f"warning: the report is not in MLflow at {uri} ({one_line(error)})")
        else:
            lines.append(f"attached to the study in MLflow: {uri}")
    return lines
