"""Assembles agent loss, method hooks and optimizer into one function per phase.

Which hooks exist is decided here, once. Nothing is looked up or dispatched while training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from plasticine.core.agent import Agent, Phase
from plasticine.core.method import GradFn, Gradients, Method, overrides
from plasticine.core.noise import Streams
from plasticine.core.optim import Optimizer
from plasticine.core.scalars import ScalarBuffer
from plasticine.core.state import Params, TrainState

__all__ = ["Update", "assemble", "global_norm"]

#: One optimizer step on a batch with a learning rate.
Update = Callable[[Any, float], None]


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """L2 norm over all entries of all tensors, 0-d, on the device."""
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(list(tensors))))


def assemble(
    agent: Agent,
    phase: Phase,
    optimizer: Optimizer,
    params: Params,
    methods: Sequence[Method],
    state: TrainState,
    streams: Streams,
    scalars: ScalarBuffer,
    *,
    compile_loss: bool,
) -> Update:
    """Build the update of one phase.

    Order of one step: loss and penalty terms -> gradient (wrapped by methods in list order, the first innermost)
    -> clip -> optimizer -> per-step parameter hooks in list order -> the agent's slow copies.

    Args:
        params: Trainable tensors of the phase.
        scalars: Receives one row per step: the phase's aux values, then the raw gradient norm.
        compile_loss: Compile the loss with its penalty terms (pays off in long runs).
    """
    tensors, names = list(params.values()), tuple(params)
    loss_fn = _with_terms(agent, phase, params, methods, state)
    if compile_loss:
        loss_fn = torch.compile(loss_fn, dynamic=False)

    def gradients(batch: Any) -> Gradients:
        loss, aux = loss_fn(batch)
        grads = torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True)
        return Gradients(dict(zip(names, grads, strict=True)), global_norm(grads), aux)

    grad_fn: GradFn = gradients
    wrapped = False
    for m in methods:
        inside = m.select(params)
        if inside and overrides(m, "wrap_grad"):
            grad_fn = m.wrap_grad(grad_fn, inside, state.slots[m.name])
            wrapped = True
    after = [
        (m.after_step, inside, state.slots[m.name], streams[f"method/{m.name}"])
        for m in methods
        if overrides(m, "after_step") and (inside := m.select(params))
    ]
    limit = phase.max_grad_norm
    step, after_update, name = optimizer.step, agent.after_update, phase.name

    def update(batch: Any, lr: float) -> None:
        by_name, norm, aux = grad_fn(batch)
        with torch.no_grad():
            grads = _separate(by_name.values())
            if limit is not None:
                clipped = global_norm(grads) if wrapped else norm
                torch._foreach_mul_(grads, torch.clamp(limit / (clipped + 1e-6), max=1.0))
            step(grads, lr)
            for hook, inside, slot, generator in after:
                hook(inside, slot, generator)
            after_update(name)
            scalars.add((*aux, norm))

    return update


def _separate(grads: Iterable[Tensor]) -> list[Tensor]:
    """The gradients, each with memory of its own, so that they can be changed in place.

    Automatic differentiation may return one tensor for two parameters, or an expanded view of one number.
    """
    separate = [g if g.is_contiguous() else g.contiguous() for g in grads]
    if len({g.data_ptr() for g in separate}) < len(separate):
        separate = [g.clone() for g in separate]
    return separate


def _with_terms(
    agent: Agent, phase: Phase, params: Params, methods: Sequence[Method], state: TrainState
) -> Callable[[Any], tuple[Tensor, Sequence[Tensor]]]:
    name, loss = phase.name, agent.loss
    terms = [
        (m.loss_term, inside, state.slots[m.name])
        for m in methods
        if overrides(m, "loss_term") and (inside := m.select(params))
    ]
    if not terms:
        return lambda batch: loss(name, batch)

    def total(batch: Any) -> tuple[Tensor, Sequence[Tensor]]:
        value, aux = loss(name, batch)
        for term, inside, slot in terms:
            value = value + term(inside, slot)
        return value, aux

    return total
