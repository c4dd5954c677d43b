"""The launcher's handle on the forwarding process; imports no MLflow and never waits for a store."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ForwardReport", "Forwarder"]

_RESTARTS = 3
_GRACE_SECONDS = 30.0  # over the time-out: one HTTP call with its retry may be under way


@dataclass(frozen=True)
class ForwardReport:
    """What was forwarded by the end of a launch.

    Attributes:
        pushed: Points sent to MLflow by the last forwarding process.
        pending: Folders of runs with something left; ``plasticine sync`` sends it later.
        reason: Why something is left, empty if nothing is.
        compared: What of the comparison in MLflow is not up to date, and why; empty if it is.
    """

    pushed: int
    pending: list[str] = field(default_factory=list)
    reason: str = ""
    compared: str = ""


class Forwarder:
    """Starts the forwarding process, tells it which runs to follow, and brings it back if it dies.

    Training must not depend on it: no method but `wait_ready` and `finish` waits for anything, and none raises
    because a store or the process fails.

    Args:
        log: File that receives what the process prints; None: nowhere.
        module: What the process runs; one that calls `plasticine.tracking.forward.serve`.
    """

    def __init__(self, log: Path | None = None, module: str = "plasticine.tracking.forward") -> None:
        self._log = log
        self._module = module
        self._process: subprocess.Popen[str] | None = None
        self._answered = threading.Condition()
        self._ready: dict[str, Any] | None = None
        self._report: dict[str, Any] | None = None
        self._compared: dict[str, Any] | None = None
        self._open: dict[str, Any] | None = None
        self._followed: list[str] = []
        self._restarts = 0

    @property
    def pid(self) -> int | None:
        """Process id, None if it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def start(self) -> None:
        """Start the process (about 2 s until MLflow is imported; this does not wait for it).

        Raises:
            OSError: The process cannot be started, or the log cannot be opened.
        """
        if self.pid is not None:
            return
        self._ready = self._report = self._compared = None
        command = [sys.executable, "-m", self._module]
        with open(self._log or os.devnull, "ab") as log:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C in the terminal must not reach it
            )
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def open(self, uri: str | None, experiment: str, launch_dir: Path | str) -> None:
        """Name the store; the process prepares it while the caller goes on.

        Args:
            uri: Tracking URI; None: ``mlflow.db`` in `launch_dir`.
            experiment: Name of the MLflow experiment.
            launch_dir: Folder of the launch: home of the default store and of the artifacts.
        """
        folder = str(Path(launch_dir).absolute())
        self._open = {"cmd": "open", "uri": uri, "experiment": experiment, "launch_dir": folder}
        self._send(self._open)

    def wait_ready(self, timeout: float) -> tuple[bool, str]:
        """Wait until the store is ready or known not to be; return whether it is, and the reason if not."""
        deadline = time.monotonic() + timeout
        with self._answered:
            while self._ready is None:
                if self.pid is None:
                    return False, "the forwarding process is not running"
                left = deadline - time.monotonic()
                if left <= 0:
                    return False, f"MLflow is not ready after {timeout:.0f} s"
                self._answered.wait(min(left, 0.2))
            return bool(self._ready["ready"]), str(self._ready.get("reason", ""))

    def follow(self, run_dir: Path | str) -> None:
        """Forward what this run commits from now on; the folder need not be there yet."""
        folder = str(Path(run_dir).absolute())
        if folder not in self._followed:
            self._followed.append(folder)
            self._send({"cmd": "follow", "run_dir": folder})

    def finish(self, timeout: float, compare: float = 0.0, complete: bool = False) -> ForwardReport:
        """Let the process send what is left, wait for it, and report; it is gone afterwards.

        Args:
            timeout: Seconds the process may take; an unanswered server call can add 30 s.
            compare: Seconds it may then take for the comparison of the studies.
            complete: With figures and report.
        """
        if self._process is None:
            return ForwardReport(0, list(self._followed), "the forwarding process was not started")
        self._send({"cmd": "finish", "timeout": timeout, "compare": compare, "complete": complete})
        self._wait(lambda: self._report, timeout + _GRACE_SECONDS)
        report = self._report
        if report is None:
            self.kill()
            return ForwardReport(0, list(self._followed), "the forwarding process died or hangs")
        self._wait(lambda: self._compared, compare)
        compared = self._compared
        self.kill()
        late = f"it was not done after {compare:.0f} s" if compare else ""
        return ForwardReport(
            pushed=int(report["pushed"]),
            pending=list(report["pending"]),
            reason=str(report["reason"]),
            compared=late if compared is None else str(compared["compared"]),
        )

    def _wait(self, answer: Callable[[], object | None], seconds: float) -> None:
        """Wait for an answer, at most so long and not if nobody is left to give it."""
        deadline = time.monotonic() + seconds
        with self._answered:
            while answer() is None and self.pid is not None and time.monotonic() < deadline:
                self._answered.wait(0.2)
            self._answered.wait_for(lambda: answer() is not None, timeout=0.5)

    def kill(self) -> None:
        """End the process and everything it started, at once; what it has not sent stays pending."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def _send(self, command: dict[str, Any]) -> None:
        if self._process is None:
            return
        if self.pid is None and self._restarts < _RESTARTS:
            self._restarts += 1
            self.start()
            if self._open is not None:
                self._write(self._open)
            for run_dir in self._followed:
                self._write({"cmd": "follow", "run_dir": run_dir})
        self._write(command)

    def _write(self, command: dict[str, Any]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died just now: the next command brings it back
            self._process.stdin.write(json.dumps(command) + "\n")
            self._process.stdin.flush()

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            answer = json.loads(line)
            with self._answered:
                if "ready" in answer:
                    self._ready = answer
                elif "compared" in answer:
                    self._compared = answer
                else:
                    self._report = answer
                self._answered.notify_all()
