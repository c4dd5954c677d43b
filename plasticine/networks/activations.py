"""Activation functions by name, with what the rest of the platform must know about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from plasticine.errors import UserError, nearest

__all__ = ["Activation", "activation"]


def _crelu(z: Tensor) -> Tensor:
    return torch.cat((torch.relu(z), torch.relu(-z)), dim=1)


def _fourier(z: Tensor) -> Tensor:
    return torch.cat((torch.sin(z), torch.cos(z)), dim=1)


@dataclass(frozen=True)
class Activation:
    """An elementwise non-linearity.

    Attributes:
        name: Key used in YAML and in probes.
        fn: Maps pre-activations [n, units, ...] to [n, expansion * units, ...].
        expansion: Columns per unit; unit i feeds columns i, i + units, ...
    """

    name: str
    fn: Callable[[Tensor], Tensor]
    expansion: int = 1


_ACTIVATIONS = {
    a.name: a
    for a in (
        Activation("relu", torch.relu),
        Activation("tanh", torch.tanh),
        Activation("sigmoid", torch.sigmoid),
        Activation("leaky_relu", F.leaky_relu),
        Activation("elu", F.elu),
        Activation("gelu", F.gelu),
        Activation("silu", F.silu),
        Activation("identity", lambda z: z),
        Activation("crelu", _crelu, expansion=2),
        Activation("fourier", _fourier, expansion=2),
    )
}


def activation(name: str) -> Activation:
    """Look an activation up by name; raise `UserError` with the nearest names if there is none."""
    if name not in _ACTIVATIONS:
        raise UserError(f"unknown activation {name!r}", nearest(name, _ACTIVATIONS))
    return _ACTIVATIONS[name]
