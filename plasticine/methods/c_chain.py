"""C-CHAIN: continual churn approximated reduction (Tang et al., ICML 2025, arXiv 2506.00592)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, ClassVar

import torch
from torch import Tensor

from plasticine.core.method import Method
from plasticine.core.optim import Optimizer
from plasticine.core.ranges import check_count, check_numbers
from plasticine.core.schedule import RunPlan
from plasticine.core.state import OptState, Params, Slot
from plasticine.core.view import LossFn, View
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.spec import NetSpec

__all__ = ["CChain", "Remembering", "relative_coefficient"]


def relative_coefficient(target: float, main: Tensor, churn: Tensor) -> Tensor:
    """The factor that makes `churn` a share `target` of `main`, 0-d; 0 as long as there was no churn."""
    return torch.where(churn > 0, target * main / (churn + 1e-8), torch.zeros_like(churn))


class Remembering(Optimizer):
    """Remembers, beside another optimizer, the values that parameters had before its latest step.

    Entries that are overwritten from outside count as if they had always had the new value.

    Args:
        base: Makes the steps.
        covers: Which parameters to remember, by full name.
        previous: Filled by `bind` with the memories, by full name.
    """

    wraps = True

    def __init__(self, base: Optimizer, covers: Callable[[str], bool], previous: dict[str, Tensor]) -> None:
        self._base = base
        self._covers = covers
        self._previous = previous

    def bind(self, params: Params) -> OptState:
        """Allocate ``previous/<name>``, equal to the parameters."""
        state = self._base.bind(params)
        self._params = {name: p for name, p in params.items() if self._covers(name)}
        own = {name: p.detach().clone() for name, p in self._params.items()}
        self._previous.update(own)
        self._pair = (list(own.values()), list(self._params.values()))
        return {**state, **{f"previous/{name}": value for name, value in own.items()}}

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """Remember; one step of the base optimizer."""
        if self._params:
            torch._foreach_copy_(*self._pair)
        self._base.step(grads, lr)

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Take over the new values."""
        self._base.overwritten(name, mask, moments=moments)
        if name in self._params:
            now, memory = self._params[name].detach(), self._previous[name]
            memory.copy_(now if mask is None else torch.where(mask, now, memory))


class CChain(Method):
    """Keeps an update from changing the outputs for observations that it was not made for (churn).

    Every loss gets a term ``coef * difference``, where the difference is that between the outputs of the network as
    it is and as it was one optimizer step before, on a batch of recent observations drawn anew. What a difference is,
    the agent says: the mean squared difference of action means or values, the Kullback-Leibler divergence of policies
    and of distributions of returns (with the earlier one first).

    Unless `coef` is given, the coefficient is adjusted so that the term is a share `target` of the main part of the
    loss in absolute value (PPO: the policy loss), both averaged over the steps so far.

    Tensors out of scope count as they are, before and now: only the churn that tensors in scope make is seen, and
    only they are held back. Networks without a chosen head are left alone.

    Deviations: the authors begin with a constant coefficient and adjust it after some iterations, to means over a
    window of the latest ones; here it is adjusted from the second step on, to exponential averages, which go on
    across tasks. For discrete policies they take the cross-entropy, which has the same gradient, and a much larger
    target, as it includes the entropy. C51 and TD3 are not in the paper.

    Args:
        coef: Fixed coefficient (>= 0), or None.
        target: Share of the main loss (>= 0).
        decay: Of the averages, in [0, 1).
        samples: Observations in the batch, at most.
        heads: Globs over names of output layers: ``policy``, ``value``, ``q``, ``atoms``.
        common: See `Method`.
    """

    neutral: ClassVar = {"coef": 0.0}
    strong: ClassVar = {"coef": 100.0}

    def __init__(
        self,
        *,
        coef: float | None,
        target: float,
        decay: float,
        samples: int,
        heads: Sequence[str],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        here = f"method.{self.name}"
        check_numbers(here, "[0, inf)", target=target, **({} if coef is None else {"coef": coef}))
        check_numbers(here, "[0, 1)", decay=decay)
        check_count(f"{here}.samples", samples)
        self.coef = coef
        self.target = target
        self.decay = decay
        self.samples = samples
        self.heads = tuple(heads)
        self._chosen: dict[str, list[str]] = {}  # heads by network
        self._known: set[str] = set()
        self._previous: dict[str, Tensor] = {}

    # -- while the learner is built ------------------------------------------------------------------------
    def edit_network(self, net: NetSpec) -> NetSpec:
        """Note which heads there are; nothing is changed."""
        self._known |= set(net.heads)
        chosen = [head for head in net.heads if any(fnmatchcase(head, glob) for glob in self.heads)]
        if chosen:
            self._chosen[net.name] = chosen
        return net

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse a choice of heads that no network in scope has."""
        if not self._chosen:
            raise UserError(
                f"method {self.name!r} finds none of the heads {list(self.heads)} in its scope",
                f"set method.{self.name}.heads to some of {sorted(self._known)}",
            )

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Let the optimizer remember."""

        def covers(name: str) -> bool:
            return name.split("/", 1)[0] in self._chosen and self.reaches(name)

        return Remembering(optimizer, covers, self._previous)

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Averages of the absolute main loss and of the difference, per network whose phase they belong to."""
        device = next(iter(params.values())).device
        return {
            f"{what}/{net}": torch.zeros((), device=device)
            for net in self._chosen
            for what in ("main", "churn")
        }

    # -- inside the update -------------------------------------------------------------------------------------
    def wrap_loss(self, loss_fn: LossFn, view: View, params: Params, slot: Slot) -> LossFn:
        """Add the term for the networks of this phase."""
        heads = {net: self._chosen[net] for net in view.networks if net in self._chosen}
        if not heads:
            return loss_fn
        now, before = self._versions(view, heads, params)
        first = next(iter(heads))
        main_average, churn_average = slot[f"main/{first}"], slot[f"churn/{first}"]
        latest: Any = None
        inputs: dict[str, Tensor] = {}

        def churn() -> Tensor:
            parts = []
            for net, chosen in heads.items():
                with torch.no_grad():
                    earlier = view.networks[net](inputs[net], before[net])
                present = view.networks[net](inputs[net], now[net])
                parts += [view.difference(net, head, earlier[head], present[head]) for head in chosen]
            return torch.stack(parts).sum()

        def loss(batch: Any) -> tuple[Tensor, Sequence[Tensor]]:
            nonlocal latest, inputs
            value, aux = loss_fn(batch)
            fresh = batch is not latest  # not if the loss of one step is evaluated twice
            if fresh:
                latest, inputs = batch, view.inputs(self.samples)
            difference = churn()
            if self.coef is not None:
                return value + self.coef * difference, aux
            if fresh:
                main_average.lerp_(aux[0].detach().abs(), 1.0 - self.decay)
                churn_average.lerp_(difference.detach(), 1.0 - self.decay)
            return value + relative_coefficient(self.target, main_average, churn_average) * difference, aux

        return loss

    def _versions(
        self, view: View, nets: Mapping[str, Any], params: Params
    ) -> tuple[dict[str, dict[str, Tensor]], dict[str, dict[str, Tensor]]]:
        """Parameters as they are and as they were, by network and local name; out of scope: as they are, constant."""
        now: dict[str, dict[str, Tensor]] = {}
        before: dict[str, dict[str, Tensor]] = {}
        for net in nets:
            own = view.networks[net].params
            now[net] = {k: p if f"{net}/{k}" in params else p.detach() for k, p in own.items()}
            before[net] = {k: self._previous.get(f"{net}/{k}", p.detach()) for k, p in own.items()}
        return now, before
