"""The contract is worth something only if it fails: methods that each break one promise."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch

from plasticine.core.method import Method
from plasticine.core.optim import Optimizer
from plasticine.errors import UserError
from plasticine.testing import check_method


class Good(Method):
    """Decays weights a little."""

    strong: ClassVar = {}

    def after_step(self, params, slot, generator):
        for v in params.values():
            v.mul_(0.99)


class Replaces(Method):
    """Gives a tensor new storage."""

    def after_step(self, params, slot, generator):
        first = next(iter(params.values()))
        first.data = first.data.clone()


class GlobalRandomness(Method):
    """Draws from the process-wide generator."""

    def after_step(self, params, slot, generator):
        for v in params.values():
            v.add_(1e-3 * torch.randn(v.shape))


class Strays(Method):
    """Writes through everything that it could get hold of."""

    def init(self, params, anatomy):
        return {}

    def intervene(self, op):
        for network in op.networks.values():
            for v in network.params.values():
                v.mul_(0.9)
        return {}


class ForgetsState(Method):
    """Counts in an attribute, which a checkpoint does not hold."""

    def init(self, params, anatomy):
        self.count = 0
        return {}

    def after_step(self, params, slot, generator):
        self.count += 1
        for v in params.values():
            v.mul_(1.0 - 1e-3 * self.count)


class Freezes(Method):
    """Undoes all training of one tensor."""

    def init(self, params, anatomy):
        return {"copy": next(iter(params.values())).detach().clone()}

    def after_step(self, params, slot, generator):
        next(iter(params.values())).copy_(slot["copy"])


class FreezesAfterReset(Method):
    """Trains until the first intervention and never again."""

    def init(self, params, anatomy):
        first = next(iter(params.values()))
        return {"copy": first.detach().clone(), "acted": torch.zeros(())}

    def after_step(self, params, slot, generator):
        first = next(iter(params.values()))
        first.copy_(torch.where(slot["acted"] > 0, slot["copy"], first))

    def intervene(self, op):
        op.slot["acted"].fill_(1.0)
        op.surgeon.write(next(iter(op.params)), op.slot["copy"])
        return {}


class Explodes(Method):
    """Divides by zero."""

    def after_step(self, params, slot, generator):
        for v in params.values():
            v.div_(0.0)


class DoesNothing(Method):
    """Has a hook without effect."""

    def loss_term(self, params, slot):
        return 0.0 * next(iter(params.values())).sum()


class NotNeutral(Method):
    """Claims that strength 0 is the baseline, and adds a constant pull."""

    neutral: ClassVar = {"strength": 0.0}

    def __init__(self, *, strength, **common):
        super().__init__(**common)
        self.strength = strength

    def loss_term(self, params, slot):
        return (self.strength + 1e-3) * sum(v.sum() for v in params.values())


class Aliases(Method):
    """Keeps views instead of copies."""

    def init(self, params, anatomy):
        return {k: v.detach() for k, v in params.items()}

    def after_step(self, params, slot, generator):
        for v in params.values():
            v.mul_(0.99)


class DropsParameters(Method):
    """Its optimizer forgets the last tensor."""

    def edit_optimizer(self, optimizer):
        return _Forgetful(optimizer)


class _Forgetful(Optimizer):
    wraps = True

    def __init__(self, base):
        self.base = base

    def bind(self, params):
        self.last = list(params.values())[-1]
        return self.base.bind(params)

    def step(self, grads, lr):
        kept = self.last.clone()
        self.base.step(grads, lr)
        self.last.copy_(kept)

    def overwritten(self, name, mask, *, moments):
        self.base.overwritten(name, mask, moments=moments)


class HoldsSlowCopies(Method):
    """Puts the agent's slow copies back to where they began."""

    def init(self, params, anatomy):
        self.first = None
        return {}

    def after_step(self, params, slot, generator):
        for v in params.values():
            v.mul_(0.99)

    def intervene(self, op):
        slow = op.surgeon._state.targets
        self.first = self.first or {k: v.clone() for k, v in slow.items()}
        for k, v in slow.items():
            v.copy_(self.first[k])
        return {}


class TrainsFrozen(Method):
    """Changes copies that only interventions may write."""

    def edit_network(self, net):
        return net.set(self.name, split=0, copies=1)

    def intervene(self, op):
        self.networks = op.networks
        return {}

    def after_step(self, params, slot, generator):
        for network in self.networks.values():
            next(iter(network.frozen[0].values())).add_(1.0)
        for v in params.values():
            v.mul_(0.99)


class NeedsPolicy(Method):
    """Refuses networks of values in its own way."""

    def __init__(self, *, fix, only, **common):
        super().__init__(**common)
        self.fix, self.only = fix, only

    def edit_network(self, net):
        if not net.name.startswith(self.only):
            raise UserError(f"{self.name} cannot work on {net.name!r}", self.fix)
        return net

    def after_step(self, params, slot, generator):
        for v in params.values():
            v.mul_(0.99)


def node(cls, when=(), **extra):
    target = f"{__name__}.{cls.__name__}"
    return {cls.__name__.lower(): {"_target_": target, "scope": ["*"], "when": list(when), **extra}}


OFTEN = [{"every": 2, "unit": "iterations"}]


def test_a_good_method_passes():
    assert check_method(node(Good)) == {}


def test_a_method_may_refuse_an_agent():
    refused = check_method(node(NeedsPolicy, fix="agent=ppo", only=("actor", "shared", "critic")))
    assert refused == {k: "needspolicy cannot work on 'q'" for k in ("PQN", "C51", "C51, Nature CNN")}


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (node(Replaces), "moved in memory"),
        (node(GlobalRandomness), "process-wide random generator"),
        (node(Strays, OFTEN), "out of scope"),
        (node(ForgetsState), "differs after an interruption"),
        (node(Freezes), "is not trained at all"),
        (node(FreezesAfterReset, OFTEN), "not trained after it was overwritten"),
        (node(Explodes), "not finite"),
        (node(DoesNothing), "has no effect"),
        (node(NotNeutral, strength=1.0), "with neutral arguments"),
        (node(Aliases), "shares its memory"),
        (node(DropsParameters), "is not trained at all"),
        (node(HoldsSlowCopies, [*OFTEN, {"on": "run_start"}]), "does not follow"),
        (node(TrainsFrozen, [{"on": "run_start"}]), "belongs to no optimizer"),
        (node(NeedsPolicy, fix="", only=("actor", "shared", "critic")), "without saying what would work"),
        (node(NeedsPolicy, fix="agent=ppo", only=("q",)), "refuses PPO"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_broken_methods_are_caught(method, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_method(method)
