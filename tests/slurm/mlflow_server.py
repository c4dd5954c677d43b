"""An MLflow server on loopback that can be killed and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

_START = 90.0  # seconds; it imports a lot
_LEAN = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


class MlflowServer:
    """``mlflow server`` with everything it keeps in one folder.

    Args:
        folder: For the log, the artifacts and, unless `store` says otherwise, the database.
        options: Of ``mlflow server`` but host and port; None: a SQLite file and artifacts in `folder`.
        variables: For its environment.
    """

    def __init__(
        self, folder: Path, options: Sequence[str] | None = None, variables: Mapping[str, str] | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.database = folder / "mlflow.db"
        self.artifacts = folder / "artifacts"
        self.options = options or (
            "--workers=1", f"--backend-store-uri=sqlite:///{self.database}", "--serve-artifacts",
            f"--artifacts-destination={self.artifacts}",
        )  # fmt: skip
        self._variables = {**_LEAN, **(variables or {})}
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """For ``tracker.uri``."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def command(self) -> list[str]:
        """What is started."""
        return [
            sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={self.port}", *self.options,
        ]  # fmt: skip

    def start(self) -> None:
        """Start it; does not wait."""
        with open(self.folder / "server.log", "ab") as log:
            self._process = subprocess.Popen(
                self.command, cwd=self.folder, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
                start_new_session=True, env={**os.environ, **self._variables},
            )  # fmt: skip

    def wait(self) -> None:
        """Wait until it answers.

        Raises:
            RuntimeError: It is over, or silent for too long.
        """
        end = time.monotonic() + _START
        while not self.answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > end:
                log = (self.folder / "server.log").read_text(errors="replace")[-3000:]
                raise RuntimeError(f"the MLflow server does not start:\n{log}")
            time.sleep(0.1)

    def answers(self) -> bool:
        """Whether it is there."""
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        """End it and its workers at once (SIGKILL)."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
