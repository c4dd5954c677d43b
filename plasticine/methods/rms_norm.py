"""Root-mean-square normalisation of the hidden layers (Zhang & Sennrich, arXiv 1910.07467)."""

from __future__ import annotations

from typing import Any

from plasticine.core.method import Method
from plasticine.errors import UserError
from plasticine.methods.layer_norm import normalize_layers
from plasticine.networks.spec import NetSpec

__all__ = ["RmsNorm"]


class RmsNorm(Method):
    """Each sample's pre-activations are divided by their root mean square over the layer, then scaled per unit.

    ``z / sqrt(mean(z^2) + eps) * scale``, between linear map and non-linearity of every hidden layer in scope; for
    convolutions over channels and positions, with one scale per channel. Scale starts at 1. The mean is not
    subtracted and there is no offset, so the layer's bias keeps its purpose. Output layers and inputs are left alone.

    Args:
        eps: Added to the mean square under the root (> 0).
        common: See `Method`.
    """

    def __init__(self, *, eps: float, **common: Any) -> None:
        super().__init__(**common)
        if eps <= 0:
            raise UserError(f"method.{self.name}.eps={eps} must be positive", "the usual value is 1.0e-6")
        self.eps = eps

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Set the normalisation of the layers whose weight is in scope."""
        layers = [i for i in range(len(net.body)) if self.reaches(f"{net.name}/body.{i}.weight")]
        return normalize_layers(net, self.name, layers, "rms_norm", self.eps)
