"""Whether a process of this machine holds a file."""

from __future__ import annotations

import fcntl
from pathlib import Path

__all__ = ["is_locked"]


def is_locked(path: Path) -> bool:
    """Whether another process holds an exclusive lock on `path`; a file that does not exist is held by nobody."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except FileNotFoundError:
        return False
    return False
