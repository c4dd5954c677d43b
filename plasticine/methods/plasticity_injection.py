"""Plasticity injection (Nikishin et al., arXiv 2305.15555)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from plasticine.core.method import Method, Operation
from plasticine.core.schedule import RunPlan
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.network import Network
from plasticine.networks.spec import NetSpec

__all__ = ["PlasticityInjection"]

_KINDS = ("weight", "bias", "norm_scale", "norm_offset")


class PlasticityInjection(Method):
    """Freezes the last layers of a network and lets new ones learn a correction that starts at zero.

    With tail h and fresh parameters ``a = b`` the output becomes ``h_old(x) + h_a(x) - h_b(x)``. Only `a` and the
    layers before the tail are trained; gradients reach those layers through all three. The output and the
    gradient with respect to the layers before are what they were, the number of trainable parameters too.

    A tail of depth 1 is linear, so that everything frozen is one linear map: injections can be repeated without
    end, at the price of adding no non-linear capacity. Each injection into a tail of depth 2 keeps two frozen
    copies, which are evaluated from then on.

    The optimizer's moments of the new layers start at zero; those of the other layers are kept. An agent's slow
    copies of the tail take the new values at the same time.

    Args:
        depth: Layers in the tail: 1 = output layers, 2 = last hidden layer and output layers.
        max_injections: For how many injections copies are allocated (depth 2; a larger number of moments is
            refused before the run).
        common: See `Method`. The scope must cover a network's tail completely or not at all.
    """

    needs_when: ClassVar = True

    def __init__(self, *, depth: Literal[1, 2], max_injections: int, **common: Any) -> None:
        super().__init__(**common)
        if max_injections < 1:
            raise UserError(f"method.{self.name}.max_injections={max_injections} must be at least 1")
        self.depth = depth
        self.max_injections = max_injections

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Split off the tail and allocate its frozen copies."""
        layers = [f"head.{h}" for h in net.heads]
        if self.depth == 2:
            layers.append(f"body.{len(net.body) - 1}")
        names = [f"{net.name}/{layer}.{kind}" for layer in layers for kind in _KINDS]
        outside = [name for name in names if not self.reaches(name)]
        if len(outside) == len(names):
            return net
        if outside:
            raise UserError(
                f"scope {list(self.scope)} of method {self.name!r} covers only a part of the tail of "
                f"{net.name!r}: not {outside[0]!r}",
                f"widen it to {net.name}/*, or leave the network out",
            )
        copies = 1 if self.depth == 1 else 2 * self.max_injections
        return net.set(self.name, split=self.depth - 1, copies=copies)

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse more injections than were allocated."""
        count = self.firings(plan)
        if self.depth == 2 and count > self.max_injections:
            raise UserError(
                f"method {self.name!r} would inject up to {count} times, but max_injections={self.max_injections}",
                f"set method.{self.name}.max_injections={count}, or depth=1",
            )

    def intervene(self, op: Operation) -> dict[str, float]:
        """Inject into every network whose tail is in scope."""
        injected = [
            n for n in op.networks.values() if n.frozen and f"{n.name}/{next(iter(n.frozen[0]))}" in op.params
        ]
        for network in injected:
            if self.depth == 1:
                self._fold(op, network)
            else:
                self._append(op, network)
        return {"networks": float(len(injected)), "copies": float(sum(n.active for n in injected))}

    def _renew(self, op: Operation, network: Network) -> dict[str, torch.Tensor]:
        """Give the live tail a fresh draw; return the draw by local name."""
        fresh = {}
        for local, live in network.frozen[0].items():
            name = f"{network.name}/{local}"
            fresh[local] = op.anatomy.fresh(name, op.generator).to(live.device)
            op.surgeon.write(name, fresh[local], moments=True, target=True)
        return fresh

    def _fold(self, op: Operation, network: Network) -> None:
        old = {local: network.params[local].detach().clone() for local in network.frozen[0]}
        for local, fresh in self._renew(op, network).items():
            frozen = network.frozen[0][local]
            op.surgeon.write(f"{network.name}/frozen.0.{local}", frozen + (old[local] - fresh))
        self._activate(op, network, 1, {0: 1.0})

    def _append(self, op: Operation, network: Network) -> None:
        first = network.active
        if first + 2 > len(network.frozen):
            raise UserError(
                f"method {self.name!r} has used up its {self.max_injections} injections",
                f"raise method.{self.name}.max_injections",
            )
        for local in network.frozen[0]:
            op.surgeon.write(f"{network.name}/frozen.{first}.{local}", network.params[local].detach())
        for local, fresh in self._renew(op, network).items():
            op.surgeon.write(f"{network.name}/frozen.{first + 1}.{local}", fresh)
        self._activate(op, network, first + 2, {first: 1.0, first + 1: -1.0})

    @staticmethod
    def _activate(op: Operation, network: Network, count: int, signs: dict[int, float]) -> None:
        for j, sign in signs.items():
            mask = torch.arange(len(network.signs)) == j
            op.surgeon.write(f"{network.name}/frozen.signs", sign, mask)
        network.activate(count)
