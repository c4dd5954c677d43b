"""Experiments on a learner that leave no trace: its loss and its networks as functions of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Generator, Tensor

from plasticine.core.agent import Agent, Decisions
from plasticine.core.noise import Streams
from plasticine.core.optim import Optimizer, SecondMoment

if TYPE_CHECKING:
    from plasticine.networks.anatomy import Anatomy
    from plasticine.networks.network import Capture, Network

__all__ = ["Laboratory", "Recent"]


class Recent:
    """The last minibatch and learning rate of every phase, kept while a measurement is due."""

    def __init__(self) -> None:
        self.steps: dict[str, tuple[float, Any]] = {}


class Laboratory:
    """What a metric may try out at one measurement.

    Parameters are given by full name (``actor/body.0.weight``) as in ``NetProbe.params``; names that are left out
    have their present values. Nothing here writes: no parameter, buffer, gradient, random stream or memory of the
    learner is touched, and evaluations have no statistics to update. Everything returned without a leaf that requires
    a gradient is without a graph. Functions may be differentiated (also twice, and by ``torch.func``); gradients are
    recorded inside even though the trainer measures under ``torch.no_grad``.

    Attributes:
        phases: Networks that each phase of the agent trains, by phase.
    """

    def __init__(
        self,
        *,
        agent: Agent,
        networks: Mapping[str, Network],
        phases: Mapping[str, tuple[str, ...]],
        anatomy: Anatomy,
        params: Mapping[str, Tensor],
        optimizers: Mapping[str, Optimizer],
        streams: Streams,
        recent: Recent | None,
        moment: int,
    ) -> None:
        self.phases = dict(phases)
        self._agent = agent
        self._networks = networks
        self._anatomy = anatomy
        self._params = params
        self._optimizers = optimizers
        self._streams = streams
        self._recent = recent
        self._moment = moment

    # -- the loss --------------------------------------------------------------------------------------------
    @property
    def batches(self) -> Mapping[str, Any]:
        """Last minibatch of the latest update by phase; empty before the first optimizer step.

        A minibatch is a tuple of tensors with one row per sample, as the agent's loss takes it.

        Raises:
            RuntimeError: No metric of the measurement has set ``needs_batch``.
        """
        return {phase: batch for phase, (_, batch) in self._kept().items()}

    def rates(self) -> dict[str, float]:
        """Learning rate of the latest step by network; empty before the first one.

        Raises:
            RuntimeError: No metric of the measurement has set ``needs_batch``.
        """
        return {net: rate for phase, (rate, _) in self._kept().items() for net in self.phases[phase]}

    @staticmethod
    def rows(batch: Any, pick: Tensor) -> Any:
        """The rows `pick` (integers [k]) of a minibatch, as a minibatch of the same type."""
        parts = [part.index_select(0, pick.to(part.device)) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)

    def trained(self, phase: str) -> dict[str, Tensor]:
        """Present values of the parameters that `phase` trains, detached (live: do not write)."""
        nets = self.phases[phase]
        return {k: v.detach() for k, v in self._params.items() if k.split("/", 1)[0] in nets}

    @torch.enable_grad()
    def loss(self, phase: str, params: Mapping[str, Tensor], batch: Any = None) -> Tensor:
        """The agent's own loss (0-d) of a minibatch at `params`, without terms that methods add.

        Args:
            phase: One of `phases`.
            params: By full name; also of networks that the phase does not train.
            batch: Default: the last minibatch of the phase.
        """
        with self._at(params):
            return self._agent.plain_loss(phase, self.batches[phase] if batch is None else batch)

    @torch.enable_grad()
    def gradients(self, phase: str, batch: Any = None) -> dict[str, Tensor]:
        """Gradient of the agent's own loss at the present parameters, by full name; zeros where there is none."""
        nets = self.phases[phase]
        tensors = {k: v for k, v in self._params.items() if k.split("/", 1)[0] in nets}
        loss, _ = self._agent.loss(phase, self.batches[phase] if batch is None else batch)
        grads = torch.autograd.grad(loss, list(tensors.values()), allow_unused=True, materialize_grads=True)
        return dict(zip(tensors, grads, strict=True))

    def fits(self) -> list[tuple[Tensor, Tensor]]:
        """Values and targets of the last minibatch of every phase that trains values; see `Agent.fit`."""
        with torch.no_grad():
            found = [self._agent.fit(phase, batch) for phase, batch in self.batches.items()]
        return [fit for fit in found if fit is not None]

    # -- the networks ----------------------------------------------------------------------------------------
    @torch.enable_grad()
    def apply(self, net: str, params: Mapping[str, Tensor], x: Tensor) -> dict[str, Tensor]:
        """Head outputs of network `net` on inputs x [n, *inputs], by head name; frozen copies included."""
        return self._networks[net](x, self._local(net, params))

    @torch.enable_grad()
    def capture(self, net: str, params: Mapping[str, Tensor], x: Tensor) -> Capture:
        """One forward pass with everything kept: ``outputs``, ``sites`` and ``features`` [n, d]."""
        return self._networks[net].capture(x, self._local(net, params))

    def fresh(self, net: str, generator: Generator) -> dict[str, Tensor]:
        """New parameters of network `net`, drawn from their own initialisers, by full name."""
        return {
            name: self._anatomy.fresh(name, generator).to(value.device)
            for name, value in self._params.items()
            if name.startswith(f"{net}/")
        }

    def decisions(
        self, net: str, outputs: Mapping[str, Tensor], params: Mapping[str, Tensor]
    ) -> Decisions | None:
        """See `Agent.decisions`, with parameters by full name."""
        with torch.no_grad():
            return self._agent.decisions(net, outputs, self._local(net, params))

    # -- the rest --------------------------------------------------------------------------------------------
    def generator(self, purpose: str) -> Generator:
        """A random stream of one's own: the same at the same measurement of the same run, whoever else draws."""
        return self._streams.once("metrics", purpose, self._moment)

    def second_moments(self) -> dict[str, SecondMoment]:
        """The optimizers' running means of squared gradients by full parameter name."""
        return {
            k: v for optimizer in self._optimizers.values() for k, v in optimizer.second_moments().items()
        }

    def _kept(self) -> Mapping[str, tuple[float, Any]]:
        if self._recent is None:
            raise RuntimeError("no minibatch was kept: a metric that reads one sets needs_batch = True")
        return self._recent.steps

    def _local(self, net: str, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        own = self._networks[net].params
        return {k: params.get(f"{net}/{k}", v.detach()) for k, v in own.items()}

    @contextmanager
    def _at(self, params: Mapping[str, Tensor]) -> Iterator[None]:
        """Let the networks evaluate with other parameters."""
        own = {name: network.params for name, network in self._networks.items()}
        try:
            for name, network in self._networks.items():
                network.params = self._local(name, params)
            yield
        finally:
            for name, network in self._networks.items():
                network.params = own[name]
