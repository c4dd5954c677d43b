"""Random actions now and then, less often as a run goes on."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from plasticine.core.ranges import check_numbers

__all__ = ["LinearEpsilon", "epsilon_greedy"]


def epsilon_greedy(best: Tensor, actions: int, epsilon: float, generator: Generator) -> NDArray[Any]:
    """The best action of each row [n], or with probability `epsilon` one of all `actions`, uniformly."""
    explore = torch.rand(best.shape, generator=generator) < epsilon
    return torch.where(explore, torch.randint(actions, best.shape, generator=generator), best.cpu()).numpy()


class LinearEpsilon:
    """Probability of a random action, falling linearly over the first part of a run and constant afterwards.

    Args:
        start, end: Probabilities, 0..1.
        fraction: Part of the run after which `end` is reached, in (0, 1].

    Raises:
        UserError: A number is out of range.
    """

    def __init__(self, *, start: float, end: float, fraction: float) -> None:
        check_numbers("agent", "[0, 1]", epsilon_start=start, epsilon_end=end)
        check_numbers("agent", "(0, 1]", epsilon_fraction=fraction)
        self.start = start
        self.end = end
        self.fraction = fraction

    def at(self, progress: float) -> float:
        """The probability when the part `progress` (0..1) of the run is done."""
        return self.start + (self.end - self.start) * min(1.0, progress / self.fraction)
