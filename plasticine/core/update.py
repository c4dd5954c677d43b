"""Assembles agent loss, method hooks and optimizer into one function per phase.

Which hooks exist is decided here, once. Nothing is looked up or dispatched while training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from plasticine.core.agent import Agent, Phase
from plasticine.core.method import AddGradient, GradFn, Gradients, Method, overrides
from plasticine.core.noise import Streams
from plasticine.core.optim import Optimizer
from plasticine.core.scalars import ScalarBuffer
from plasticine.core.state import Params, Slot, TrainState
from plasticine.core.surgery import Surgeon
from plasticine.core.view import LossFn, View
from plasticine.core.watch import Seen, Watch
from plasticine.errors import UserError

if TYPE_CHECKING:
    from plasticine.networks.network import Network

__all__ = ["Update", "assemble", "global_norm"]

#: One optimizer step on a batch with a learning rate.
Update = Callable[[Any, float], None]
#: What happens after an optimizer step, given the gradients before clipping.
_After = Callable[[Mapping[str, Tensor]], None]


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
    networks: Mapping[str, Network],
    surgeon: Surgeon,
    *,
    compile_loss: bool,
) -> Update:
    """Build the update of one phase.

    Order of one step: loss and its terms -> gradient (both wrapped by methods in list order, the first innermost)
    -> clip -> optimizer -> observers and per-step parameter hooks in list order -> the agent's slow copies.

    Args:
        params: Trainable tensors of the phase.
        scalars: Receives one row per step: the phase's aux values, then the raw gradient norm.
        compile_loss: Compile the loss with its penalty terms (pays off in long runs).
    """
    watch = _watch(phase, params, methods, networks, compile_loss=compile_loss)
    loss_fn: LossFn = _with_terms(agent, phase, params, methods, state, watch)
    if compile_loss:
        loss_fn = torch.compile(loss_fn, dynamic=False)
    for m in methods:
        inside = m.select(params)
        if inside and overrides(m, "wrap_loss"):
            view = View(agent, {net: networks[net] for net in phase.nets}, streams[f"method/{m.name}"])
            loss_fn = m.wrap_loss(loss_fn, view, inside, state.slots[m.name])
    grad_fn: GradFn = _gradients(loss_fn, params, watch, _gradient_terms(params, methods, state))
    wrapped = False
    for m in methods:
        inside = m.select(params)
        if inside and overrides(m, "wrap_grad"):
            grad_fn = m.wrap_grad(grad_fn, inside, state.slots[m.name])
            wrapped = True
    after = _after(params, methods, state, streams, surgeon, watch)
    limit = phase.max_grad_norm
    step, after_update, name = optimizer.step, agent.after_update, phase.name

    def update(batch: Any, lr: float) -> None:
        by_name, norm, aux = grad_fn(batch)
        with torch.no_grad():
            grads = _separate(by_name.values())
            if limit is not None:
                clipped = global_norm(grads) if wrapped else norm
                factor = torch.clamp(limit / (clipped + 1e-6), max=1.0)
                if watch is None:
                    torch._foreach_mul_(grads, factor)
                else:  # observers see the gradients as they were
                    grads = list(torch._foreach_mul(grads, factor))
            step(grads, lr)
            for act in after:
                act(by_name)
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


def _watch(
    phase: Phase,
    params: Params,
    methods: Sequence[Method],
    networks: Mapping[str, Network],
    *,
    compile_loss: bool,
) -> Watch | None:
    """What looks at the networks of the phase on behalf of the methods that observe; None if there are none."""
    observers = [m for m in methods if overrides(m, "observe") and m.select(params)]
    if not observers:
        return None
    greedy = [m.name for m in observers if m.unit_gradients]
    if greedy and compile_loss:
        raise UserError(
            f"method {greedy[0]!r} needs the gradients of hidden units, which a compiled loss does not reveal",
            "set compute.compile=false",
        )
    looked_at = [networks[net] for net in phase.nets if any(m.touches(net) for m in observers)]
    return Watch(looked_at, unit_gradients=bool(greedy))


def _gradient_terms(params: Params, methods: Sequence[Method], state: TrainState) -> list[AddGradient]:
    terms = []
    for m in methods:
        inside = m.select(params)
        if inside and overrides(m, "gradient_term"):
            terms.append(m.gradient_term(inside, state.slots[m.name]))
    return [term for term in terms if term is not None]


def _gradients(loss_fn: LossFn, params: Params, watch: Watch | None, terms: Sequence[AddGradient]) -> GradFn:
    tensors, names = list(params.values()), tuple(params)

    def collected(grads: Sequence[Tensor], aux: Sequence[Tensor]) -> Gradients:
        by_name = dict(zip(names, grads, strict=True))
        return Gradients(by_name, global_norm(grads), aux)

    def with_terms(grads: Sequence[Tensor], aux: Sequence[Tensor]) -> Gradients:
        by_name = dict(zip(names, _separate(grads), strict=True))
        with torch.no_grad():
            for add in terms:
                add(by_name)
        return Gradients(by_name, global_norm(tuple(by_name.values())), aux)

    result = with_terms if terms else collected

    def gradients(batch: Any) -> Gradients:
        loss, aux = loss_fn(batch)
        return result(torch.autograd.grad(loss, tensors, allow_unused=True, materialize_grads=True), aux)

    if watch is None:
        return gradients

    def watched(batch: Any) -> Gradients:
        loss, aux = loss_fn(batch)
        wanted = [*tensors, *watch.units()]
        both = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        watch.keep(both[len(tensors) :])
        return result(both[: len(tensors)], aux)

    return watched


def _after(
    params: Params,
    methods: Sequence[Method],
    state: TrainState,
    streams: Streams,
    surgeon: Surgeon,
    watch: Watch | None,
) -> list[_After]:
    """Observers and per-step hooks, in list order."""
    acts: list[_After] = []
    if watch is not None:
        acts.append(watch.detach)
    for m in methods:
        inside = m.select(params)
        if not inside:
            continue
        slot = state.slots[m.name]
        if overrides(m, "observe") and watch is not None:
            acts.append(_observer(m, inside, slot, streams[f"method/{m.name}"], surgeon, watch))
        if overrides(m, "after_step"):
            acts.append(_stepper(m, inside, slot, streams[f"method/{m.name}"]))
    if watch is not None:
        acts.append(watch.forget)
    return acts


def _observer(
    method: Method, inside: Params, slot: Slot, generator: Generator, surgeon: Surgeon, watch: Watch
) -> _After:
    nets = tuple(dict.fromkeys(k.split("/", 1)[0] for k in inside))
    wants_units = method.unit_gradients

    def observe(grads: Mapping[str, Tensor]) -> None:
        sites = {net: watch.sites[net] for net in nets}
        unit_grads = {net: watch.unit_grads[net] for net in nets} if wants_units else {}
        seen = Seen(inside, {k: grads[k] for k in inside}, sites, unit_grads, surgeon)
        method.observe(seen, slot, generator)

    return observe


def _stepper(method: Method, inside: Params, slot: Slot, generator: Generator) -> _After:
    hook = method.after_step
    return lambda grads: hook(inside, slot, generator)


def _with_terms(
    agent: Agent,
    phase: Phase,
    params: Params,
    methods: Sequence[Method],
    state: TrainState,
    watch: Watch | None,
) -> LossFn:
    name, agent_loss = phase.name, agent.loss

    def bare(batch: Any) -> tuple[Tensor, Sequence[Tensor]]:
        return agent_loss(name, batch)

    loss = bare if watch is None else watch.around(bare)
    terms = [
        (m.loss_term, inside, state.slots[m.name])
        for m in methods
        if overrides(m, "loss_term") and (inside := m.select(params))
    ]
    if not terms:
        return loss

    def total(batch: Any) -> tuple[Tensor, Sequence[Tensor]]:
        value, aux = loss(batch)
        for term, inside, slot in terms:
            value = value + term(inside, slot)
        return value, aux

    return total
