"""Adam with relative time steps, Adam-Rel (Ellis et al., arXiv 2412.17113)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch

from plasticine.core.method import Method, Operation
from plasticine.core.optim import Adam, Divided, Optimizer
from plasticine.methods.adam_equal_betas import adam_of

__all__ = ["AdamRel", "RelativeAdam"]


class RelativeAdam(Adam):
    """Adam whose step counters can be set back while the moments go on."""

    @torch.no_grad()
    def restart(self, names: Iterable[str]) -> int:
        """Begin counting the steps of these parameters anew; return how many of them are bound here."""
        steps = [self._steps[self._index[name]] for name in names if name in self._index]
        if steps:
            torch._foreach_zero_(steps)
        return len(steps)


class AdamRel(Method):
    """Sets Adam's step counter to zero whenever what is learnt changes, and keeps the moments.

    The first step afterwards is ``lr * m / (1 - beta1) / (sqrt(v / (1 - beta2)) + eps)`` with the moments carried
    over: where gradients have grown by much, it is about as long as the learning rate instead of several times that;
    where they have not, steps are shorter for a while (with betas 0.9 and 0.999 a third at first, a sixth after ten).

    What is learnt changes with every rollout in PPO and PQN, which is one iteration. For C51 it changes with every
    copy to the slow network; TD3's slow copies move all the time, so that only a change of task stands out.

    Takes the place of the agent's optimizer with the same constants; PQN's RAdam becomes Adam. Parameters out of
    scope keep the agent's optimizer.

    Args:
        common: See `Method`.
    """

    needs_when: ClassVar = True

    def __init__(self, **common: Any) -> None:
        super().__init__(**common)
        self._optimizers: list[RelativeAdam] = []

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Replace `optimizer` for the parameters in scope."""
        adam = adam_of(optimizer, self.name)
        relative = RelativeAdam(betas=adam.betas, eps=adam.eps)
        self._optimizers.append(relative)
        return Divided(relative, optimizer, self.reaches)

    def intervene(self, op: Operation) -> dict[str, float]:
        """Restart the counters in scope; report how many."""
        return {"tensors": float(sum(o.restart(op.params) for o in self._optimizers))}
