"""Concatenated ReLU (Shang et al., arXiv 1603.05201; for plasticity Abbas et al., arXiv 2303.07507)."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from plasticine.core.method import Method
from plasticine.errors import UserError
from plasticine.networks.spec import NetSpec
from plasticine.networks.streams import Streams

__all__ = ["CRelu", "with_wide_activation"]


def with_wide_activation(
    net: NetSpec, by: str, layers: Collection[int], act: str, *, keep_width: bool
) -> NetSpec:
    """Give hidden layers an activation that makes two outputs of each unit.

    Layers that are linear by design stay linear.

    Args:
        net: The network so far.
        by: Method that asks for it.
        layers: Indices into ``net.body``.
        act: Name of the activation.
        keep_width: Halve the units (rounded up), so that the next layer reads as many numbers as before. On a
            residual stream that takes all layers that add to it, linear ones included.

    Raises:
        SlotConflict: Another method has chosen another activation or width.
        UserError: A residual stream would be halved in part.
    """
    net = net.set_hidden(by, layers, act=act)
    if not keep_width:
        return net
    changed = {i for i in layers if not net.body[i].options.get("linear")}
    streams = Streams(net)
    opened = {streams.opened_by(i) for i in changed if streams.residual(i)}
    together = {i for i in range(len(net.body)) if streams.residual(i) and streams.opened_by(i) in opened}
    left_out = sorted(i for i in together - changed if not net.body[i].options.get("linear"))
    if left_out:
        raise UserError(
            f"method {by!r} would halve a residual stream of {net.name!r} in part: {net.name}/body.{left_out[0]} "
            "adds to it and is out of scope",
            f"widen method.{by}.scope to the whole stream, or set method.{by}.keep_width=false",
        )
    for i in sorted(changed | together):
        net = net.set_hidden(by, [i], width=(net.body[i].width + 1) // 2)
    return net


class CRelu(Method):
    """``[max(z, 0), max(-z, 0)]`` in place of the activation of every hidden layer in scope.

    No unit can die: one of its two outputs is always on, and the gradient always passes. What the next layer reads
    doubles in width (channels, for convolutions).

    Args:
        keep_width: Halve every layer, so that the next one reads as many numbers as without the method.
        common: See `Method`.
    """

    def __init__(self, *, keep_width: bool, **common: Any) -> None:
        super().__init__(**common)
        self.keep_width = keep_width

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Set the activation of the layers whose weight is in scope."""
        layers = [i for i in range(len(net.body)) if self.reaches(f"{net.name}/body.{i}.weight")]
        return with_wide_activation(net, self.name, layers, "crelu", keep_width=self.keep_width)
