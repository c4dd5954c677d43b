"""A tiny learner in the hands of a test: built from YAML, with experience, without a trainer around it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from plasticine.compose import Parts, assemble_parts
from plasticine.core.method import Method, Operation
from plasticine.core.schedule import Moment
from plasticine.core.state import Counters
from plasticine.testing import method_nodes, tiny_config


def nodes(method: str, **changes: Any) -> dict[str, Any]:
    """The node of one method file, changed."""
    (node,) = method_nodes(method).values()
    return {method: {**node, **changes}}


def parts(methods: Mapping[str, Any], *, experience: bool = False, **config: Any) -> Parts:
    """A built learner; with `experience`, one rollout is collected and ready to be learnt from."""
    p = assemble_parts(tiny_config(methods, **config))
    if experience:
        collect(p)
    return p


def collect(p: Parts) -> None:
    p.collector.enter(p.level.enter(p.level.tasks()[0], 0), 0, switch=False)
    p.collector.collect(p.learner.agent.collect_steps)
    p.learner.agent.prepare(p.collector.obs)


def learn(p: Parts, iterations: int = 1) -> None:
    for _ in range(iterations):
        p.learner.learn(0.0)
        p.learner.flush()


def method(p: Parts, name: str) -> Method:
    return next(m for m in p.learner.methods if m.name == name)


def operation(p: Parts, name: str, inputs: Mapping[str, Tensor] | None = None) -> Operation:
    """What the method sees; with `inputs` (by network), these are the recent observations."""
    op = p.learner._operation(method(p, name), Moment("iteration", Counters()), p.plan)
    if inputs is None:
        return op

    def activations(count: int) -> Mapping[str, Any]:
        return {net: p.learner.networks[net].capture(x[:count]).sites for net, x in inputs.items()}

    return Operation(**{**vars(op), "activations": activations})


@torch.no_grad()
def act(p: Parts, name: str, inputs: Mapping[str, Tensor] | None = None) -> dict[str, float]:
    return method(p, name).intervene(operation(p, name, inputs))


def params(p: Parts) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in p.learner.state.params.items()}


def observations(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 5, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def outputs(p: Parts, x: Tensor) -> dict[str, Tensor]:
    return {f"{n}/{h}": y.clone() for n, net in p.learner.networks.items() for h, y in net(x).items()}
