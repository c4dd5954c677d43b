"""Processes that step part of a vector of dm_control simulations while the run steps the rest.

Actions and results lie in one block of memory that all of them map. It has no name, so that nothing is left
behind however a process ends. A request is a message on a socket; its end tells each side that the other is gone.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import IO, Any, NoReturn

import numpy as np

from plasticine.envs.dmc_block import Rows
from plasticine.envs.dmc_worker import DONE, STEP
from plasticine.envs.float_environment import float_environment, flushes_denormals

__all__ = ["Crew", "RemoteTraceback", "shares"]

_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def _nameless_file() -> IO[bytes]:
    if hasattr(os, "memfd_create"):  # Linux: never written to a disk
        return os.fdopen(os.memfd_create("plasticine"), "r+b")
    return tempfile.TemporaryFile(prefix="plasticine-")


def shares(num_envs: int, workers: int) -> list[tuple[int, int]]:
    """Split ``range(num_envs)`` into ``workers + 1`` stretches (first, last + 1) of about equal length.

    The first one is the run's own and not longer than the others, as the run has other things to do.
    """
    bounds = [num_envs * i // (workers + 1) for i in range(workers + 2)]
    return list(itertools.pairwise(bounds))


class RemoteTraceback(Exception):
    """Cause of an exception that was raised in a worker: the traceback there, as text."""

    def __str__(self) -> str:
        """Text of the traceback."""
        return f"\n\n{self.args[0]}"


class Crew:
    """Worker processes for the simulations `parts`; they begin to import what they need at once.

    Args:
        parts: (first, last + 1) for each worker.
    """

    def __init__(self, parts: Sequence[tuple[int, int]]) -> None:
        self._parts = list(parts)
        self._memory = _nameless_file() if parts else None
        self._processes: list[subprocess.Popen[bytes]] = []
        self._links: list[Connection] = []
        self._end = weakref.finalize(self, _end, self._processes, self._links)
        for _ in parts:
            self._start()

    def _start(self) -> None:
        assert self._memory is not None
        ours, theirs = socket.socketpair()
        memory = self._memory.fileno()
        with theirs:
            # The same modules as here, whatever the current folder contains.
            code = f"import sys; sys.path[:] = {sys.path!r}; from plasticine.envs.dmc_worker import main; "
            process = subprocess.Popen(
                [sys.executable, "-c", f"{code}main({theirs.fileno()}, {memory})"],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(_THREADS, "1")},
                pass_fds=(theirs.fileno(), memory),
                start_new_session=True,  # Ctrl-C is the run's business
            )
        self._processes.append(process)
        self._links.append(Connection(ours.detach()))

    @property
    def pids(self) -> list[int]:
        """Process ids, in the order of the parts."""
        return [process.pid for process in self._processes]

    def build(self, **arguments: Any) -> None:
        """Have the simulations built; see `SimBlock` for the arguments."""
        if not self._parts:
            return
        mode, flushing = float_environment(), flushes_denormals()
        for i, (first, last) in enumerate(self._parts):
            self._send(i, "build", {**arguments, "first": first, "last": last}, mode)
        if any(found != flushing for found in self.collect()):
            self.close()
            raise RuntimeError(
                "the simulation processes treat tiny numbers differently from this one; set env.workers=0"
            )

    def share(self, num: int, actions: int, obs: int) -> Rows:
        """Return the rows of all `num` simulations, in memory that the workers use from now on."""
        size = Rows.size(num, actions, obs)
        if self._memory is None:
            return Rows.inside(np.zeros(size, np.uint8), num, actions, obs)
        self._memory.truncate(size)
        rows = Rows.inside(mmap.mmap(self._memory.fileno(), size), num, actions, obs)
        self.ask("attach", num, actions, obs)
        return rows

    def begin(self, name: str, *arguments: Sequence[Any]) -> None:
        """Send a request to each worker, the i-th with ``arguments[i]`` if there are any; `collect` has to follow."""
        for i in range(len(self._parts)):
            self._send(i, name, *(arguments[i] if arguments else ()))

    def begin_step(self) -> None:
        """Let the workers step; `collect` has to follow."""
        for i, link in enumerate(self._links):
            try:
                link.send_bytes(STEP)
            except OSError:
                self._mourn(i)

    def collect(self) -> list[Any]:
        """Wait for the replies of all workers.

        Raises:
            Exception: What a worker raised, with its traceback as the cause.
            RuntimeError: A worker is gone.
        """
        answers: list[Any] = []
        for i, link in enumerate(self._links):
            try:
                reply = link.recv_bytes()
            except (EOFError, OSError):
                self._mourn(i)
            if reply == DONE:
                answers.append(None)
                continue
            answer, trace = pickle.loads(reply)
            if trace is not None:
                self.close()
                raise answer from RemoteTraceback(trace)
            answers.append(answer)
        return answers

    def ask(self, name: str, *arguments: Any) -> list[Any]:
        """Send the same request to all workers and return their answers."""
        self.begin(name, *([arguments] * len(self._parts)))
        return self.collect()

    def close(self) -> None:
        """End the workers; the second time does nothing."""
        self._end()
        if self._memory is not None:
            self._memory.close()

    def _send(self, i: int, name: str, *arguments: Any) -> None:
        try:
            self._links[i].send_bytes(pickle.dumps((name, arguments)))
        except OSError:
            self._mourn(i)

    def _mourn(self, i: int) -> NoReturn:
        """Raise an error that says how worker `i` ended."""
        if not self._end.alive:
            raise RuntimeError("the simulation processes of this environment have ended")
        process, (first, last) = self._processes[i], self._parts[i]
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)  # the connection ends a moment before the process
        code = process.poll()
        self.close()
        how = f"ended with exit code {code}"
        if code is None:
            how = "closed its connection"
        elif code < 0:
            how = f"was killed by signal {-code}" + (" (out of memory?)" if -code == signal.SIGKILL else "")
        raise RuntimeError(
            f"the process {process.pid} that simulated environments {first} to {last - 1} {how}"
        )


def _end(processes: list[subprocess.Popen[bytes]], links: list[Connection]) -> None:
    for link in links:
        link.close()
    for process in processes:
        process.kill()  # they hold nothing that has to be saved
    for process in processes:
        process.wait()
