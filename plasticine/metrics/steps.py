"""How far the weights move, compared with how large they are."""

from __future__ import annotations

import math
from collections.abc import Iterable

from torch import Tensor

from plasticine.core.metric import Layers, Metric, NetProbe, Probe
from plasticine.metrics.bounds import choice
from plasticine.metrics.per_network import PerNetwork, as_float64, finite_or_nan, tensors_by_layer

__all__ = ["EffectiveRate", "UpdateToWeight", "relative_change", "rotation"]

_WEIGHT = frozenset({"weight"})


def _comparable(net: NetProbe, since: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Weight now and at an anchor by layer."""
    anchor = net.anchors.get(since, {})
    return {
        layer: (net.params[name], anchor[name])
        for layer, names in tensors_by_layer(net, _WEIGHT).items()
        for name in names
        if name in anchor and anchor[name].shape == net.params[name].shape
    }


def relative_change(pairs: Iterable[tuple[Tensor, Tensor]]) -> float | None:
    """Return the length of all changes divided by the length of all earlier values; None if these are all zero.

    Args:
        pairs: (present values, earlier values) of each tensor.
    """
    moved = length = 0.0
    for now, before in pairs:
        earlier = as_float64(before)
        moved += float((as_float64(now) - earlier).square().sum())
        length += float(earlier.square().sum())
    if math.isnan(moved) or math.isnan(length):
        return math.nan
    return math.sqrt(moved / length) if length > 0 else None


def rotation(now: Tensor, before: Tensor) -> float | None:
    """Return the angle in radians between two tensors seen as vectors; None if one of them is zero."""
    a, b = as_float64(now).flatten(), as_float64(before).flatten()
    sizes = float(a.norm()), float(b.norm())
    if not all(map(math.isfinite, sizes)):
        return math.nan
    if 0.0 in sizes:
        return None
    a, b = a / sizes[0], b / sizes[1]
    # Not the arc cosine of the product, which has no digits left for small angles.
    return 2.0 * math.atan2(float((a - b).norm()), float((a + b).norm()))


class UpdateToWeight(PerNetwork):
    r"""Realised relative step size: how far the latest update moved the weights, by their length before it.

    .. math:: \frac{ \| W - W' \|_F }{ \| W' \|_F }

    over all weights of the network together (biases and normalisation excluded; layer by layer in the table), with W
    the weights now and :math:`W'` those before the latest update: one round of collecting and learning, with all its
    optimizer steps, projections and whatever else methods do in between. The weights of a single optimizer step
    move by about this number divided by the number of steps, or by its root where directions are random.

    Range: [0, inf). Close to 0 = frozen; falling while weights grow = loss of plasticity; around 1 = unstable.
    NaN if a weight is not finite. A network whose weights were all zero has no value.

    Source: relative update size of You et al. 2017 (arXiv 1708.03888); Lyle et al. 2024 (arXiv 2407.01800) on its
    decay as a cause of plasticity loss.
    """

    def measure(self, net: NetProbe) -> float | None:
        """Return the relative change of all weights of one network."""
        return relative_change(_comparable(net, "update").values())

    def measure_layers(self, net: NetProbe) -> dict[str, float]:
        """Return the relative change of the weight of every layer."""
        found = {layer: relative_change([pair]) for layer, pair in _comparable(net, "update").items()}
        return {layer: value for layer, value in found.items() if value is not None}


class EffectiveRate(Metric):
    r"""Effective learning rate of the layers whose scale does not matter.

    Normalising a layer's result makes its function independent of the length of its weight W, which then only
    decides how far a step turns it. Averaged over a network's normalised hidden layers:

    * ``of="rate"``: :math:`\eta / \| W \|_F`, with :math:`\eta` the learning rate of the latest step; what a step of
      Adam, whose length does not depend on that of W, turns W by, up to a constant;
    * ``of="rotation"``: the angle in radians between W and the weight :math:`W'` before the latest update,
      :math:`\arccos ( \langle W, W' \rangle / \| W \| \| W' \| )`: what was realised, with any optimizer.

    Range: [0, inf), and [0, pi]. Falling = loss of plasticity. NaN if a weight is not finite. A network without
    normalised layers, or before its first update, has no value.

    Source: Lyle et al. 2024 (arXiv 2407.01800), sections 3 and 4.

    Args:
        of: ``rate`` or ``rotation``.

    Raises:
        UserError: `of` is another word.
    """

    needs_batch = True

    def __init__(self, *, of: str) -> None:
        self.of = choice("of of the effective rate metric", of, ("rate", "rotation"))

    def compute(self, probe: Probe) -> dict[str, float]:
        """Return the mean over the normalised layers by network."""
        return {
            net: math.fsum(values.values()) / len(values)
            for net, values in self.layers(probe).items()
            if values
        }

    def layers(self, probe: Probe) -> Layers:
        """Return the number of every normalised hidden layer."""
        return {net.name: found for net in probe.nets if (found := self._of(net, probe))}

    def _of(self, net: NetProbe, probe: Probe) -> dict[str, float]:
        normalised = tensors_by_layer(net, frozenset({"norm_scale"}))
        found: dict[str, float | None] = {}
        for layer, (now, before) in _comparable(net, "update").items():
            if layer not in normalised:
                continue
            if self.of == "rotation":
                found[layer] = rotation(now, before)
            elif net.name in probe.rates:
                length = float(as_float64(now).norm())
                found[layer] = probe.rates[net.name] / length if length != 0 else None
        return {layer: finite_or_nan(value) for layer, value in found.items() if value is not None}
