"""Methods that break a network on purpose, from a given optimizer step on. For tests only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from plasticine.core.method import Method

Params = Any


class Pathology(Method):
    """Counts optimizer steps and breaks what is in scope from step `onset` on.

    Args:
        onset: First step.
        rate: How hard, in the unit of the subclass.
        common: See `Method`.
    """

    def __init__(self, *, onset: int, rate: float, **common: Any) -> None:
        super().__init__(**common)
        self.onset = onset
        self.rate = rate

    def init(self, params: Params, anatomy: Any) -> dict[str, Tensor]:
        return {"step": torch.zeros((), dtype=torch.int64)}

    def after_step(self, params: Params, slot: dict[str, Tensor], generator: torch.Generator) -> None:
        slot["step"] += 1
        if int(slot["step"]) >= self.onset:
            self.harm(params, slot, int(slot["step"]))

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        raise NotImplementedError


def hidden(params: Params) -> dict[str, Tensor]:
    return {k: v for k, v in params.items() if "/body." in k}


def last_layer(params: Params, net: str) -> str:
    """The prefix of the last hidden layer of a network, ``actor/body.1``."""
    return max(k.rpartition(".")[0] for k in params if k.startswith(f"{net}/body."))


def networks(params: Params) -> set[str]:
    return {k.partition("/")[0] for k in params}


class Freeze(Pathology):
    """Undoes every step: what a learning rate of zero does."""

    def init(self, params: Params, anatomy: Any) -> dict[str, Tensor]:
        return {**super().init(params, anatomy), **{k: v.detach().clone() for k, v in params.items()}}

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        for name, value in params.items():
            if step == self.onset:
                slot[name].copy_(value)
            value.copy_(slot[name])


class KillUnits(Pathology):
    """Silences a share `rate` of the hidden units for good, once: ReLU units with a constant negative input."""

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        if step > self.onset:
            return
        for name, value in hidden(params).items():
            dead = int(self.rate * value.shape[0])
            if name.endswith((".weight", ".norm_scale")):
                value[:dead] = 0.0
            normed = name.rpartition(".")[0] + ".norm_scale" in params
            if name.endswith(".norm_offset") or (name.endswith(".bias") and not normed):
                value[:dead] = -1.0


class RankOne(Pathology):
    """All units of the last hidden layers compute the same."""

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        for net in networks(params):
            prefix = last_layer(params, net)
            for name, value in params.items():
                if name.startswith(prefix):
                    value.copy_(value[:1].expand_as(value).clone())


class Explode(Pathology):
    """All weights grow by a factor of ``1 + rate`` in every step."""

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        for name, value in params.items():
            if name.endswith(".weight"):
                value.mul_(1.0 + self.rate)


class Determine(Pathology):
    """The policy becomes certain: its preferences grow by ``1 + rate`` in every step, a spread shrinks by as much."""

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        for name, value in params.items():
            if "head.policy.weight" in name:
                value.mul_(1.0 + self.rate).clamp_(-1e3, 1e3)
            if "log_std" in name:
                value.sub_(self.rate).clamp_(min=-8.0)


class Saturate(Pathology):
    """The input weights of the last hidden layers grow by ``1 + rate`` in every step, up to 100 times."""

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        for net in networks(params):
            name = last_layer(params, net) + ".weight"
            if (1.0 + self.rate) ** (step - self.onset) < 100.0:
                params[name].mul_(1.0 + self.rate)


class Break(Pathology):
    """The loss is not a number, once."""

    def harm(self, params: Params, slot: dict[str, Tensor], step: int) -> None:
        if step == self.onset:
            next(iter(hidden(params).values())).fill_(float("nan"))
