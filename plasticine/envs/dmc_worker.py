"""The process that steps some of the simulations of a run; started by `plasticine.envs.dmc_processes`.

It obeys requests that arrive on a connection and works in memory that it shares with the run. When the run
closes the connection, or dies in whatever way, the connection ends and so does this process.
"""

from __future__ import annotations

import mmap
import os
import pickle
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from plasticine.envs.dmc_block import Rows, SimBlock
from plasticine.envs.float_environment import flushes_denormals, set_float_environment

__all__ = ["DONE", "STEP", "main"]

#: The request to step, and the reply to a request that has no answer: bare bytes, as they are frequent.
STEP, DONE = b"s", b""

# Whoever sends these means the run, which saves before it leaves and still needs its simulations for that.
_IGNORED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class _Worker:
    """Carries out requests: every public method is one."""

    def __init__(self, memory: int) -> None:
        self._memory = memory
        self._block: SimBlock

    def build(self, arguments: dict[str, Any], float_environment: bytes) -> bool:
        """Build the simulations; returns whether tiny numbers count as zero here."""
        set_float_environment(float_environment)
        self._first, self._last = int(arguments["first"]), int(arguments["last"])
        self._block = SimBlock(**arguments)
        return flushes_denormals()

    def attach(self, num: int, actions: int, obs: int) -> None:
        """Map the memory with the rows of all simulations."""
        shared = mmap.mmap(self._memory, Rows.size(num, actions, obs))
        self._block.rows = Rows.inside(shared, num, actions, obs).part(self._first, self._last)

    def step(self) -> None:
        self._block.step()

    def reset(self) -> None:
        self._block.rows.obs[:] = self._block.reset()

    def state(self) -> list[dict[str, Any]]:
        return self._block.state()

    def load_state(self, states: list[dict[str, Any]]) -> None:
        self._block.load_state(states)

    def properties(self) -> dict[str, float]:
        return self._block.properties()


def _portable(error: Exception) -> Exception:
    """Return `error` if it survives the way to the run, else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - an exception's own pickling may fail in any way
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _answer(work: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    try:
        result = work(*arguments)
    except Exception as error:  # noqa: BLE001 - raised again in the run, which decides
        return pickle.dumps((_portable(error), traceback.format_exc()))
    return DONE if result is None else pickle.dumps((result, None))


def main(connection: int, memory: int) -> None:
    """Serve until the connection ends.

    Args:
        connection: File descriptor of one end of a socket pair.
        memory: File descriptor of the shared memory.
    """
    for number in _IGNORED:
        signal.signal(number, signal.SIG_IGN)
    link = Connection(connection)
    worker = _Worker(memory)
    try:
        while True:
            request = link.recv_bytes()
            if request == STEP:
                link.send_bytes(_answer(worker.step, ()))
            else:
                name, arguments = pickle.loads(request)
                link.send_bytes(_answer(getattr(worker, name), arguments))
    except (EOFError, ConnectionError):
        sys.stderr.flush()
        os._exit(0)  # nothing is left to be saved, and the simulators take their time to be freed
