"""Dedicated random streams: who draws never changes what somebody else draws."""

from __future__ import annotations

import hashlib

import torch
from torch import Generator

__all__ = ["Streams", "derive_seed"]


def derive_seed(seed: int, *purpose: object) -> int:
    """A 63-bit seed that depends on the run's seed and on what it is for, and on nothing else."""
    text = "\x1f".join([str(int(seed)), *map(str, purpose)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class Streams:
    """One CPU generator per purpose, created on first use, saved and restored together.

    CPU generators are used on every device, so that devices draw the same numbers.
    """

    def __init__(self, seed: int) -> None:
        self.seed = int(seed)
        self._generators: dict[str, Generator] = {}

    def __getitem__(self, purpose: str) -> Generator:
        if purpose not in self._generators:
            self._generators[purpose] = self.once(purpose)
        return self._generators[purpose]

    def once(self, *purpose: object) -> Generator:
        """A generator that is not kept (initial values): always starts from the same state."""
        return torch.Generator().manual_seed(derive_seed(self.seed, *purpose))

    def state(self) -> dict[str, torch.Tensor]:
        """State of every generator used so far."""
        return {name: g.get_state() for name, g in self._generators.items()}

    def load_state(self, state: dict[str, torch.Tensor]) -> None:
        """Restore in place (others hold on to the generators); those that were not saved start afresh."""
        for name in self._generators.keys() - state.keys():
            self._generators[name].set_state(self.once(name).get_state())
        for name, value in state.items():
            self[name].set_state(value)
