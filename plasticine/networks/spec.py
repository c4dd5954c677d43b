"""Networks as descriptions: methods edit these before any tensor exists."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from plasticine.errors import UserError
from plasticine.networks.initializers import Initializer

__all__ = ["HeadSpec", "LayerSpec", "NetSpec", "SlotConflict"]

Writers = Mapping[str, str]


class SlotConflict(UserError):
    """Two methods want different values for the same property of a network."""


@dataclass(frozen=True)
class LayerSpec:
    """One hidden layer: linear map, optional normalisation, non-linearity.

    Attributes:
        kind: ``dense`` (flattens image inputs) or ``conv``.
        width: Units (rows of the weight; channels of a convolution), before the activation widens them.
        act: Activation name.
        norm: ``None``, ``layer_norm`` or ``rms_norm``, applied between linear map and non-linearity.
        weight_init, bias_init: Initialisers.
        bias: Whether the linear map has a bias.
        options: ``kernel``, ``stride``, ``padding`` of a convolution; ``pool``: kernel, stride and padding of a
            maximum over positions before the non-linearity; ``norm_eps``. ``stream``: the layer's part in a
            residual stream. ``open``: its result begins a stream; ``add``: its result is added to the stream,
            and the sum goes on as the stream. The next layer reads the stream through the non-linearity.
            ``linear``: True if the layer has no non-linearity by design. Methods that choose activations leave
            it alone, and it is no activation site.
        writers: Which method set which property; used to detect conflicts.
    """

    kind: str
    width: int
    act: str
    norm: str | None
    weight_init: Initializer
    bias_init: Initializer
    bias: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    writers: Writers = field(default_factory=dict)


@dataclass(frozen=True)
class HeadSpec:
    """A linear read-out of the last hidden layer."""

    size: int
    weight_init: Initializer
    bias_init: Initializer


@dataclass(frozen=True)
class NetSpec:
    """One network: input, hidden layers, heads, and parameters that depend on no input.

    Attributes:
        name: Prefix of its parameters, e.g. ``actor``.
        inputs: Shape of one input without the batch axis.
        body: Hidden layers in forward order.
        heads: Read-outs by name.
        free: Input-independent parameters by name: (size, initial value), e.g. a state-independent log std.
        split: Number of trailing hidden layers that belong to the *tail* (tail = those layers + all heads).
        copies: Frozen copies of the tail to allocate; their outputs are added to the live ones with a sign.
        writers: Which method set ``split`` / ``copies``.
    """

    name: str
    inputs: tuple[int, ...]
    body: tuple[LayerSpec, ...]
    heads: Mapping[str, HeadSpec]
    free: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    split: int = 0
    copies: int = 0
    writers: Writers = field(default_factory=dict)

    def set_hidden(self, by: str, layers: Collection[int] | None = None, **properties: Any) -> NetSpec:
        """Set properties of the hidden layers with these indices (None = all) on behalf of method `by`.

        ``act`` is not set where a layer is linear by design.

        Raises:
            SlotConflict: Another method has set one of them to a different value.
        """
        return replace(
            self,
            body=tuple(
                _write(layer, f"{self.name}/body.{i}", by, _applicable(layer, properties))
                if layers is None or i in layers
                else layer
                for i, layer in enumerate(self.body)
            ),
        )

    def set(self, by: str, **properties: Any) -> NetSpec:
        """Set properties of the network itself on behalf of method `by`; same conflict rule."""
        return _write(self, self.name, by, properties)


def _applicable(layer: LayerSpec, properties: Mapping[str, Any]) -> Mapping[str, Any]:
    if not layer.options.get("linear"):
        return properties
    return {k: v for k, v in properties.items() if k != "act"}


def _write(spec: Any, where: str, by: str, properties: Mapping[str, Any]) -> Any:
    for slot, value in properties.items():
        earlier = spec.writers.get(slot)
        if earlier is not None and earlier != by and getattr(spec, slot) != value:
            raise SlotConflict(
                f"methods {earlier!r} and {by!r} both set {slot!r} of {where} "
                f"({getattr(spec, slot)!r} and {value!r})",
                f"use only one of {earlier!r} and {by!r}",
            )
    return replace(spec, **properties, writers={**spec.writers, **dict.fromkeys(properties, by)})
