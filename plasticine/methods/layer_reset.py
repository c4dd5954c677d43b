"""Resetting layers (Nikishin et al., arXiv 2205.07802), up to a whole fresh network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from plasticine.core.method import Method, Operation
from plasticine.core.schedule import RunPlan
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy, TensorInfo
from plasticine.networks.spec import NetSpec

__all__ = ["LayerReset", "tensors_of"]


def tensors_of(
    anatomy: Anatomy, depths: Mapping[str, int], layers: int | Literal["encoder", "all"]
) -> list[str]:
    """Names of those tensors of `anatomy` that belong to a part of their network, in network order.

    Args:
        anatomy: What to choose from; may be a part of the networks.
        depths: Number of hidden layers of each network.
        layers: A number counts layers from the output of each network: 1 = the output layers, 2 = these and the
            last hidden layer, and so on. ``encoder`` = all hidden layers; ``all`` = everything, tensors that depend
            on no input (a log standard deviation) included.
    """
    if layers == "all":
        return list(anatomy.tensors)
    if layers == "encoder":
        return anatomy.names(roles=("encoder",))

    def from_the_end(info: TensorInfo) -> int:
        return 1 if info.role == "head" else 1 + depths[info.net] - int(info.layer.removeprefix("body."))

    return [k for k in anatomy.names(roles=("encoder", "head")) if from_the_end(anatomy.tensors[k]) <= layers]


class LayerReset(Method):
    """Draws whole layers anew from their initialisers, at the moments of its rules.

    Weights, biases, and scale and offset of normalisations are drawn; ``all`` draws everything else, too. Frozen
    copies of a reset output layer (left by plasticity injection) are set to zero: the new layer stands alone.

    Args:
        layers: Which layers of each network; see `tensors_of`. 0 = none.
        moments: Whether the optimizer forgets (``reset``) or keeps what it remembers of the reset tensors.
        targets: Whether an agent's slow copies of the reset tensors get the same values at once (``copy``) or follow
            on their own (``keep``).
        common: See `Method`. What is out of scope is not reset.
    """

    needs_when: ClassVar = True
    neutral: ClassVar = {"layers": 0}

    def __init__(
        self,
        *,
        layers: int | Literal["encoder", "all"],
        moments: Literal["reset", "keep"],
        targets: Literal["copy", "keep"],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if isinstance(layers, int) and layers < 0:
            raise UserError(f"method.{self.name}.layers={layers} must not be negative")
        self.layers = layers
        self.reset_moments = moments == "reset"
        self.copy_to_targets = targets == "copy"
        self._depths: dict[str, int] = {}

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Change nothing, but remember how deep the network is: the scope may show a part of it only."""
        self._depths[net.name] = len(net.body)
        return net

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse a scope that contains none of the layers."""
        if self.layers != 0 and not tensors_of(anatomy, self._depths, self.layers):
            raise UserError(
                f"method {self.name!r} resets nothing: its scope {list(self.scope)} contains no tensor of "
                f"layers={self.layers}",
                f"widen method.{self.name}.scope, or choose other layers",
            )

    def intervene(self, op: Operation) -> dict[str, float]:
        """Reset; report how many tensors and how many of their entries."""
        entries = 0
        names = tensors_of(op.anatomy, self._depths, self.layers)
        for name in names:
            fresh = op.anatomy.fresh(name, op.generator)
            op.surgeon.write(name, fresh, moments=self.reset_moments, target=self.copy_to_targets)
            entries += fresh.numel()
            if op.anatomy.tensors[name].role == "head":
                self._clear_copies(op, name)
        return {"tensors": float(len(names)), "entries": float(entries)}

    @staticmethod
    def _clear_copies(op: Operation, name: str) -> None:
        net, _, local = name.partition("/")
        for j, copy in enumerate(op.networks[net].frozen):
            if local in copy:
                op.surgeon.write(f"{net}/frozen.{j}.{local}", 0.0)
