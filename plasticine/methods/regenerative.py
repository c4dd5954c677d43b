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

__all__ = ["Regenerative", "distance_penalty", "flat"]


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries of all tensors in one row [n] (differentiable; one kernel instead of one per tensor)."""
    return torch.cat([t.reshape(-1) for t in tensors])


def distance_penalty(params: Tensor, start: Tensor, coef: float, *, squared: bool) -> Tensor:
    """``coef / 2 * |params - start|^2``, or ``coef * |params - start|`` if not `squared`; 0-d.

    The gradient of the squared form is ``coef * (params - start)``. That of the other one has length `coef`
    wherever the parameters are, and is taken as 0 at the start, where it is not defined.
    """
    difference = params - start
    if squared:
        return 0.5 * coef * torch.dot(difference, difference)
    return coef * torch.linalg.vector_norm(difference)


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
        start = flat([slot[f"start/{k}"] for k in names])
        return distance_penalty(flat([params[k] for k in names]), start, self.coef, squared=self.squared)
