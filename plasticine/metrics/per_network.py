"""Base of the metrics that give one number for every network."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from plasticine.core.metric import Layers, Metric, NetProbe, Probe

__all__ = ["PerNetwork", "as_float64", "finite_or_nan", "tensors_by_layer"]


def as_float64(tensor: Tensor) -> Tensor:
    """Return the values as a detached float64 CPU tensor: sums over millions of entries stay exact enough."""
    return tensor.detach().to("cpu", torch.float64)


def finite_or_nan(value: float) -> float:
    """Return `value`, or NaN where it is infinite: one marker for "the input was broken"."""
    return value if math.isfinite(value) else math.nan


def tensors_by_layer(net: NetProbe, kinds: frozenset[str]) -> dict[str, list[str]]:
    """Return the names of a network's tensors of the given kinds by layer, in the order of the network."""
    found: dict[str, list[str]] = {}
    for name in net.params:
        if net.kinds[name] in kinds:
            found.setdefault(net.layer_of(name), []).append(name)
    return found


class PerNetwork(Metric):
    """A metric that looks at one network at a time; subclasses write `measure`, and `measure_layers` if they can."""

    @abstractmethod
    def measure(self, net: NetProbe) -> float | None:
        """Return the number for one network, None if the network has nothing this metric applies to."""

    def measure_layers(self, net: NetProbe) -> dict[str, float]:
        """Return the numbers of single layers of one network; layers the metric does not apply to are left out."""
        return {}

    def compute(self, probe: Probe) -> dict[str, float]:
        """Return one number by network name; networks the metric does not apply to are left out."""
        measured = {net.name: self.measure(net) for net in probe.nets}
        return {name: finite_or_nan(value) for name, value in measured.items() if value is not None}

    def layers(self, probe: Probe) -> Layers:
        """Return the numbers of single layers by network."""
        measured = {net.name: self.measure_layers(net) for net in probe.nets}
        return {
            name: {layer: finite_or_nan(value) for layer, value in layers.items()}
            for name, layers in measured.items()
            if layers
        }
