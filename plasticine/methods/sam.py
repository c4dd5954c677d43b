"""Sharpness-aware minimisation (Foret et al., arXiv 2010.01412); adaptive form by Kwon et al., arXiv 2102.11600."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from plasticine.core.method import GradFn, Gradients, Method
from plasticine.core.state import Params, Slot
from plasticine.errors import UserError

__all__ = ["Sam", "ascent"]


def ascent(params: Sequence[Tensor], grads: Sequence[Tensor], rho: float, *, adaptive: bool) -> list[Tensor]:
    """The step towards higher loss, of length `rho` over all tensors jointly.

    ``rho * g / |g|``, or in the adaptive form ``rho * p^2 g / |abs(p) g|`` (elementwise products), which does
    not depend on the scale of a layer whose output is normalised.

    Args:
        params, grads: Tensors of the same shapes, in the same order.
        rho: Length of the step (>= 0).
    """
    if adaptive:
        sizes = torch._foreach_abs(list(params))
        scaled = list(torch._foreach_mul(sizes, list(grads)))
        direction = list(torch._foreach_mul(scaled, sizes))
    else:
        scaled = direction = list(grads)
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(scaled)))
    return list(torch._foreach_mul(direction, rho / (norm + 1e-12)))


class Sam(Method):
    """Takes the gradient at the worst point nearby instead of the one at the parameters.

    Every update evaluates the loss twice on the same minibatch: at the parameters, and at the parameters moved by
    `ascent` (those in scope). The second gradient is clipped and used; the norm and the other numbers that are
    logged are those of the first. Parameters come back from a copy, bit by bit.

    Args:
        rho: Radius of the neighbourhood (>= 0).
        adaptive: Measure the radius relative to the parameters' sizes.
        common: See `Method`.
    """

    neutral: ClassVar = {"rho": 0.0}

    def __init__(self, *, rho: float, adaptive: bool, **common: Any) -> None:
        super().__init__(**common)
        if rho < 0:
            raise UserError(f"method.{self.name}.rho={rho} must not be negative")
        self.rho = rho
        self.adaptive = adaptive

    def wrap_grad(self, grad_fn: GradFn, params: Params, slot: Slot) -> GradFn:
        """Evaluate, climb, evaluate again, step back."""
        tensors = list(params.values())
        before = [torch.empty_like(t, requires_grad=False) for t in tensors]
        rho, adaptive = self.rho, self.adaptive

        def at_worst_point_nearby(batch: Any) -> Gradients:
            first = grad_fn(batch)
            with torch.no_grad():
                step = ascent(tensors, [first.grads[name] for name in params], rho, adaptive=adaptive)
                torch._foreach_copy_(before, tensors)
                torch._foreach_add_(tensors, step)
            second = grad_fn(batch)
            with torch.no_grad():
                torch._foreach_copy_(tensors, before)
            return Gradients(second.grads, first.norm, first.aux)

        return at_worst_point_nearby
