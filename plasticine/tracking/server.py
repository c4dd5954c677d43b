"""MLflow's own server on a store of ours, for as long as somebody looks at its pages."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from plasticine.errors import UserError

__all__ = ["UiServer", "free_port"]

_START_SECONDS = 120.0
_STOP_SECONDS = 5.0
_PORTS = 20  # tried one after the other

#: No telemetry, and no background workers for functions that our runs do not use.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
}


def free_port(host: str, wanted: int) -> int:
    """Return the first port from `wanted` on that nobody listens on.

    Raises:
        UserError: There is none, or the address is not this machine's.
    """
    for port in range(wanted, min(wanted + _PORTS, 65536)):
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except PermissionError as error:
                raise UserError(
                    f"port {port} may not be used ({error.strerror})", "use --port 5000"
                ) from error
            except socket.gaierror as error:
                raise UserError(f"--host {host} is no address of this machine", "leave --host out") from error
            except OSError as error:
                if error.errno == 99:  # EADDRNOTAVAIL
                    raise UserError(
                        f"--host {host} is no address of this machine", "leave --host out"
                    ) from error
                continue
            return port
    raise UserError(f"ports {wanted} to {wanted + _PORTS - 1} are all taken", "choose another one: --port")


class UiServer:
    """Runs ``mlflow ui``; ends it, and everything it started, when the context is left.

    Args:
        uri: Absolute URI of the store.
        host: Address to listen on.
        port: Free port.
        allowed_hosts: Names under which browsers may ask for it, comma-separated; None: MLflow's own list.
    """

    def __init__(self, uri: str, host: str, port: int, allowed_hosts: str | None = None) -> None:
        self.uri = uri
        self.host = host
        self.port = port
        self.allowed_hosts = allowed_hosts

    @contextlib.contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        """Start it, wait until it answers, and give the process.

        Raises:
            UserError: It does not start; the last lines it printed are in the message.
        """
        command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", self.uri]
        command += ["--host", self.host, "--port", str(self.port), "--workers", "1"]
        if self.allowed_hosts is not None:
            command += ["--allowed-hosts", self.allowed_hosts]
        with tempfile.TemporaryFile() as log:
            process = subprocess.Popen(
                command,
                cwd=self._home(),
                env={**_ENVIRONMENT, **os.environ},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we stop it in order
            )
            try:
                self._wait(process, log)
                yield process
            finally:
                _stop(process)

    def _home(self) -> Path | None:
        """Folder in which relative artifact locations of the store mean something."""
        return Path(self.uri[len("sqlite:///") :]).parent if self.uri.startswith("sqlite:///") else None

    def _wait(self, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        address = "127.0.0.1" if self.host in ("0.0.0.0", "::", "localhost") else self.host
        address = f"[{address}]" if ":" in address else address
        deadline = time.monotonic() + _START_SECONDS
        while process.poll() is None and time.monotonic() < deadline:
            try:
                with urllib.request.urlopen(f"http://{address}:{self.port}/health", timeout=5):
                    return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        log.seek(0)
        tail = log.read().decode("utf-8", "replace").strip().splitlines()[-5:]
        raise UserError(
            "MLflow's server does not start:\n    " + "\n    ".join(tail),
            f"try it by hand: mlflow ui --backend-store-uri {self.uri}",
        )


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a process group: politely, then at once."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number == signal.SIGTERM:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_SECONDS)
    process.wait()
