"""Utility-based perturbed gradient descent, UPGD (Elsayed & Mahmood, ICLR 2024, arXiv 2404.00781)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from plasticine.core.method import Method
from plasticine.core.optim import Divided, Optimizer
from plasticine.core.ranges import check_numbers
from plasticine.core.state import OptState, Params, Slot
from plasticine.methods.adam_equal_betas import adam_of

__all__ = ["Upgd", "UpgdOptimizer", "UpgdSettings", "gates_"]

_TINY = 1e-30  # keeps the division by the largest utility finite, also where no utility is positive


def gates_(gates: list[Tensor], utilities: list[Tensor]) -> None:
    """Write ``1 - sigmoid(u / max u)`` for each utility, with the maximum over all entries of all tensors.

    The most useful parameter gets 0.269, a useless one 0.5, harmful ones up to 1. If no utility is positive there is
    nothing to protect: harmful parameters get 1.
    """
    largest = torch.stack(torch._foreach_max(utilities)).amax().clamp_min_(_TINY)
    torch._foreach_copy_(gates, utilities)
    torch._foreach_mul_(gates, -1.0 / largest)
    torch._foreach_sigmoid_(gates)


class UpgdSettings(NamedTuple):
    """Constants of the update; see `Upgd` and, for `betas` and `eps`, `plasticine.core.optim.Adam`."""

    betas: tuple[float, float]
    eps: float
    adaptive: bool
    utility_decay: float
    weight_decay: float
    step_scale: float


class UpgdOptimizer(Optimizer):
    """The update without its noise, which `perturb` adds.

    State: ``utility``, and where the direction is Adam's ``exp_avg``, ``exp_avg_sq`` and ``step``, per parameter.
    """

    def __init__(self, settings: UpgdSettings) -> None:
        self.settings = settings
        self._lr = 0.0

    def bind(self, params: Params) -> OptState:
        """Allocate the state, and memory to work in."""

        def like() -> list[Tensor]:
            return [torch.zeros_like(p, requires_grad=False) for p in params.values()]

        self._params = list(params.values())
        self._index = {name: i for i, name in enumerate(params)}
        self._gates, self._work = like(), like()
        self._state = {"utility": like()}
        if self.settings.adaptive:
            steps = [torch.zeros((), device=p.device) for p in params.values()]
            self._state |= {"exp_avg": like(), "exp_avg_sq": like(), "step": steps}
        sizes = [p.numel() for p in self._params]
        self._noise = torch.empty(sum(sizes))  # in host memory, as is the generator
        self._noises = [v.view(p.shape) for v, p in zip(self._noise.split(sizes), self._params, strict=True)]
        return {
            f"{what}/{name}": tensors[i]
            for what, tensors in self._state.items()
            for name, i in self._index.items()
        }

    def covers(self, name: str) -> bool:
        """Whether the parameter was bound here."""
        return name in self._index

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """``p <- (1 - lr * weight_decay) * p - step_scale * lr * gate * direction``."""
        s, params, utility, work = self.settings, self._params, self._state["utility"], self._work
        gradients = list(grads)
        torch._foreach_mul_(utility, s.utility_decay)
        torch._foreach_addcmul_(utility, gradients, params, value=s.utility_decay - 1.0)
        gates_(self._gates, utility)
        if s.adaptive:
            self._adapted(gradients)
        else:
            torch._foreach_copy_(work, gradients)
        torch._foreach_mul_(work, self._gates)
        if s.weight_decay:
            torch._foreach_mul_(params, 1.0 - lr * s.weight_decay)
        torch._foreach_add_(params, work, alpha=-s.step_scale * lr)
        self._lr = lr

    def _adapted(self, grads: list[Tensor]) -> None:
        """Write Adam's direction into the working memory."""
        (beta1, beta2), work = self.settings.betas, self._work
        first, second, steps = (self._state[what] for what in ("exp_avg", "exp_avg_sq", "step"))
        torch._foreach_add_(steps, 1)
        torch._foreach_lerp_(first, grads, 1.0 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, grads, grads, value=1.0 - beta2)
        corrections = []  # 1 - beta^t of each tensor
        for beta in (beta1, beta2):
            powers = torch._foreach_pow(beta, steps)
            torch._foreach_neg_(powers)
            torch._foreach_add_(powers, 1.0)
            corrections.append(powers)
        torch._foreach_copy_(work, second)
        torch._foreach_div_(work, corrections[1])
        torch._foreach_sqrt_(work)
        torch._foreach_add_(work, self.settings.eps)
        torch._foreach_mul_(work, corrections[0])
        torch._foreach_reciprocal_(work)
        torch._foreach_mul_(work, first)

    def perturb(self, generator: Generator, sigma: float) -> None:
        """Add the noise of the latest step: ``p <- p - step_scale * lr * gate * N(0, sigma^2)``."""
        self._noise.normal_(generator=generator)
        torch._foreach_copy_(self._work, self._noises)
        torch._foreach_mul_(self._work, self._gates)
        torch._foreach_add_(self._params, self._work, alpha=-self.settings.step_scale * self._lr * sigma)

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Zero utility and moments on the overwritten entries, and the counter of a wholly overwritten tensor."""
        if not moments or name not in self._index:
            return
        for what, tensors in self._state.items():
            tensor = tensors[self._index[name]]
            if mask is None:
                tensor.zero_()
            elif what != "step":
                tensor.masked_fill_(mask, 0.0)


class Upgd(Method):
    """Replaces the optimizer by one that moves useful parameters less and perturbs useless ones more.

    A parameter's utility is a running average of ``-gradient * value``, the first-order estimate of how much the loss
    would rise without it. Divided by the largest utility of all parameters of the phase and passed through a sigmoid,
    it says how much of the step and of the noise is held back (algorithm 1 of the paper, weight-wise and global):
    ``p <- (1 - lr * weight_decay) * p - step_scale * lr * (direction + N(0, sigma^2)) * (1 - sigmoid(u / max u))``.

    The direction is that of the agent's Adam, as in the authors' experiments with PPO, or the gradient. Everything in
    scope is updated this way, normalisation and log standard deviation included; parameters out of scope keep the
    agent's optimizer. PQN's RAdam becomes Adam where in scope. Noise is drawn on the host.

    Deviations: the authors divide the bias-corrected utility by the uncorrected maximum, which for the first
    ``1 / (1 - utility_decay)`` steps saturates the gate; in the paper and here both are corrected alike, and the
    correction cancels. Where no utility is positive their quotient changes sign; here nothing is held back then.

    Args:
        adaptive: Step in Adam's direction; if not, in that of the gradient.
        utility_decay: Of the running average, in [0, 1).
        sigma: Standard deviation of the noise, in units of the direction (>= 0).
        weight_decay: Decoupled, per unit of learning rate (>= 0).
        step_scale: Factor on step and noise; 2 makes up for the gate of a useless parameter.
        common: See `Method`.
    """

    strong: ClassVar = {"sigma": 0.1, "weight_decay": 0.1}

    def __init__(
        self,
        *,
        adaptive: bool,
        utility_decay: float,
        sigma: float,
        weight_decay: float,
        step_scale: float,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        here = f"method.{self.name}"
        check_numbers(here, "[0, 1)", utility_decay=utility_decay)
        check_numbers(here, "[0, inf)", sigma=sigma, weight_decay=weight_decay)
        check_numbers(here, "(0, inf)", step_scale=step_scale)
        self.adaptive = adaptive
        self.utility_decay = utility_decay
        self.sigma = sigma
        self.weight_decay = weight_decay
        self.step_scale = step_scale
        self._optimizers: list[UpgdOptimizer] = []

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Replace `optimizer` for the parameters in scope."""
        adam = adam_of(optimizer, self.name)
        settings = UpgdSettings(
            adam.betas, adam.eps, self.adaptive, self.utility_decay, self.weight_decay, self.step_scale
        )
        self._optimizers.append(UpgdOptimizer(settings))
        return Divided(self._optimizers[-1], optimizer, self.reaches)

    def after_step(self, params: Params, slot: Slot, generator: Generator) -> None:
        """Perturb what has just been updated."""
        if self.sigma:
            first = next(iter(params))
            next(o for o in self._optimizers if o.covers(first)).perturb(generator, self.sigma)
