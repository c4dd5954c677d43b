"""Adam with a step counter for every entry, for weights that are renewed one unit at a time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.core.optim import Optimizer, SecondMoment
from plasticine.core.state import OptState, Params

__all__ = ["ElementAdam"]


class ElementAdam(Optimizer):
    """Adam (arXiv 1412.6980) that counts steps entry by entry, so that a renewed entry begins as a new one does.

    ``param -= lr * (m / c1) / (sqrt(v / c2) + eps)``, with ``c = 1 - beta^t`` and t the steps since the entry was
    last overwritten. As long as nothing is, this is Adam. Instead of t it keeps c1 and c2, which follow
    ``c <- beta * c + (1 - beta)``. Several times slower than the fused kernel of `plasticine.core.optim.Adam`.

    Args:
        betas: Decay of first and second moment.
        eps: Added to the root of the second moment.
    """

    def __init__(self, *, betas: tuple[float, float], eps: float) -> None:
        self.betas = betas
        self.eps = eps

    def bind(self, params: Params) -> OptState:
        """Allocate ``exp_avg``, ``exp_avg_sq`` and their corrections ``element_c1`` and ``element_c2``."""
        self._params = list(params.values())
        self._index = {name: i for i, name in enumerate(params)}
        self._state = {
            what: [torch.zeros_like(p, requires_grad=False) for p in self._params]
            for what in ("exp_avg", "exp_avg_sq", "element_c1", "element_c2")
        }
        return {f"{what}/{name}": t[i] for what, t in self._state.items() for name, i in self._index.items()}

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """One step over all bound parameters."""
        (beta1, beta2), grads = self.betas, list(grads)
        first, second, c1, c2 = self._state.values()
        torch._foreach_lerp_(first, grads, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, 1.0 - beta2)
        for correction, beta in ((c1, beta1), (c2, beta2)):
            torch._foreach_mul_(correction, beta)
            torch._foreach_add_(correction, 1.0 - beta)
        root = torch._foreach_div(second, c2)
        torch._foreach_sqrt_(root)
        torch._foreach_add_(root, self.eps)
        torch._foreach_addcdiv_(self._params, torch._foreach_div(first, c1), root, -lr)

    def second_moments(self) -> dict[str, SecondMoment]:
        """``exp_avg_sq / element_c2``; 0 for entries renewed after the latest step."""
        second, correction = self._state["exp_avg_sq"], self._state["element_c2"]
        return {
            name: SecondMoment(torch.where(correction[i] > 0, second[i] / correction[i], 0.0), self.eps)
            for name, i in self._index.items()
            if bool((correction[i] > 0).any())
        }

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Forget moments and steps of the overwritten entries."""
        if not moments or name not in self._index:
            return
        for tensors in self._state.values():
            tensor = tensors[self._index[name]]
            if mask is None:
                tensor.zero_()
            else:
                tensor.masked_fill_(mask, 0.0)
