"""A built network: a pure function of (parameters, input) plus the tensors it was built with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from plasticine.networks.tap import LayerFn, LocalParams, Site, Tap

__all__ = ["Capture", "Layer", "LayerFn", "LocalParams", "Network", "Site"]


class Layer(NamedTuple):
    """A hidden layer, ready to be evaluated.

    Attributes:
        name: Activation site (``body.<i>``).
        fn: Its forward function.
        act, expansion: Activation name and columns per unit.
        streams: Its pre-activation is the residual stream that later layers add to.
        site: Whether it counts as an activation site (False: the layer is linear by design).
    """

    name: str
    fn: LayerFn
    act: str
    expansion: int
    streams: bool
    site: bool


class Capture(NamedTuple):
    """One forward pass with everything kept."""

    outputs: dict[str, Tensor]
    sites: tuple[Site, ...]
    features: Tensor


class Network:
    """Evaluates a `NetSpec`. Tensors are fixed after construction: only their values change.

    With frozen copies the output of each head is ``live(x) + sum_j sign_j * frozen_j(x)`` over the active
    copies; gradients flow through all of them into the trunk, but only live tensors are trainable.

    Images are laid out with channels last in memory (their shape stays [n, channels, height, width]), which is
    several times faster on CPUs; parameters and the meaning of flattened features do not depend on it.

    Attributes:
        name: Network name; parameters are called ``<name>/<local name>`` outside.
        params: Trainable tensors by local name.
        frozen: One dict per copy: tail tensors by local name (never trainable).
        signs: float32 [copies], +1 or -1 for active copies.
    """

    def __init__(
        self,
        name: str,
        layers: list[Layer],
        heads: tuple[str, ...],
        params: dict[str, Tensor],
        split: int,
        frozen: list[dict[str, Tensor]],
        signs: Tensor,
        active: Tensor,
    ) -> None:
        self.name = name
        self.params = params
        self.frozen = frozen
        self.signs = signs
        self._active_tensor = active
        self._layers = layers
        self._split = split
        self._tap: Tap | None = None
        self._arrange([layer.fn for layer in layers])
        self._heads = [(h, f"head.{h}.weight", f"head.{h}.bias") for h in heads]
        self._copies: list[tuple[float, dict[str, Tensor]]] = []
        self.refresh()

    def _arrange(self, fns: Sequence[LayerFn]) -> None:
        pairs = [(fn, layer.streams) for fn, layer in zip(fns, self._layers, strict=True)]
        first = len(pairs) - self._split
        self._trunk, self._tail = pairs[:first], pairs[first:]

    def tap(self) -> Tap:
        """Let evaluations be looked at from now on. A network that nobody taps does not pay for the possibility."""
        if self._tap is None:
            self._tap = tap = Tap(self.params)
            self._arrange(
                [
                    tap.around(layer.name, layer.fn, layer.act, layer.expansion) if layer.site else layer.fn
                    for layer in self._layers
                ]
            )
        return self._tap

    @property
    def active(self) -> int:
        """Number of frozen copies in use."""
        return len(self._copies)

    def refresh(self) -> None:
        """Re-read the number of active copies after it was written (an injection, a loaded checkpoint)."""
        count = int(self._active_tensor)
        self._copies = [(float(self.signs[j]), self.frozen[j]) for j in range(count)]

    def activate(self, count: int) -> None:
        """Use the first `count` frozen copies."""
        self._active_tensor.fill_(count)
        self.refresh()

    def __call__(self, x: Tensor, params: LocalParams | None = None) -> dict[str, Tensor]:
        """Evaluate all heads on x [n, *inputs]; `params` replaces the network's own (same names)."""
        p = self.params if params is None else params
        x = stream = _laid_out(x)
        for layer, streams in self._trunk:
            pre, x = layer(x, stream, p)
            if streams:
                stream = pre
        out = self._read(x, p)
        for sign, copy in self._copies:
            for head, y in self._read(x, copy).items():
                out[head] = torch.add(out[head], y, alpha=sign)
        return out

    def _read(self, x: Tensor, p: LocalParams) -> dict[str, Tensor]:
        stream = x
        for layer, streams in self._tail:
            pre, x = layer(x, stream, p)
            if streams:
                stream = pre
        if x.dim() > 2:
            x = x.flatten(1)
        return {head: torch.nn.functional.linear(x, p[w], p[b]) for head, w, b in self._heads}

    def capture(self, x: Tensor, params: LocalParams | None = None) -> Capture:
        """Evaluate and keep the activations of every site (live path); `params` as in a call."""
        outputs = self(x, params) if self._copies else None
        p = self.params if params is None else params
        sites = []
        x = stream = _laid_out(x)
        for name, layer, act, expansion, streams, site in self._layers:
            pre, x = layer(x, stream, p)
            if streams:
                stream = pre
            if site:
                sites.append(Site(name, pre, x, act, expansion))
        features = x.flatten(1)
        if outputs is None:
            outputs = {h: torch.nn.functional.linear(features, p[w], p[b]) for h, w, b in self._heads}
        return Capture(outputs, tuple(sites), features)


def _laid_out(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x
