"""From stored observations to what networks read."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from plasticine.core.env import EnvSpec

__all__ = ["Observations"]

#: Numbers (rows x size of one observation) per forward pass when many observations are evaluated at once.
_NUMBERS = 2**22
_MOST_ROWS = 4096


class Observations:
    """Moves observations to the device and scales images to 0..1.

    Images are kept as bytes wherever they are stored, and converted for the rows of one forward pass at a time:
    as float32 a rollout of images would need four times the memory.

    Attributes:
        chunk: Rows per forward pass when many observations are evaluated.
    """

    def __init__(self, env: EnvSpec, device: torch.device) -> None:
        self._device = device
        self._on_host = device.type == "cpu"
        self._scale = 1.0 / 255.0 if env.obs_dtype == "uint8" else None
        self.chunk = max(1, min(_MOST_ROWS, _NUMBERS // math.prod(env.obs_shape)))

    def moved(self, obs: Tensor) -> Tensor:
        """The same values on the device."""
        return obs if self._on_host else obs.to(self._device, non_blocking=True)

    def __call__(self, obs: Tensor) -> Tensor:
        """Float32 inputs of a network on the device, [n, *obs_shape]."""
        obs = self.moved(obs)
        return obs if self._scale is None else obs.float().mul_(self._scale)

    def map(self, fn: Callable[[Tensor], Tensor], obs: Tensor) -> Tensor:
        """Apply `fn` to inputs made from obs [n, *obs_shape], chunk by chunk; join the results along rows."""
        return torch.cat([fn(self(part)) for part in obs.split(self.chunk)])
