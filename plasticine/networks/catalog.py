"""Hidden layers by recipe: what the ``network`` group chooses from."""

from __future__ import annotations

from collections.abc import Sequence

from plasticine.errors import UserError
from plasticine.networks.activations import activation
from plasticine.networks.initializers import Initializer
from plasticine.networks.spec import LayerSpec

__all__ = ["mlp"]


def mlp(
    *, hidden: Sequence[int], act: str, norm: str | None, init: str, gain: float, bias_init: str
) -> tuple[LayerSpec, ...]:
    """Fully connected hidden layers.

    Args:
        hidden: Units of each layer.
        act: Activation of every layer.
        norm: ``layer_norm``, ``rms_norm`` or None, between linear map and activation.
        init, gain: Weight initialiser.
        bias_init: ``zeros``, or ``uniform_fan_in`` (PyTorch's default).
    """
    activation(act)
    if not hidden or any(not isinstance(h, int) or h < 1 for h in hidden):
        raise UserError(f"network.hidden={list(hidden)} must list the units of at least one layer")
    bias = Initializer("constant", 0.0) if bias_init == "zeros" else Initializer(bias_init)
    return tuple(LayerSpec("dense", h, act, norm, Initializer(init, gain), bias) for h in hidden)
