"""Numbers produced inside the update, kept on the device until somebody asks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["ScalarBuffer"]


class ScalarBuffer:
    """A preallocated table: one row per update, one column per scalar.

    Args:
        names: Column names.
        rows: Most updates between two flushes.
    """

    def __init__(self, names: Sequence[str], rows: int, device: torch.device) -> None:
        self.names = tuple(names)
        self._table = torch.zeros(rows, len(self.names), device=device)
        self._rows = list(self._table.unbind(0))
        self._next = 0

    def add(self, values: Sequence[Tensor]) -> None:
        """Append one row of 0-d tensors, in the order of `names`."""
        torch.stack(tuple(values), out=self._rows[self._next])
        self._next += 1

    def flush(self) -> dict[str, float]:
        """Means over the rows since the last flush (one device-to-host copy); empty if there are none."""
        if self._next == 0:
            return {}
        means = self._table[: self._next].mean(0).tolist()
        self._next = 0
        return dict(zip(self.names, means, strict=True))
