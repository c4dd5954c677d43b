"""The forwarding process with the comparison of studies: ``python -m plasticine.comparison.process``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from plasticine.tracking.forward import serve
from plasticine.tracking.store import Store

__all__ = ["compare"]


def compare(store: Store, run_dirs: Sequence[Path], deadline: float, complete: bool) -> str:
    """Call `plasticine.comparison.study.update_studies`, which imports much and is needed late."""
    from plasticine.comparison.study import update_studies

    return update_studies(store, run_dirs, deadline, complete)


if __name__ == "__main__":
    sys.exit(serve(compare))
