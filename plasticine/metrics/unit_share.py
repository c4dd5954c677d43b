"""Base of the metrics that say which share of the hidden units is in some state."""

from __future__ import annotations

import math
from abc import abstractmethod

from plasticine.core.metric import NetProbe, SiteProbe
from plasticine.metrics.per_network import PerNetwork

__all__ = ["Counts", "UnitShare", "layer_shares", "total_share"]

#: Layer -> (units that count, or None if they cannot be judged; units).
Counts = dict[str, tuple[int | None, int]]


def total_share(counts: Counts) -> float | None:
    """Return the units that count / all units; NaN if a layer cannot be judged, None if there is no layer."""
    if not counts:
        return None
    found = [count for count, _ in counts.values() if count is not None]
    return sum(found) / sum(units for _, units in counts.values()) if len(found) == len(counts) else math.nan


def layer_shares(counts: Counts) -> dict[str, float]:
    """Return the share in every layer, NaN where it cannot be judged."""
    return {layer: math.nan if count is None else count / units for layer, (count, units) in counts.items()}


class UnitShare(PerNetwork):
    """Units of the hidden layers of a network that count / units of its hidden layers; subclasses write `count`."""

    @abstractmethod
    def count(self, site: SiteProbe) -> int | None:
        """Return how many units of a layer count; None if they cannot be judged."""

    def applies(self, site: SiteProbe) -> bool:
        """Whether a layer is looked at."""
        return True

    def measure(self, net: NetProbe) -> float | None:
        """Return the share over the hidden layers of one network."""
        return total_share(self._counts(net))

    def measure_layers(self, net: NetProbe) -> dict[str, float]:
        """Return the share in every hidden layer."""
        return layer_shares(self._counts(net))

    def _counts(self, net: NetProbe) -> Counts:
        return {s.name: (self.count(s), s.post.shape[1] // s.expansion) for s in net.sites if self.applies(s)}
