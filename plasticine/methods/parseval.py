"""Parseval regularisation (Chung et al., arXiv 2412.07224): rows of weight matrices are kept orthogonal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from plasticine.core.method import Method
from plasticine.core.schedule import RunPlan
from plasticine.core.state import Params, Slot
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy

__all__ = ["Parseval", "initial_scale", "orthogonality_penalty"]


class _Orthogonality(torch.autograd.Function):
    """The penalty with its gradient in closed form: autograd would keep every Gram matrix and use two products."""

    @staticmethod
    def forward(ctx: Any, coef: float, scales: Sequence[float], *weights: Tensor) -> Tensor:
        matrices = [w.flatten(1) for w in weights]
        wide = [m.shape[0] <= m.shape[1] for m in matrices]
        excess = [m @ m.T if w else m.T @ m for m, w in zip(matrices, wide, strict=True)]
        for gram, scale in zip(excess, scales, strict=True):
            gram.diagonal().sub_(scale)
        products = [
            (e @ m if w else m @ e).view_as(weight)
            for e, m, w, weight in zip(excess, matrices, wide, weights, strict=True)
        ]
        ctx.save_for_backward(*products)
        ctx.factor = 4.0 * coef
        return coef * torch.stack(torch._foreach_norm(excess)).square().sum()

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (None, None, *torch._foreach_mul(list(ctx.saved_tensors), upstream[0] * ctx.factor))


def orthogonality_penalty(weights: Sequence[Tensor], scales: Sequence[float], coef: float) -> Tensor:
    """``coef * sum_W |W W^T - s I|_F^2``, 0-d, differentiable once.

    A convolution [out, in, h, w] counts as a matrix [out, in * h * w]. If a matrix has more rows than columns, its
    rows cannot be orthogonal, and ``W^T W`` takes the place of ``W W^T``: that lowers the value by the constant
    ``coef * s^2 * (rows - columns)`` and does not change the gradient, ``4 coef (W W^T - s I) W`` in both cases.

    Args:
        weights: Tensors with at least 2 dimensions.
        scales: The s of each.
        coef: Strength.
    """
    value: Tensor = _Orthogonality.apply(coef, tuple(scales), *weights)
    return value


def initial_scale(shape: Sequence[int], std: float) -> float:
    """Squared length that the rows (or columns, if these are fewer) of a matrix have on average at initialisation.

    Args:
        shape: Of the weight; all dimensions but the first count as columns.
        std: Standard deviation of one entry. Orthogonal initialisers give the square of their gain.
    """
    rows, columns = shape[0], 1
    for size in shape[1:]:
        columns *= size
    return max(rows, columns) * std**2


class Parseval(Method):
    """Adds `orthogonality_penalty` of the hidden layers' weights to the loss. Output layers are left alone.

    Args:
        coef: Strength (>= 0).
        scale: Squared length s of the rows. ``init``: what they have at the initialisation (the squared gain of an
            orthogonal initialiser), so that the penalty holds the network where it started.
        common: See `Method`.
    """

    neutral: ClassVar = {"coef": 0.0}
    strong: ClassVar = {"coef": 0.1}

    def __init__(self, *, coef: float, scale: float | Literal["init"], **common: Any) -> None:
        super().__init__(**common)
        if coef < 0:
            raise UserError(f"method.{self.name}.coef={coef} must not be negative")
        if scale != "init" and scale <= 0:
            raise UserError(f"method.{self.name}.scale={scale} must be positive, or init")
        self.coef = coef
        self.scale = scale

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Work out the scale of every hidden layer's weight."""
        self._scales = {
            name: initial_scale(anatomy.shapes[name], anatomy.tensors[name].init.std(anatomy.shapes[name]))
            if self.scale == "init"
            else float(self.scale)
            for name in anatomy.names(kinds=("weight",), roles=("encoder",))
        }
        return {}

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse a scope without any hidden layer."""
        if not self._scales:
            raise UserError(
                f"method {self.name!r} has nothing to act on: no weight of a hidden layer is in scope "
                f"{list(self.scope)}",
                f'widen method.{self.name}.scope, e.g. to ["*/body.*"]',
            )

    def loss_term(self, params: Params, slot: Slot) -> Tensor:
        """The penalty (0 if a phase has no hidden layer in scope)."""
        names = [name for name in params if name in self._scales]
        if not names:
            return next(iter(params.values())).new_zeros(())
        return orthogonality_penalty([params[k] for k in names], [self._scales[k] for k in names], self.coef)
