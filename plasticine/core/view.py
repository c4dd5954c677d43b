"""A look at the networks from inside the loss, on observations that the minibatch was not chosen for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Generator, Tensor

if TYPE_CHECKING:
    from plasticine.core.agent import Agent
    from plasticine.networks.network import Network

__all__ = ["LossFn", "View"]

#: Loss (0-d, differentiable) of one minibatch, and the 0-d tensors named by ``Phase.aux``.
LossFn = Callable[[Any], tuple[Tensor, Sequence[Tensor]]]


class View:
    """What `Method.wrap_loss` may look at.

    Args:
        agent: Knows recent inputs, and what an output means.
        networks: Those that the phase trains.
        generator: The method's own random stream.

    Attributes:
        networks: By name. ``networks[net](x, params)`` evaluates one, with other parameters (by local name) if given.
    """

    def __init__(self, agent: Agent, networks: Mapping[str, Network], generator: Generator) -> None:
        self.networks = dict(networks)
        self._agent = agent
        self._generator = generator

    def inputs(self, count: int) -> dict[str, Tensor]:
        """Up to `count` recent inputs of each network, drawn anew from the method's own random stream."""
        drawn = self._agent.probe_inputs(count, self._generator)
        return {net: x for net, x in drawn.items() if net in self.networks}

    def difference(self, net: str, head: str, before: Tensor, now: Tensor) -> Tensor:
        """See `Agent.difference`."""
        return self._agent.difference(net, head, before, now)
