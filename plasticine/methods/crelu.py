"""Concatenated ReLU (Shang et al., arXiv 1603.05201; for plasticity Abbas et al., arXiv 2303.07507)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Collection, Mapping
from typing import Any

from plasticine.core.method import Method
from plasticine.errors import UserError, nearest
from plasticine.networks.build import parameter_count
from plasticine.networks.spec import NetSpec
from plasticine.networks.streams import Streams

__all__ = ["CRelu", "fitted_units", "with_wide_activation"]

#: What may be kept.
WIDTHS = ("units", "columns", "parameters")


def with_wide_activation(
    net: NetSpec, by: str, layers: Collection[int], act: str, *, keep_width: str
) -> NetSpec:
    """Give hidden layers an activation that makes two outputs of each unit.

    Layers that are linear by design stay linear.

    Args:
        net: The network so far.
        by: Method that asks for it.
        layers: Indices into ``net.body``.
        act: Name of the activation.
        keep_width: What stays as it was: ``units``; ``columns``, what the next layer reads (half the units, rounded
            up); or ``parameters``, of the whole network (see `fitted_units`). On a residual stream the latter two
            take all layers that add to it, linear ones included.

    Raises:
        SlotConflict: Another method has chosen another activation or width.
        UserError: A residual stream would be narrowed in part, or there is no such choice.
    """
    if keep_width not in WIDTHS:
        raise UserError(
            f"method.{by}.keep_width={keep_width}: there is no such choice", nearest(keep_width, WIDTHS)
        )
    wide = net.set_hidden(by, layers, act=act)
    if keep_width == "units":
        return wide
    narrowed = _narrowed(net, by, layers)
    if keep_width == "columns":
        return _with_units(wide, by, {i: (net.body[i].width + 1) // 2 for i in narrowed})
    return _with_units(wide, by, fitted_units(wide, by, narrowed, parameter_count(net)))


def fitted_units(net: NetSpec, by: str, layers: Collection[int], parameters: int) -> dict[int, int]:
    """Return the units of some hidden layers with which a network's size comes closest to a number of parameters.

    All these layers keep the same share of their units, rounded, so layers of equal width stay equal.

    Args:
        net: The network, with its activations.
        by: Method that asks for it.
        layers: Indices into ``net.body``; their units are scaled down, to one at least.
        parameters: Wanted number of trained scalars, all layers and heads counted.
    """
    # The size grows with the share, and changes only where some layer's width is rounded to the next number.
    steps = {(k + 0.5) / net.body[i].width for i in layers for k in range(1, net.body[i].width)}
    shares = [0.0, *sorted(steps)]

    def units(share: float) -> dict[int, int]:
        # Halves up, and a hair more, so that a share at which a width changes gives the larger one.
        return {i: max(1, math.floor(share * net.body[i].width + 0.5 + 1e-9)) for i in layers}

    def size(share: float) -> int:
        return parameter_count(_with_units(net, by, units(share)))

    above = bisect.bisect_left(shares, parameters, key=size)
    near = shares[max(0, above - 1) : above + 1]
    return units(min(near, key=lambda share: abs(size(share) - parameters)))


def _with_units(net: NetSpec, by: str, units: Mapping[int, int]) -> NetSpec:
    for i, width in units.items():
        net = net.set_hidden(by, [i], width=width)
    return net


def _narrowed(net: NetSpec, by: str, layers: Collection[int]) -> list[int]:
    """Return the layers that lose units: those that change, and the others of their residual streams."""
    changed = {i for i in layers if not net.body[i].options.get("linear")}
    streams = Streams(net)
    opened = {streams.opened_by(i) for i in changed if streams.residual(i)}
    together = {i for i in range(len(net.body)) if streams.residual(i) and streams.opened_by(i) in opened}
    left_out = sorted(i for i in together - changed if not net.body[i].options.get("linear"))
    if left_out:
        raise UserError(
            f"method {by!r} would narrow a residual stream of {net.name!r} in part: {net.name}/body.{left_out[0]} "
            "adds to it and is out of scope",
            f"widen method.{by}.scope to the whole stream, or set method.{by}.keep_width=units",
        )
    return sorted(changed | together)


class CRelu(Method):
    """``[max(z, 0), max(-z, 0)]`` in place of the activation of every hidden layer in scope.

    No unit can die: one of its two outputs is always on, and the gradient always passes. What the next layer reads
    doubles in width (channels, for convolutions).

    Args:
        keep_width: What stays as without the method: ``units`` of every layer; ``columns``, what the next layer
            reads (half the units); or ``parameters`` of the network, heads included, as the methods before this one
            left it (about 0.7 times the units).
        common: See `Method`.
    """

    def __init__(self, *, keep_width: str, **common: Any) -> None:
        super().__init__(**common)
        self.keep_width = keep_width

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Set the activation of the layers whose weight is in scope."""
        layers = [i for i in range(len(net.body)) if self.reaches(f"{net.name}/body.{i}.weight")]
        return with_wide_activation(net, self.name, layers, "crelu", keep_width=self.keep_width)
