"""Metrics read a probe of the learner and return numbers; they change nothing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

__all__ = ["Metric", "NetProbe", "Probe", "SiteProbe"]


@dataclass(frozen=True)
class SiteProbe:
    """Activations of one hidden layer on the probe batch.

    Attributes:
        name: Activation site, e.g. ``body.0``.
        pre: Pre-activation (after normalisation, before the non-linearity): [n, units] or [n, units, H, W].
        post: What the next layer reads: [n, width] or [n, width, H, W]; ``width = expansion * units``.
        act: Name of the activation, e.g. ``relu``, ``tanh``, ``crelu``, ``fourier``.
        expansion: Columns per unit (2 for CReLU and Fourier: unit i feeds columns i and i + units).
    """

    name: str
    pre: Tensor
    post: Tensor
    act: str
    expansion: int = 1


@dataclass(frozen=True)
class NetProbe:
    """One network seen on the probe batch.

    Attributes:
        name: Network name, e.g. ``actor``.
        sites: Hidden layers in forward order.
        features: Output of the last hidden layer [n, d] (what the heads read).
        params: Trainable tensors by name (live: do not write).
        anchors: Earlier values of the same tensors: ``update`` (start of the latest update), ``task`` (start of
            the task), ``init`` (start of the run).
        kinds: Kind of each tensor: ``weight | bias | norm_scale | norm_offset | free``.
        outputs: Head outputs on the probe batch, by head name.
    """

    name: str
    sites: tuple[SiteProbe, ...]
    features: Tensor
    params: Mapping[str, Tensor]
    anchors: Mapping[str, Mapping[str, Tensor]]
    kinds: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values of `features`, float64, descending [min(n, d)]; NaN if features are not finite.

        Computed once and shared by every rank metric.
        """
        features = self.features.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(features).all()):
            return torch.full((min(features.shape),), float("nan"), dtype=torch.float64)
        return torch.linalg.svdvals(features)


@dataclass(frozen=True)
class Probe:
    """One measurement: a single forward pass of all online networks over the probe batch.

    Attributes:
        nets: The online networks.
        scalars: Numbers the update already produced, averaged over its minibatches (``gradient_norm``,
            ``policy_entropy`` ...).
        extras: Room for later needs (batch, distribution parameters), by name.
    """

    nets: tuple[NetProbe, ...]
    scalars: Mapping[str, float] = field(default_factory=dict)
    extras: Mapping[str, Any] = field(default_factory=dict)


class Metric(ABC):
    """A number (or a few) that says something about a network's ability to learn.

    Parameters, buffers, gradients, random generators and train/eval mode must be the same after `compute`;
    the trainer calls it under ``torch.no_grad``.
    """

    @abstractmethod
    def compute(self, probe: Probe) -> dict[str, float]:
        """Return values keyed by network name (``actor``), or ``""`` for a value of the whole agent.

        Keys become ``plasticity/<metric>/<network>``; the aggregate over networks is their mean. Return NaN for
        an input that contains non-finite numbers, never raise.
        """
