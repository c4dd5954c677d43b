"""Regenerative regularisation, also called L2 Init (Kumar et al., arXiv 2308.11958)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from plasticine.core.method import AddGradient, Method
from plasticine.core.state import Params, Slot
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy

__all__ = ["Regenerative", "pull_"]


def pull_(
    grads: list[Tensor], params: list[Tensor], aims: list[Tensor], coef: float, *, squared: bool
) -> None:
    """Add the gradient of ``coef / 2 * |params - aims|^2``, or of ``coef * |params - aims|`` if not `squared`.

    With empty `aims` the distance is that from zero. The norm runs over all entries of all tensors. The gradient of
    the squared form is ``coef * (params - aims)``. That of the other one has length `coef` wherever the parameters
    are, and is taken as 0 at the aims, where it is not defined.

    Args:
        grads: Changed in place; one for each of `params`.
    """
    if squared:
        torch._foreach_add_(grads, params, alpha=coef)
        if aims:
            torch._foreach_sub_(grads, aims, alpha=coef)
        return
    differences = torch._foreach_sub(params, aims) if aims else params
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(differences)))
    factor = torch.where(norm > 0, coef / norm, torch.zeros_like(norm))
    torch._foreach_add_(grads, torch._foreach_mul(differences, factor))


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

    def gradient_term(self, params: Params, slot: Slot) -> AddGradient | None:
        """The pull on those of the parameters that were remembered."""
        names = [k for k in params if f"start/{k}" in slot]
        if not names:
            return None
        chosen, start = [params[k] for k in names], [slot[f"start/{k}"] for k in names]

        def add(grads: Mapping[str, Tensor]) -> None:
            pull_([grads[k] for k in names], chosen, start, self.coef, squared=self.squared)

        return add
