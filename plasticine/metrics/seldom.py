"""Base of the metrics that are too expensive for every measurement."""

from __future__ import annotations

from abc import abstractmethod

from plasticine.core.metric import Metric, Probe
from plasticine.core.ranges import check_counts

__all__ = ["Seldom"]


class Seldom(Metric):
    """A metric with a cadence of its own; subclasses write `look`.

    Args:
        every: Looks at measurements after a multiple of so many updates, after the first one, and at the end of each
            task. Measurements happen every ``metrics.every`` updates, so it should be a multiple of that. None: only
            at the end of each task.

    Raises:
        UserError: `every` is no positive number.
    """

    def __init__(self, *, every: int | None) -> None:
        if every is not None:
            check_counts("metrics", every=every)
        self.every = every

    @abstractmethod
    def look(self, probe: Probe) -> dict[str, float]:
        """See `Metric.compute`."""

    def compute(self, probe: Probe) -> dict[str, float]:
        """Values if it is time, otherwise none."""
        by_count = self.every is not None and (probe.iteration == 1 or probe.iteration % self.every == 0)
        return self.look(probe) if probe.task_end or by_count else {}
