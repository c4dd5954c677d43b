"""Doing many things at once, where there are many.

Not with `multiprocessing`: that would run the program of whoever asks for a report a second time, if it is a script.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from plasticine.launch.cores import usable_cores

__all__ = ["spread_over_cores"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread_over_cores(function: Callable[[Job], Result], jobs: Sequence[Job], *, least: int) -> list[Result]:
    """Return the results in the order of the jobs; they do not depend on how many processes there are.

    Args:
        function: Of a module, as other processes import it.
        jobs: Its arguments.
        least: Fewer jobs than this are not worth starting a process for.

    Raises:
        ChildProcessError: A process was killed, or failed with what it has printed.
    """
    workers = min(usable_cores(), len(jobs))
    if len(jobs) < least or workers < 2:
        return [function(job) for job in jobs]
    helpers = [_started(function, jobs[k::workers]) for k in range(1, workers)]
    try:
        shares = [[function(job) for job in jobs[::workers]]]
        for helper in helpers:
            output = helper.communicate()[0]
            if helper.returncode:
                raise ChildProcessError(f"a process of the report ended with code {helper.returncode}")
            shares.append(pickle.loads(output))
    finally:
        for helper in helpers:
            helper.kill()
            helper.wait()
    results: dict[int, Result] = {}
    for k, share in enumerate(shares):
        results.update(zip(range(k, len(jobs), workers), share, strict=True))
    return [results[index] for index in range(len(jobs))]


def _started(function: Callable[[Job], Result], share: Sequence[Job]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", __name__]
    helper = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert helper.stdin is not None
    helper.stdin.write(pickle.dumps((function, list(share))))
    helper.stdin.close()
    helper.stdin = None  # `communicate` only reads
    return helper


def _serve() -> None:
    function, share = pickle.load(sys.stdin.buffer)
    answer, sys.stdout = sys.stdout.buffer, sys.stderr  # nothing that is printed gets into the answer
    answer.write(pickle.dumps([function(job) for job in share]))


if __name__ == "__main__":
    _serve()
