"""What a built network consists of: kinds of tensors, and which weights make and read each hidden unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from plasticine.networks.initializers import Initializer

__all__ = ["Anatomy", "Consumer", "TensorInfo", "UnitGroup"]


@dataclass(frozen=True)
class TensorInfo:
    """Facts about one trainable tensor.

    Attributes:
        net: Network it belongs to.
        role: ``encoder`` (hidden layers), ``head`` (read-outs) or ``free`` (input-independent).
        kind: ``weight``, ``bias``, ``norm_scale``, ``norm_offset`` or ``free``.
        layer: ``body.<i>``, ``head.<name>`` or the parameter's own name.
        init: How it is drawn.
    """

    net: str
    role: str
    kind: str
    layer: str
    init: Initializer


@dataclass(frozen=True)
class Consumer:
    """A weight that reads a group of units.

    Attributes:
        weight: Full name of the tensor [out, in, ...] (trainable, or a frozen copy).
        columns: int64 [units, k]: the columns (dimension 1) of `weight` that read unit i.
    """

    weight: str
    columns: Tensor


@dataclass(frozen=True)
class UnitGroup:
    """The hidden units of one layer. A unit is one row of a linear map or one channel of a convolution,
    before a width-changing activation.

    Attributes:
        net, site: Network name and activation site (``body.<i>``).
        units: Number of units.
        act, expansion: Activation name and columns per unit.
        weight, bias, norm_scale, norm_offset: Full names of the tensors that make them (None if absent).
        consumers: Every weight that reads them, heads and frozen copies included.
        residual: True if the units live on a residual stream (a skip path reads them as well).
    """

    net: str
    site: str
    units: int
    act: str
    expansion: int
    weight: str
    bias: str | None
    norm_scale: str | None
    norm_offset: str | None
    consumers: tuple[Consumer, ...]
    residual: bool = False


@dataclass(frozen=True)
class Anatomy:
    """Index over the tensors of one or several networks. Names are ``<net>/<layer>.<tensor>``."""

    tensors: Mapping[str, TensorInfo]
    shapes: Mapping[str, tuple[int, ...]]
    units: tuple[UnitGroup, ...]

    @staticmethod
    def merge(parts: Sequence[Anatomy]) -> Anatomy:
        """Join the anatomies of several networks."""
        return Anatomy(
            {k: v for p in parts for k, v in p.tensors.items()},
            {k: v for p in parts for k, v in p.shapes.items()},
            tuple(u for p in parts for u in p.units),
        )

    def within(self, names: Sequence[str]) -> Anatomy:
        """Restrict to tensors in `names` and to unit groups whose incoming weight is among them."""
        keep = set(names)
        return Anatomy(
            {k: v for k, v in self.tensors.items() if k in keep},
            {k: v for k, v in self.shapes.items() if k in keep},
            tuple(u for u in self.units if u.weight in keep),
        )

    def names(self, *, kinds: Sequence[str] | None = None, roles: Sequence[str] | None = None) -> list[str]:
        """Names of the tensors of the given kinds and roles, in network order."""
        return [
            name
            for name, info in self.tensors.items()
            if (kinds is None or info.kind in kinds) and (roles is None or info.role in roles)
        ]

    def fresh(self, name: str, generator: Generator) -> Tensor:
        """A new draw of tensor `name` from its own initialiser (CPU float32)."""
        return self.tensors[name].init.draw_(torch.empty(self.shapes[name]), generator)

    def fresh_rows(self, name: str, count: int, generator: Generator) -> Tensor:
        """New values for `count` rows (units) of tensor `name`, without drawing the others (CPU float32).

        Each entry has the distribution that it has in a fresh draw. Rows of an orthogonal draw are orthogonal to
        each other and have the length that rows of the whole tensor have on average (root mean square).
        """
        init, shape = self.tensors[name].init, self.shapes[name]
        part = (count, *shape[1:])
        rows = init.draw_(torch.empty(part), generator)
        whole, drawn = init.std(shape), init.std(part)
        return rows if whole == drawn else rows.mul_(whole / drawn)
