"""What the optimizer remembers of the size of gradients."""

from __future__ import annotations

import math

import torch

from plasticine.core.metric import Layers, Metric, NetProbe, Probe
from plasticine.core.optim import SecondMoment
from plasticine.metrics.bounds import choice
from plasticine.metrics.per_network import finite_or_nan

__all__ = ["AdamSecondMoment"]


class AdamSecondMoment(Metric):
    r"""Size of the second moment of an optimizer of Adam's kind.

    With :math:`\hat v` Adam's running mean of squared gradients, corrected for its start at zero, over all entries
    of a network's trainable tensors:

    * ``of="root"``: mean of :math:`\sqrt{\hat v}`, the size of the gradients as the optimizer sees it;
    * ``of="below_eps"``: share of entries with :math:`\sqrt{\hat v} < \epsilon`, the constant in the denominator of
      a step. There the step is no longer normalised: it shrinks with the gradient.

    Range: [0, inf) and [0, 1]. A root that falls to 0, and a share that rises, mean that directions have died
    (or that the loss is at its minimum). NaN if a moment is not finite. No value before the first optimizer step, and
    with optimizers that keep no such moment.

    Source: Dohare et al. 2024 (Nature 632) and Lyle et al. 2023 (arXiv 2303.01486) on Adam's moments and plasticity.

    Args:
        of: ``root`` or ``below_eps``.

    Raises:
        UserError: `of` is another word.
    """

    def __init__(self, *, of: str) -> None:
        self.of = choice("of of the second moment metric", of, ("root", "below_eps"))

    def compute(self, probe: Probe) -> dict[str, float]:
        """Return the number over all tensors by network."""
        return {
            net.name: self._over(list(moments))
            for net in probe.nets
            if (moments := [m for found in self._by_layer(net, probe).values() for m in found])
        }

    def layers(self, probe: Probe) -> Layers:
        """Return the number over the tensors of every layer."""
        found = {
            net.name: {layer: self._over(moments) for layer, moments in self._by_layer(net, probe).items()}
            for net in probe.nets
        }
        return {name: layers for name, layers in found.items() if layers}

    def _by_layer(self, net: NetProbe, probe: Probe) -> dict[str, list[SecondMoment]]:
        found: dict[str, list[SecondMoment]] = {}
        for name in net.params:
            if name in probe.second_moments:
                found.setdefault(net.layer_of(name), []).append(probe.second_moments[name])
        return found

    def _over(self, moments: list[SecondMoment]) -> float:
        total, entries = 0.0, 0
        for value, eps in moments:
            root = value.sqrt()
            if not bool(torch.isfinite(root).all()):
                return math.nan
            part = root.sum(dtype=torch.float64) if self.of == "root" else (root < eps).sum()
            total, entries = total + float(part), entries + root.numel()
        return finite_or_nan(total / entries)
