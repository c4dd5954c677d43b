"""Runs and studies in a notebook: ``plasticine.load_study("name")``, ``plasticine.load_run("name/cell/seed=0")``."""

from __future__ import annotations

from plasticine.analysis.loading import LoadedRun, load_run
from plasticine.analysis.table import load_study

__all__ = ["LoadedRun", "load_run", "load_study"]
