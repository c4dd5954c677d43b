"""The one way to overwrite weights from outside the optimizer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.core.optim import Optimizer
from plasticine.core.state import TrainState

__all__ = ["Surgeon"]


class Surgeon:
    """Writes values into trainable or frozen tensors, together with everything that remembers them.

    Storage never moves: a write is a copy into the existing tensor, so no optimizer, target or captured graph
    can be left holding a dead one.
    """

    def __init__(self, state: TrainState, optimizers: Sequence[Optimizer]) -> None:
        self._state = state
        self._optimizers = list(optimizers)

    @torch.no_grad()
    def write(
        self,
        name: str,
        value: Tensor | float,
        mask: Tensor | None = None,
        *,
        moments: bool = True,
        target: bool = False,
    ) -> None:
        """Overwrite tensor `name` with `value`.

        Args:
            name: Full name of a trainable or frozen tensor.
            value: Tensor of the same shape, or one number.
            mask: Boolean, broadcastable to the tensor's shape: entries to overwrite (all if None).
            moments: Clear the optimizer's running moments on the overwritten entries.
            target: Give the agent's slow copy of the tensor the same values (function-preserving edits and
                full resets); by default slow copies follow through the agent's own schedule.

        Raises:
            KeyError: There is no such tensor.
        """
        tensor = self._state.params.get(name)
        if tensor is None:
            tensor = self._state.frozen[name]
        if mask is not None:
            mask = mask.to(tensor.device).expand_as(tensor)
        value = value if isinstance(value, Tensor) else torch.full_like(tensor, value)
        value = value.to(tensor.device, tensor.dtype)
        followers = [self._state.targets[name]] if target and name in self._state.targets else []
        for t in (tensor, *followers):
            t.copy_(value if mask is None else torch.where(mask, value, t))
        for optimizer in self._optimizers:
            optimizer.overwritten(name, mask, moments=moments)

    def read(self, name: str) -> Tensor:
        """Present values of a trainable or frozen tensor, without gradient; not to be written to.

        Raises:
            KeyError: There is no such tensor.
        """
        tensor = self._state.params.get(name)
        return (self._state.frozen[name] if tensor is None else tensor).detach()

    @torch.no_grad()
    def shift(self, name: str, change: Tensor) -> None:
        """Add to tensor `name`. What optimizers remember of it stays; slow copies follow on their own.

        Raises:
            KeyError: There is no such tensor.
        """
        self.read(name).add_(change)

    @torch.no_grad()
    def forget(self, name: str) -> None:
        """Clear what optimizers remember of the trainable tensor `name`; its values stay.

        Raises:
            KeyError: There is no such tensor.
        """
        if name not in self._state.params:
            raise KeyError(name)
        for optimizer in self._optimizers:
            optimizer.overwritten(name, None, moments=True)
