"""Base of the metrics that pass on a number which the update has already produced."""

from __future__ import annotations

from typing import ClassVar

from plasticine.core.metric import Metric, Probe
from plasticine.metrics.per_network import finite_or_nan

__all__ = ["UpdateScalar"]


class UpdateScalar(Metric):
    """A metric of the whole agent, read from the probe's scalars under the name `scalar`."""

    scalar: ClassVar[str]

    def compute(self, probe: Probe) -> dict[str, float]:
        """Return ``{"": value}``, NaN for an infinite one, ``{}`` if the agent does not produce it."""
        if self.scalar not in probe.scalars:
            return {}
        return {"": finite_or_nan(float(probe.scalars[self.scalar]))}
