"""Everything that learns, put together: networks, optimizers, methods, updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from plasticine.core.agent import Agent
from plasticine.core.env import EnvSpec
from plasticine.core.lab import Laboratory, Recent
from plasticine.core.method import Method, Operation
from plasticine.core.noise import Streams
from plasticine.core.optim import Optimizer
from plasticine.core.scalars import ScalarBuffer
from plasticine.core.schedule import Moment, RunPlan
from plasticine.core.state import TrainState
from plasticine.core.surgery import Surgeon
from plasticine.core.update import Update, assemble
from plasticine.errors import UserError

if TYPE_CHECKING:
    from plasticine.networks.anatomy import Anatomy
    from plasticine.networks.network import Network, Site
    from plasticine.networks.spec import LayerSpec, NetSpec

__all__ = ["BuildNetwork", "Learner"]

BuildNetwork = Callable[
    ["NetSpec", Callable[[str], Generator], torch.device], "tuple[Network, Anatomy, dict[str, Tensor]]"
]


@dataclass
class Learner:
    """The built learner. Construct through `Learner.build`."""

    agent: Agent
    methods: tuple[Method, ...]
    networks: dict[str, Network]
    anatomy: Anatomy
    state: TrainState
    streams: Streams
    surgeon: Surgeon
    updates: dict[str, Update]
    scalars: dict[str, ScalarBuffer]
    optimizers: dict[str, Optimizer]
    phases: dict[str, tuple[str, ...]]
    recent: Recent | None = None

    @staticmethod
    def build(
        *,
        agent: Agent,
        methods: Sequence[Method],
        env: EnvSpec,
        body: Sequence[LayerSpec],
        build_network: BuildNetwork,
        merge_anatomies: Callable[[Sequence[Anatomy]], Anatomy],
        streams: Streams,
        device: torch.device,
        compile_loss: bool = False,
    ) -> Learner:
        """Describe, edit, build, initialise and assemble, in that order.

        Raises:
            UserError: The agent does not fit the environment, or methods do not fit each other or the networks.
        """
        agent.check_env(env)
        specs = _edited(agent.networks(env, body), methods)
        networks: dict[str, Network] = {}
        anatomies = []
        state = TrainState()
        for spec in specs:
            network, anatomy, frozen = build_network(spec, lambda name: streams.once("init", name), device)
            networks[spec.name] = network
            anatomies.append(anatomy)
            state.params |= {f"{spec.name}/{k}": v for k, v in network.params.items()}
            state.frozen |= frozen
        anatomy = merge_anatomies(anatomies)
        agent.bind(env, networks, state, streams, device)
        optimizers: dict[str, Optimizer] = {}
        for phase in agent.phases():
            params = {k: v for k, v in state.params.items() if k.split("/", 1)[0] in phase.nets}
            optimizer = phase.optimizer
            for m in methods:
                if m.select(params):
                    optimizer = _edited_optimizer(m, optimizer, phase.optimizer)
            state.opt[phase.name] = optimizer.bind(params)
            optimizers[phase.name] = optimizer
        for m in methods:
            inside = m.select(state.params)
            _check_scope(m, inside, state.params)
            state.slots[m.name] = m.init(inside, anatomy.within(list(inside)))
        surgeon = Surgeon(state, list(optimizers.values()))
        rows = max(1, agent.updates_per_iteration(env))
        updates, scalars = {}, {}
        for phase in agent.phases():
            params = {k: v for k, v in state.params.items() if k.split("/", 1)[0] in phase.nets}
            scalars[phase.name] = ScalarBuffer((*phase.aux, "grad_norm"), rows, device)
            updates[phase.name] = assemble(
                agent,
                phase,
                optimizers[phase.name],
                params,
                methods,
                state,
                streams,
                scalars[phase.name],
                networks,
                surgeon,
                compile_loss=compile_loss,
            )
        return Learner(
            agent,
            tuple(methods),
            networks,
            anatomy,
            state,
            streams,
            surgeon,
            updates,
            scalars,
            optimizers,
            {phase.name: phase.nets for phase in agent.phases()},
        )

    def check(self, plan: RunPlan) -> None:
        """Refuse rules that wait for what never happens; let methods refuse what they could not do in this run."""
        for m in self.methods:
            for rule in m.when:
                rule.check(plan, m.name)
            if m.when and all(rule.on is not None for rule in m.when) and m.firings(plan) == 0:
                raise UserError(
                    f"method {m.name!r} never acts: this stream has no {m.when[0].on}",
                    f"choose a stream of several tasks, or a rule like method.{m.name}.when=[{{at: 0.5, of: run}}]",
                )
            m.check(plan, self.anatomy.within(list(m.select(self.state.params))))

    def learn(self, progress: float) -> int:
        """Run one iteration's optimizer steps; return how many."""
        updates, count, recent = self.updates, 0, self.recent
        for phase, lr, batch in self.agent.batches(progress):
            updates[phase](batch, lr)
            count += 1
            if recent is not None:
                recent.steps[phase] = (lr, batch)
        return count

    def laboratory(self, moment: int) -> Laboratory:
        """Experiments on the learner as it is.

        Args:
            moment: Number of the iteration; random streams depend on it.
        """
        return Laboratory(
            agent=self.agent,
            networks=self.networks,
            phases=self.phases,
            anatomy=self.anatomy,
            params=self.state.params,
            optimizers=self.optimizers,
            streams=self.streams,
            recent=self.recent,
            moment=moment,
        )

    @torch.no_grad()
    def fire(self, moment: Moment, plan: RunPlan) -> dict[str, dict[str, float]]:
        """Call the interventions that are due; return their facts by method name."""
        acted = {}
        for m in self.methods:
            if any(rule.due(moment, plan) for rule in m.when):
                acted[m.name] = m.intervene(self._operation(m, moment, plan))
        return acted

    def _operation(self, m: Method, moment: Moment, plan: RunPlan) -> Operation:
        params = m.select(self.state.params)
        generator = self.streams[f"method/{m.name}"]
        cache: dict[int, Mapping[str, tuple[Site, ...]]] = {}

        def activations(count: int) -> Mapping[str, tuple[Site, ...]]:
            if count not in cache:
                inputs = self.agent.probe_inputs(count, generator)
                cache[count] = {n: self.networks[n].capture(x).sites for n, x in inputs.items()}
            return cache[count]

        return Operation(
            params=params,
            anatomy=self.anatomy.within(list(params)),
            networks=self.networks,
            slot=self.state.slots[m.name],
            generator=generator,
            surgeon=self.surgeon,
            counters=moment.counters,
            plan=plan,
            event=moment.event,
            activations=activations,
        )

    def flush(self) -> dict[str, float]:
        """Averages over the minibatches since the last flush; a phase's name is put before clashing keys."""
        merged: dict[str, float] = {}
        for phase, buffer in self.scalars.items():
            for key, value in buffer.flush().items():
                merged[key if key not in merged else f"{phase}_{key}"] = value
        return merged

    def snapshot(self) -> dict[str, Any]:
        """Every tensor by flat name (live references), and the random streams."""
        return {"tensors": self.state.tensors(), "streams": self.streams.state()}

    @torch.no_grad()
    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Copy a snapshot's values into the existing tensors.

        Raises:
            UserError: The snapshot belongs to a learner with other tensors.
        """
        own = self.state.tensors()
        saved = snapshot["tensors"]
        wrong = sorted(set(own) ^ set(saved)) or sorted(k for k in own if own[k].shape != saved[k].shape)
        if wrong:
            raise UserError(
                f"the checkpoint does not fit this learner: {wrong[0]} differs ({len(wrong)} tensors in all)",
                "continue it with the configuration in its run folder, or start a new run",
            )
        for name, tensor in own.items():
            tensor.copy_(saved[name])
        self.streams.load_state(snapshot["streams"])
        for network in self.networks.values():
            network.refresh()


def _edited(specs: Sequence[NetSpec], methods: Sequence[Method]) -> list[NetSpec]:
    edited = []
    for spec in specs:
        for m in methods:
            if m.touches(spec.name):
                spec = m.edit_network(spec)
        edited.append(spec)
    return edited


def _edited_optimizer(method: Method, optimizer: Optimizer, base: Optimizer) -> Optimizer:
    """What `method` makes of the optimizer; refuse to drop what an earlier method has put there."""
    edited = method.edit_optimizer(optimizer)
    if edited is optimizer or edited.wraps or optimizer is base:
        return edited
    if optimizer.wraps:
        raise UserError(
            f"method {method.name!r} replaces the optimizer that an earlier method has wrapped",
            f"put {method.name!r} before the method that wraps: method=[{method.name},...]",
        )
    raise UserError(
        f"method {method.name!r} replaces the optimizer that an earlier method has already replaced",
        "use only one of them",
    )


def _check_scope(method: Method, inside: Mapping[str, Tensor], params: Mapping[str, Tensor]) -> None:
    if not inside:
        nets = sorted({k.split("/", 1)[0] for k in params})
        raise UserError(
            f"scope {list(method.scope)} of method {method.name!r} matches no parameter",
            f"parameters are called e.g. {next(iter(params))!r}; networks here: {', '.join(nets)}",
        )
