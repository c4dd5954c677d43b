"""Optimizers as functions over named tensors, with their state in the open.

State lives in a flat dict of tensors so that it can be checkpointed, edited when weights are overwritten, and
stacked. Parameters never leave or enter an optimizer after `bind`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.radam import radam

from plasticine.core.state import OptState, Params

__all__ = ["Adam", "Divided", "Optimizer", "RAdam", "SecondMoment"]


class SecondMoment(NamedTuple):
    """Running mean of the squared gradient of one parameter, corrected for its start at zero, and what is added to
    its root in the denominator of a step."""

    value: Tensor
    eps: float


class Optimizer(ABC):
    """An update rule.

    Wrappers (TRAC) hold another optimizer; `bind` is called once, from the outside in.
    """

    #: Set by wrappers, so that composing two replacements in the wrong order can be refused.
    wraps: bool = False

    @abstractmethod
    def bind(self, params: Params) -> OptState:
        """Allocate and return the state for `params`; remember both. Called exactly once."""

    @abstractmethod
    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """Update the bound parameters in place. `grads` is in the order of the bound parameters."""

    @abstractmethod
    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Parameter `name` was overwritten from outside (where `mask` is True, or everywhere).

        Clears running moments there if `moments`, and re-anchors anything that remembers parameter values, so
        that the next step starts from the new values.
        """

    def second_moments(self) -> dict[str, SecondMoment]:
        """The running means of squared gradients by parameter name, as new tensors; for looking at.

        Parameters that have not been updated since their moments were cleared are left out; so are all of an
        optimizer that keeps none.
        """
        return {}


class Adam(Optimizer):
    """Adam (Kingma & Ba, arXiv 1412.6980) through PyTorch's fused kernel.

    One step counter per tensor. When a whole tensor is overwritten its counter restarts; when part of it is, the
    counter is kept, so zeroed moments there take a few larger steps (up to 6.5 x lr at betas 0.9/0.999).

    Args:
        betas: Decay of first and second moment.
        eps: Added to the root of the second moment.
    """

    def __init__(self, *, betas: tuple[float, float], eps: float) -> None:
        self.betas = (float(betas[0]), float(betas[1]))
        self.eps = float(eps)

    def bind(self, params: Params) -> OptState:
        """Allocate ``exp_avg/<name>``, ``exp_avg_sq/<name>`` and ``step/<name>``."""
        self._params = list(params.values())
        self._index = {name: i for i, name in enumerate(params)}
        self._first = [torch.zeros_like(p, requires_grad=False) for p in self._params]
        self._second = [torch.zeros_like(p, requires_grad=False) for p in self._params]
        self._steps = [torch.zeros((), dtype=torch.float32, device=p.device) for p in self._params]
        return {
            f"{what}/{name}": tensors[i]
            for what, tensors in (
                ("exp_avg", self._first),
                ("exp_avg_sq", self._second),
                ("step", self._steps),
            )
            for name, i in self._index.items()
        }

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """One fused Adam step over all bound parameters."""
        torch._foreach_add_(self._steps, 1)
        # The kernel behind torch.optim.Adam(fused=True), called without the sorting of tensors by device and
        # type in front of it: the bound parameters are of one kind.
        torch._fused_adam_(
            self._params,
            list(grads),
            self._first,
            self._second,
            [],
            self._steps,
            lr=lr,
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=0.0,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )

    def second_moments(self) -> dict[str, SecondMoment]:
        """``exp_avg_sq / (1 - beta2^step)`` of every parameter that has been updated."""
        counts = [float(step) for step in self._steps]
        return {
            name: SecondMoment(self._second[i] / (1.0 - self.betas[1] ** counts[i]), self.eps)
            for name, i in self._index.items()
            if counts[i] > 0
        }

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Zero the moments on the overwritten entries; restart the counter of a wholly overwritten tensor."""
        if not moments or name not in self._index:
            return
        i = self._index[name]
        for tensor in (self._first[i], self._second[i]):
            if mask is None:
                tensor.zero_()
            else:
                tensor.masked_fill_(mask, 0.0)
        if mask is None:
            self._steps[i].zero_()


class RAdam(Adam):
    """Adam whose steps are rectified while the second moment has seen few gradients (Liu et al., arXiv 1908.03265).

    As in PyTorch: the first five steps of a tensor follow the first moment alone, ``lr * m / (1 - beta1^t)``; later
    ones are Adam's times the rectification term of the paper. State, and what happens when weights are overwritten,
    are Adam's: a wholly overwritten tensor begins again with unadapted steps.

    Args:
        betas: Decay of first and second moment.
        eps: Added to the root of the second moment.
    """

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """One step over all bound parameters."""
        radam(
            self._params,
            list(grads),
            self._first,
            self._second,
            self._steps,
            foreach=True,
            beta1=self.betas[0],
            beta2=self.betas[1],
            lr=lr,
            weight_decay=0.0,
            eps=self.eps,
        )


class Divided(Optimizer):
    """Two optimizers side by side, each with its own part of the parameters.

    Args:
        inside: Updates the parameters that are covered.
        outside: Updates the others, if there are any.
        covers: Which parameters are covered, by full name.
    """

    def __init__(self, inside: Optimizer, outside: Optimizer, covers: Callable[[str], bool]) -> None:
        self._both = (inside, outside)
        self._covers = covers

    def bind(self, params: Params) -> OptState:
        """Give each its part; an optimizer without any is left out."""
        state: OptState = {}
        self._parts: list[tuple[Optimizer, list[int], frozenset[str]]] = []
        for optimizer, covered in zip(self._both, (True, False), strict=True):
            names = [name for name in params if self._covers(name) == covered]
            if names:
                own = optimizer.bind({name: params[name] for name in names})
                assert not own.keys() & state.keys()
                state |= own
                rows = [i for i, name in enumerate(params) if name in names]
                self._parts.append((optimizer, rows, frozenset(names)))
        return state

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """One step of each."""
        if len(self._parts) == 1:
            self._parts[0][0].step(grads, lr)
            return
        for optimizer, rows, _ in self._parts:
            optimizer.step([grads[i] for i in rows], lr)

    def second_moments(self) -> dict[str, SecondMoment]:
        """Those of both."""
        return {k: v for optimizer, _, _ in self._parts for k, v in optimizer.second_moments().items()}

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Tell the one that has the parameter."""
        for optimizer, _, names in self._parts:
            if name in names:
                optimizer.overwritten(name, mask, moments=moments)
