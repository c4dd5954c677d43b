"""How tensors are drawn: named initialisers with a dedicated generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from plasticine.errors import UserError, nearest

__all__ = ["Initializer"]


def _fans(tensor: Tensor) -> tuple[int, int]:
    receptive = math.prod(tensor.shape[2:])
    return tensor.shape[1] * receptive, tensor.shape[0] * receptive


def _orthogonal(tensor: Tensor, gain: float, fan_in: int, generator: Generator) -> None:
    rows, cols = tensor.shape[0], tensor.numel() // tensor.shape[0]
    tall = torch.randn(max(rows, cols), min(rows, cols), generator=generator, dtype=torch.float32)
    q, r = torch.linalg.qr(tall)
    q = q * r.diagonal().sign()  # makes the distribution uniform over orthogonal matrices
    tensor.copy_((q.T if rows < cols else q).mul_(gain).reshape(tensor.shape))


def _uniform_fan_in(tensor: Tensor, gain: float, fan_in: int, generator: Generator) -> None:
    bound = gain / math.sqrt(fan_in)
    tensor.copy_(torch.rand(tensor.shape, generator=generator).mul_(2 * bound).sub_(bound))


def _he_normal(tensor: Tensor, gain: float, fan_in: int, generator: Generator) -> None:
    tensor.copy_(torch.randn(tensor.shape, generator=generator).mul_(gain * math.sqrt(2.0 / fan_in)))


def _constant(tensor: Tensor, gain: float, fan_in: int, generator: Generator) -> None:
    tensor.fill_(gain)


_DRAW: dict[str, Callable[[Tensor, float, int, Generator], None]] = {
    "orthogonal": _orthogonal,
    "uniform_fan_in": _uniform_fan_in,
    "he_normal": _he_normal,
    "constant": _constant,
}


@dataclass(frozen=True)
class Initializer:
    """A distribution over tensors.

    Attributes:
        kind: ``orthogonal`` (Saxe et al., arXiv 1312.6120; convolutions flattened to out x rest),
            ``uniform_fan_in`` (U[-gain/sqrt(fan_in), +gain/sqrt(fan_in)]; gain 1 is PyTorch's default for linear
            and convolutional layers), ``he_normal`` (arXiv 1502.01852) or ``constant`` (every entry = gain).
        gain: Scale.
        fan_in: Inputs per unit; needed for biases, whose own shape does not tell. 0 = derive from the tensor.
        largest: Draws are scaled such that their largest singular value (as matrices out x rest) is this; with
            `limit` only where it would be larger. None = as drawn.
        limit: See `largest`.
    """

    kind: str
    gain: float = 1.0
    fan_in: int = 0
    largest: float | None = None
    limit: bool = False

    def __post_init__(self) -> None:
        if self.kind not in _DRAW:
            raise UserError(f"unknown initialiser {self.kind!r}", nearest(self.kind, _DRAW))

    @property
    def random(self) -> bool:
        """False if every draw is the same (constants)."""
        return self.kind != "constant"

    def draw_(self, tensor: Tensor, generator: Generator) -> Tensor:
        """Overwrite `tensor` with a fresh draw from `generator` (a CPU generator, so that devices agree)."""
        fan_in = self.fan_in or (_fans(tensor)[0] if tensor.dim() > 1 else tensor.numel())
        with torch.no_grad():
            _DRAW[self.kind](tensor, self.gain, fan_in, generator)
            if self.largest is not None:
                size = float(torch.linalg.matrix_norm(tensor.flatten(1), 2))
                if size > self.largest or (size > 0 and not self.limit):
                    tensor.mul_(self.largest / size)
        return tensor

    def std(self, shape: tuple[int, ...]) -> float:
        """Standard deviation of one entry of a tensor of `shape` (0 for constants).

        With `largest`, that of draws whose largest singular value has its usual size.
        """
        spread = self._std(shape)
        if self.largest is None or spread == 0.0:
            return spread
        rows, cols = shape[0], math.prod(shape[1:])
        independent = spread * (math.sqrt(rows) + math.sqrt(cols))  # limit for large matrices
        usual = self.gain if self.kind == "orthogonal" else independent
        return spread if self.limit and usual <= self.largest else spread * self.largest / usual

    def _std(self, shape: tuple[int, ...]) -> float:
        cols = math.prod(shape[1:])
        fan_in = self.fan_in or cols
        if self.kind == "orthogonal":
            return self.gain / math.sqrt(max(shape[0], cols))
        if self.kind == "uniform_fan_in":
            return self.gain / math.sqrt(3.0 * fan_in)
        if self.kind == "he_normal":
            return self.gain * math.sqrt(2.0 / fan_in)
        return 0.0

    def mean(self) -> float:
        """Mean of one entry."""
        return self.gain if self.kind == "constant" else 0.0
