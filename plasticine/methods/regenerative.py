"""Regenerative regularisation, also called L2 Init (Kumar et al., arXiv 2308.11958)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from plasticine.core.method import Method
from plasticine.core.state import Params, Slot
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy

__all__ = ["Regenerative", "distance_penalty"]


class _Distance(torch.autograd.Function):
    """Distance with its gradient in closed form: half the cost of leaving every tensor to autograd."""

    @staticmethod
    def forward(ctx: Any, coef: float, squared: bool, count: int, *tensors: Tensor) -> Tensor:
        differences = tensors[:count]
        if len(tensors) > count:
            differences = torch._foreach_sub(differences, tensors[count:])
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(differences)))
        ctx.save_for_backward(norm, *differences)
        ctx.coef, ctx.squared, ctx.constants = coef, squared, len(tensors) - count
        return 0.5 * coef * norm.square() if squared else coef * norm

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        norm, *differences = ctx.saved_tensors
        factor = upstream[0] * ctx.coef
        if not ctx.squared:
            factor = torch.where(norm > 0, factor / norm, torch.zeros_like(norm))
        return (None, None, None, *torch._foreach_mul(differences, factor), *([None] * ctx.constants))


def distance_penalty(
    params: Sequence[Tensor], start: Sequence[Tensor], coef: float, *, squared: bool
) -> Tensor:
    """``coef / 2 * |params - start|^2``, or ``coef * |params - start|`` if not `squared`; 0-d.

    With an empty `start` it is the distance from zero.
    The norm runs over all entries of all tensors. The gradient of the squared form is
    ``coef * (params - start)``. That of the other one has length `coef` wherever the parameters are, and is taken
    as 0 at the start, where it is not defined. Differentiable once, with respect to `params`.
    """
    value: Tensor = _Distance.apply(coef, squared, len(params), *params, *start)
    return value


class Regenerative(Method):
    """Pulls parameters towards their initial values instead of towards zero.

    Acts on weights and biases in scope; not on normalisation scales and offsets, nor on input-independent
    parameters such as a log standard deviation. The initial values are kept for good: later resets do not move
    them.

    Args:
        coef: Strength (>= 0).
        form: ``squared`` (the paper) or ``unsquared`` (a pull of constant strength over all tensors jointly).
        common: See `Method`.
    """

    neutral: ClassVar = {"coef": 0.0}
    strong: ClassVar = {"coef": 1.0}

    def __init__(self, *, coef: float, form: Literal["squared", "unsquared"], **common: Any) -> None:
        super().__init__(**common)
        if coef < 0:
            raise UserError(f"method.{self.name}.coef={coef} must not be negative")
        self.coef = coef
        self.squared = form == "squared"

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Remember the initial values."""
        return {
            f"start/{name}": params[name].detach().clone() for name in anatomy.names(kinds=("weight", "bias"))
        }

    def loss_term(self, params: Params, slot: Slot) -> Tensor:
        """The penalty over those of the parameters that were remembered (0 if there are none)."""
        names = [k for k in params if f"start/{k}" in slot]
        if not names:
            return next(iter(params.values())).new_zeros(())
        start = [slot[f"start/{k}"] for k in names]
        return distance_penalty([params[k] for k in names], start, self.coef, squared=self.squared)
