"""Adam whose two moments decay alike (Dohare et al., Nature 632, 2024, and "Overcoming policy collapse", 2023)."""

from __future__ import annotations

from typing import Any, ClassVar

from plasticine.core.method import Method
from plasticine.core.optim import Adam, Divided, Optimizer
from plasticine.core.ranges import check_numbers
from plasticine.errors import UserError

__all__ = ["AdamEqualBetas", "adam_of"]


def adam_of(optimizer: Optimizer, method: str) -> Adam:
    """The agent's Adam (or RAdam), for its constants.

    Raises:
        UserError: An earlier method has wrapped or replaced it, or the agent has another optimizer.
    """
    if optimizer.wraps:
        raise UserError(
            f"method {method!r} replaces the optimizer that an earlier method has wrapped",
            f"put {method!r} before the method that wraps: method=[{method},...]",
        )
    if isinstance(optimizer, Divided):
        raise UserError(
            f"method {method!r} replaces the optimizer that an earlier method has already replaced",
            "use only one method that replaces the optimizer",
        )
    if not isinstance(optimizer, Adam):
        raise UserError(
            f"method {method!r} replaces Adam and takes over its constants, but the optimizer is "
            f"{type(optimizer).__name__}",
            "use only one method that replaces the optimizer",
        )
    return optimizer


class AdamEqualBetas(Method):
    """Replaces the agent's optimizer by Adam with ``beta1 = beta2 = beta``.

    By the inequality of Cauchy and Schwarz the corrected first moment is then never larger than the root of the
    second one, so that no parameter moves by more than the learning rate in a step, whatever the gradients do. With
    the usual constants, gradients that grow after a change make steps of several times the learning rate.

    Parameters out of scope keep the agent's optimizer. PQN's RAdam becomes Adam where in scope.

    Args:
        beta: Decay of both moments, in [0, 1).
        eps: Added to the root of the second moment; None = the agent's.
        common: See `Method`.
    """

    strong: ClassVar = {"beta": 0.5}

    def __init__(self, *, beta: float, eps: float | None, **common: Any) -> None:
        super().__init__(**common)
        check_numbers(f"method.{self.name}", "[0, 1)", beta=beta)
        if eps is not None:
            check_numbers(f"method.{self.name}", "(0, inf)", eps=eps)
        self.beta = beta
        self.eps = eps

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Replace `optimizer` for the parameters in scope."""
        eps = adam_of(optimizer, self.name).eps if self.eps is None else self.eps
        return Divided(Adam(betas=(self.beta, self.beta), eps=eps), optimizer, self.reaches)
