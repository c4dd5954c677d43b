"""Taking turns between processes."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from plasticine.errors import UserError

__all__ = ["file_lock"]


@contextlib.contextmanager
def file_lock(path: Path, seconds: float) -> Iterator[None]:
    """Hold an exclusive lock on `path`.

    Raises:
        UserError: Somebody else held it for `seconds`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"another process has held {path} for {seconds:.0f} s",
                        f"find it with `fuser {path}` and stop it if it hangs",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
