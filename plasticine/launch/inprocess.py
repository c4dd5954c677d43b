"""Runs one after the other in this process: a single run, and ``launcher=debug``."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plasticine.launch.cores import worker_environment
from plasticine.launch.display import Display
from plasticine.launch.interrupt import Interrupt
from plasticine.launch.job import Job, carry_out, inspect
from plasticine.launch.provenance import Provenance

__all__ = ["InProcess"]


class InProcess:
    """Does what `Pool` does, without processes: breakpoint() and profilers work.

    Args:
        provenance: Of this launch.
        display: Shows what goes on.
        interrupt: Asked by the run between its steps.
        fail_fast: Start nothing more once a run has failed.
    """

    def __init__(
        self, provenance: Provenance, display: Display, interrupt: Interrupt, *, fail_fast: bool = False
    ) -> None:
        self._fail_fast = fail_fast
        self._provenance = provenance
        self._display = display
        self._interrupt = interrupt

    def start(self, jobs: Sequence[Job]) -> None:
        """Set the variables that numerical libraries read when they are imported."""
        variables = worker_environment(jobs[0].config["compute"], 0)
        variables.pop("CUDA_VISIBLE_DEVICES", None)
        os.environ.update(variables)

    def check(self, cells: Mapping[str, Job]) -> dict[str, dict[str, Any]]:
        """Check one job of each cell; returns facts by cell.

        Raises:
            UserError: A cell cannot work.
        """
        return {cell: inspect(job.config) for cell, job in cells.items()}

    def run(
        self, jobs: Sequence[Job], facts: Mapping[str, dict[str, Any]], begun: Callable[[Job], None]
    ) -> None:
        """Run all jobs; how each one ended is in its `state`."""
        for job in jobs:
            if self._interrupt.is_set() or (self._fail_fast and any(j.state == "failed" for j in jobs)):
                return
            job.begin()
            begun(job)

            def report(progress: dict[str, Any], job: Job = job) -> None:
                job.take({"kind": "progress", "progress": progress})
                self._display.show()

            try:
                result = carry_out(
                    job.config, job.folder, facts[job.cell], self._provenance, self._interrupt, report,
                    capture=False,
                )  # fmt: skip
            except KeyboardInterrupt:
                job.state = "interrupted"
                self._display.ended(job)
                return
            job.take({"kind": "done", **result})
            self._display.ended(job)

    def close(self) -> None:
        """Nothing is left to close."""
