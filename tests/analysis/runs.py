"""Small complete runs with everything a run's folder holds."""

from __future__ import annotations

import threading
from pathlib import Path

from plasticine.analysis.record import RunRecord, read_run
from plasticine.launch.folder import RunFolder
from plasticine.launch.job import carry_out, inspect
from plasticine.launch.provenance import Provenance
from tests.core.runs import config

PROVENANCE = Provenance({"host": "h", "git": {"plasticine": None}}, "")


def run(folder: Path, *overrides: str) -> RunRecord:
    """Do a run as a launch does it, with a local record, and read it."""
    wanted = config("tracker=local", "evaluation.every=null", *overrides)
    found = carry_out(
        wanted, RunFolder(folder), inspect(wanted), PROVENANCE, threading.Event(), lambda facts: None, False
    )
    assert found["outcome"] == "finished", found
    return read_run(folder)
