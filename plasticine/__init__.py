"""Plasticine: does this network still learn?

The public names are imported on first use, so that ``import plasticine`` stays light:
`configure` and `make` (compose and build a run from Python), `Agent`, `EnvLevel`, `Method`, `Metric` (what to
derive from), `UserError`.
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
    "make": "plasticine.api",
}

__all__ = ["Agent", "EnvLevel", "Method", "Metric", "UserError", "configure", "make"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(importlib.import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'plasticine' has no attribute {name!r}")
