"""Plasticine: does this network still learn?

The public names are imported on first use, so that ``import plasticine`` stays light:
`configure` and `make` (compose and build a run from Python), `load_run` and `load_study` (take up what was run; also
in the module `load`), `Agent`, `EnvLevel`, `Method`, `Metric` (what to derive from), `UserError`.
"""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Agent": "plasticine.core.agent",
    "EnvLevel": "plasticine.core.env",
    "Method": "plasticine.core.method",
    "Metric": "plasticine.core.metric",
    "UserError": "plasticine.errors",
    "configure": "plasticine.api",
    "load_run": "plasticine.load",
    "load_study": "plasticine.load",
    "make": "plasticine.api",
}

__all__ = [
    "Agent",
    "EnvLevel",
    "Method",
    "Metric",
    "UserError",
    "configure",
    "load",
    "load_run",
    "load_study",
    "make",
]


def __getattr__(name: str) -> Any:
    if name == "load":
        return importlib.import_module("plasticine.load")
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'plasticine' has no attribute {name!r}")
