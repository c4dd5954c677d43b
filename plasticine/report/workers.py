"""Doing many things at once, where there are many."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from plasticine.launch.cores import usable_cores

__all__ = ["spread_over_cores"]

Job = TypeVar("Job")
Result = TypeVar("Result")


def spread_over_cores(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, least: int, chunk: int = 1
) -> list[Result]:
    """Return the results in the order of the jobs, which do not depend on how many processes there are.

    Args:
        function: Of a module, as other processes import it.
        jobs: Its arguments.
        least: Fewer jobs than this are not worth starting a process for.
        chunk: Jobs handed over at once.
    """
    workers = min(usable_cores(), len(jobs))
    if len(jobs) < least or workers < 2:
        return [function(job) for job in jobs]
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(function, jobs, chunksize=chunk))
