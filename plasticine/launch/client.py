"""A worker process as its parent sees it."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any

from plasticine.launch.job import Job

__all__ = ["Inbox", "WorkerProcess", "death", "killed"]

#: Messages of all workers, each with its sender. ``{"kind": "dead", "code": int}`` is always a worker's last.
Inbox = queue.SimpleQueue[tuple["WorkerProcess", dict[str, Any]]]


class WorkerProcess:
    """Starts a worker in a session of its own (so that Ctrl-C in the terminal does not reach it) and talks to it.

    Args:
        environment: Variables to add to this process's.
        inbox: Where its messages go.
    """

    def __init__(self, environment: Mapping[str, str], inbox: Inbox) -> None:
        self.environment = dict(environment)
        self.ready = False
        self.job: Job | None = None  # what it is running
        self.checking: str | None = None  # the cell it is checking
        self.closed = False
        self._inbox = inbox
        self._errors: collections.deque[str] = collections.deque(maxlen=40)
        self._process = subprocess.Popen(
            _command(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment},
            start_new_session=True,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        readers = [
            threading.Thread(target=self._read_messages, args=(self._process.stdout,), daemon=True),
            threading.Thread(target=self._read_errors, args=(self._process.stderr,), daemon=True),
        ]
        for reader in readers:
            reader.start()
        threading.Thread(target=self._wait, args=(readers,), daemon=True).start()

    @property
    def pid(self) -> int:
        """Process id; also the id of its process group."""
        return self._process.pid

    @property
    def idle(self) -> bool:
        """Whether it can take a command."""
        return self.ready and self.job is None and self.checking is None and not self.closed

    @property
    def error_tail(self) -> str:
        """The last it printed outside of runs."""
        return "\n".join(self._errors)

    def send(self, command: Mapping[str, Any]) -> None:
        """Send a command; if the worker just died, its ``dead`` message is on the way."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ValueError):
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def close(self) -> None:
        """Let it end once it has nothing to do."""
        self.closed = True
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()

    def kill(self) -> None:
        """End it and all its children at once."""
        self.closed = True
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def _read_messages(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                message = json.loads(line)
            except ValueError:
                self._errors.append(line.rstrip())  # cut off by its death
                continue
            self._inbox.put((self, message))

    def _read_errors(self, stream: IO[str]) -> None:
        self._errors.extend(line.rstrip() for line in stream)

    def _wait(self, readers: list[threading.Thread]) -> None:
        code = self._process.wait()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # children it left behind
        for reader in readers:
            reader.join(timeout=5)
        self._inbox.put((self, {"kind": "dead", "code": code}))


def _command() -> list[str]:
    """Return how a worker is started: it finds modules where this process does, and nowhere else.

    ``python -m`` looks into the current folder first. A job of a cluster does not: it runs a copy of the code,
    which a checkout in the current folder must not hide.
    """
    if "" in sys.path or os.getcwd() in sys.path:
        return [sys.executable, "-m", "plasticine.launch.worker"]
    start = "import sys; sys.path[:] = filter(None, sys.path)"
    return [sys.executable, "-c", f"{start}; from plasticine.launch.worker import main; sys.exit(main())"]


def killed(code: int) -> bool:
    """Return whether a process was ended from outside: that says nothing against starting it again."""
    return -code in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


def death(code: int) -> str:
    """Return in words how a process ended."""
    if code == -signal.SIGKILL:
        return "killed by signal 9 (out of memory?)"
    if code < 0:
        try:
            return f"killed by signal {-code} ({signal.Signals(-code).name})"
        except ValueError:
            return f"killed by signal {-code}"
    return f"its process ended with exit code {code}"
