"""Deep Fourier features (Lewandowski et al., arXiv 2410.20634)."""

from __future__ import annotations

from typing import Any

from plasticine.core.method import Method
from plasticine.methods.crelu import with_wide_activation
from plasticine.networks.spec import NetSpec

__all__ = ["DeepFourierFeatures"]


class DeepFourierFeatures(Method):
    """``[sin z, cos z]`` in place of the activation of every hidden layer in scope.

    Whatever z is, one of the two is close to linear there, and their derivatives never vanish together.

    Args:
        keep_width: What stays as without the method: ``columns``, what the next layer reads (half the units, as in
            the paper); ``units`` of every layer; or ``parameters`` of the network, heads included, as the methods
            before this one left it (about 0.7 times the units).
        common: See `Method`.
    """

    def __init__(self, *, keep_width: str, **common: Any) -> None:
        super().__init__(**common)
        self.keep_width = keep_width

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Set the activation of the layers whose weight is in scope."""
        layers = [i for i in range(len(net.body)) if self.reaches(f"{net.name}/body.{i}.weight")]
        return with_wide_activation(net, self.name, layers, "fourier", keep_width=self.keep_width)
