"""Layer normalisation of the hidden layers (Ba et al., arXiv 1607.06450; for plasticity Lyle et al., 2303.01486)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plasticine.core.method import Method
from plasticine.errors import UserError
from plasticine.networks.spec import NetSpec

__all__ = ["LayerNorm", "normalize_layers"]


def normalize_layers(net: NetSpec, by: str, layers: list[int], norm: str, eps: float) -> NetSpec:
    """Put `norm` between linear map and non-linearity of the hidden layers with the given indices.

    Args:
        net: The network so far.
        by: Method that asks for it.
        layers: Indices into ``net.body``.
        norm: ``layer_norm`` or ``rms_norm``.
        eps: Added to the variance under the root.

    Raises:
        SlotConflict: Another method has chosen another normalisation.
        UserError: The ``network`` group has.
    """
    for i in layers:
        layer = net.body[i]
        if "norm" not in layer.writers and layer.norm not in (None, norm):
            raise UserError(
                f"method {by!r} sets norm={norm} where network.norm={layer.norm}",
                "set network.norm=null, or leave the method out",
            )
    net = net.set_hidden(by, layers, norm=norm)
    body = [
        replace(layer, options={**layer.options, "norm_eps": eps}) if i in layers else layer
        for i, layer in enumerate(net.body)
    ]
    return replace(net, body=tuple(body))


class LayerNorm(Method):
    """Each sample's pre-activations are standardised over the layer, then scaled and shifted per unit.

    ``(z - mean(z)) / sqrt(var(z) + eps) * scale + offset``, between linear map and non-linearity of every hidden
    layer in scope; for convolutions over channels and positions, with one scale and offset per channel. Scale
    starts at 1 and offset at 0. Output layers and inputs are left alone.

    Args:
        eps: Added to the variance under the root (> 0).
        common: See `Method`.
    """

    def __init__(self, *, eps: float, **common: Any) -> None:
        super().__init__(**common)
        if eps <= 0:
            raise UserError(f"method.{self.name}.eps={eps} must be positive", "the usual value is 1.0e-5")
        self.eps = eps

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Set the normalisation of the layers whose weight is in scope."""
        layers = [i for i in range(len(net.body)) if self.reaches(f"{net.name}/body.{i}.weight")]
        return normalize_layers(net, self.name, layers, "layer_norm", self.eps)
