"""Pulling parameters towards zero: an L2 penalty, and weight decay (Loshchilov & Hutter, arXiv 1711.05101)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from plasticine.core.method import AddGradient, Method
from plasticine.core.optim import Optimizer
from plasticine.core.state import OptState, Params, Slot
from plasticine.errors import UserError
from plasticine.methods.regenerative import pull_

__all__ = ["L2", "Decaying", "WeightDecay", "decayed_kind"]

Which = Literal["weights", "weights_and_biases", "all"]


def decayed_kind(name: str, tensors: Which) -> bool:
    """Whether a tensor of this full name belongs to the chosen kinds; ``all`` includes norms and a log std."""
    kind = name.rpartition(".")[2]
    return tensors == "all" or kind == "weight" or (kind == "bias" and tensors == "weights_and_biases")


def _checked(method: Method, coef: float) -> float:
    if coef < 0:
        raise UserError(f"method.{method.name}.coef={coef} must not be negative")
    return coef


class L2(Method):
    """Adds ``coef / 2 * |params|^2`` to the loss.

    The gradient ``coef * params`` is clipped together with that of the loss and passes through the optimizer.

    Args:
        coef: Strength (>= 0).
        tensors: ``weights``, ``weights_and_biases``, or ``all`` in scope.
        common: See `Method`.
    """

    neutral: ClassVar = {"coef": 0.0}
    strong: ClassVar = {"coef": 1.0}

    def __init__(self, *, coef: float, tensors: Which, **common: Any) -> None:
        super().__init__(**common)
        self.coef = _checked(self, coef)
        self.tensors = tensors

    def gradient_term(self, params: Params, slot: Slot) -> AddGradient | None:
        """``coef * params`` for the chosen kinds of tensors."""
        names = [name for name in params if decayed_kind(name, self.tensors)]
        if not names:
            return None
        chosen = [params[name] for name in names]

        def add(grads: Mapping[str, Tensor]) -> None:
            pull_([grads[name] for name in names], chosen, [], self.coef, squared=True)

        return add


class Decaying(Optimizer):
    """Weight decay around another optimizer.

    Args:
        base: Proposes the step.
        covers: Which parameters decay, by full name.
        coef: Strength (>= 0).
        coupled: Add ``coef * param`` to the gradient before the step; if not, shrink the parameter by
            ``1 - lr * coef`` before the step.
    """

    wraps = True

    def __init__(self, base: Optimizer, covers: Callable[[str], bool], coef: float, *, coupled: bool) -> None:
        self._base = base
        self._covers = covers
        self._coef = coef
        self._coupled = coupled

    def bind(self, params: Params) -> OptState:
        """Nothing to remember beyond the base's state."""
        self._rows = [i for i, name in enumerate(params) if self._covers(name)]
        tensors = list(params.values())
        self._params = [tensors[i] for i in self._rows]
        return self._base.bind(params)

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """Decay, and one step of the base."""
        if self._params and self._coupled:
            torch._foreach_add_([grads[i] for i in self._rows], self._params, alpha=self._coef)
        elif self._params:
            torch._foreach_mul_(self._params, 1.0 - lr * self._coef)
        self._base.step(grads, lr)

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """The base's business."""
        self._base.overwritten(name, mask, moments=moments)


class WeightDecay(Method):
    """Lets parameters decay in the optimizer, after clipping.

    Args:
        coef: Strength (>= 0).
        coupled: True: ``coef * param`` is added to the clipped gradient, as PyTorch's Adam does with its
            ``weight_decay``; adaptive steps then rescale it. False (AdamW): every step multiplies the parameter by
            ``1 - lr * coef`` first.
        tensors: ``weights``, ``weights_and_biases``, or ``all`` in scope.
        common: See `Method`.
    """

    neutral: ClassVar = {"coef": 0.0}
    strong: ClassVar = {"coef": 1.0}

    def __init__(self, *, coef: float, coupled: bool, tensors: Which, **common: Any) -> None:
        super().__init__(**common)
        self.coef = _checked(self, coef)
        self.coupled = coupled
        self.tensors = tensors

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Wrap it."""
        return Decaying(
            optimizer,
            lambda name: self.reaches(name) and decayed_kind(name, self.tensors),
            self.coef,
            coupled=self.coupled,
        )
