"""From a description to tensors: `NetSpec` -> `Network` + `Anatomy`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from plasticine.errors import UserError, nearest
from plasticine.networks.activations import activation
from plasticine.networks.anatomy import Anatomy, Consumer, TensorInfo, UnitGroup
from plasticine.networks.initializers import Initializer
from plasticine.networks.network import Layer, LayerFn, LocalParams, Network
from plasticine.networks.spec import LayerSpec, NetSpec
from plasticine.networks.streams import Streams

__all__ = ["build", "check_layout", "parameter_count"]

_ONE = Initializer("constant", 1.0)
_ZERO = Initializer("constant", 0.0)


class _Tensors:
    """Collects the tensors of one network while its layers are laid out."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.infos: dict[str, TensorInfo] = {}

    def add(
        self, net: str, local: str, shape: tuple[int, ...], info: tuple[str, str, str], init: Initializer
    ) -> None:
        role, kind, layer = info
        self.shapes[local] = shape
        self.infos[local] = TensorInfo(net, role, kind, layer, init)


def _layer_fn(i: int, layer: LayerSpec, flatten: bool) -> LayerFn:
    """The forward function of hidden layer i; what can be decided now is not decided again per call."""
    w, b = f"body.{i}.weight", f"body.{i}.bias"
    act = activation(layer.act).fn
    bias = layer.bias
    if layer.kind == "conv":
        stride, padding = int(layer.options["stride"]), int(layer.options.get("padding", 0))

        def linear(x: Tensor, p: LocalParams) -> Tensor:
            return F.conv2d(x, p[w], p[b] if bias else None, stride, padding)
    elif flatten:

        def linear(x: Tensor, p: LocalParams) -> Tensor:
            return F.linear(x.flatten(1), p[w], p[b] if bias else None)
    else:

        def linear(x: Tensor, p: LocalParams) -> Tensor:
            return F.linear(x, p[w], p[b] if bias else None)

    norm = _norm_fn(i, layer)
    pool = _pool_fn(layer)
    adds = layer.options.get("stream") == "add"
    if norm is None and pool is None and not adds:

        def forward(x: Tensor, stream: Tensor, p: LocalParams) -> tuple[Tensor, Tensor]:
            z = linear(x, p)
            return z, act(z)
    else:

        def forward(x: Tensor, stream: Tensor, p: LocalParams) -> tuple[Tensor, Tensor]:
            z = linear(x, p)
            if norm is not None:
                z = norm(z, p)
            if pool is not None:
                z = pool(z)
            if adds:
                z = z + stream
            return z, act(z)

    return forward


def _pool_fn(layer: LayerSpec) -> Callable[[Tensor], Tensor] | None:
    pool = layer.options.get("pool")
    if pool is None:
        return None
    kernel, stride, padding = (int(n) for n in pool)
    return lambda z: F.max_pool2d(z, kernel, stride, padding)


def _norm_fn(i: int, layer: LayerSpec) -> Callable[[Tensor, LocalParams], Tensor] | None:
    """Normalisation of hidden layer i over everything but the batch; scale and offset per unit."""
    scale, offset = f"body.{i}.norm_scale", f"body.{i}.norm_offset"
    eps = float(layer.options.get("norm_eps", 1e-5))
    conv = layer.kind == "conv"

    def layer_norm(z: Tensor, p: LocalParams) -> Tensor:
        if not conv:
            return F.layer_norm(z, z.shape[1:], p[scale], p[offset], eps)
        return F.group_norm(z, 1, p[scale], p[offset], eps)  # one group: keeps the layout in memory

    def rms_norm(z: Tensor, p: LocalParams) -> Tensor:
        gain = p[scale].view(-1, 1, 1) if conv else p[scale]
        return z * torch.rsqrt(z.square().mean(tuple(range(1, z.dim())), keepdim=True) + eps) * gain

    known = {None: None, "layer_norm": layer_norm, "rms_norm": rms_norm}
    if layer.norm not in known:
        raise UserError(
            f"unknown normalisation {layer.norm!r}", nearest(str(layer.norm), ["layer_norm", "rms_norm"])
        )
    return known[layer.norm]


def _conv_size(size: int, layer: LayerSpec) -> int:
    o = layer.options
    windows = {"a convolution": (o["kernel"], o["stride"], o.get("padding", 0))}
    if "pool" in o:
        windows["pooling"] = o["pool"]
    for what, window in windows.items():
        kernel, stride, padding = (int(n) for n in window)
        out = (size + 2 * padding - kernel) // stride + 1
        if out < 1:
            raise UserError(
                f"{what} with kernel {kernel} does not fit an input of size {size}",
                "choose a network for smaller images, or larger images",
            )
        size = out
    return size


def _fan_in(init: Initializer, fan_in: int) -> Initializer:
    return Initializer(init.kind, init.gain, fan_in) if init.kind in ("uniform_fan_in", "he_normal") else init


def _columns(units: int, expansion: int, space: int) -> Tensor:
    """Columns [units, expansion * space] that read unit i: expansion halves, channel-major flattening."""
    halves = torch.arange(units)[:, None] + units * torch.arange(expansion)[None, :]
    return (halves[:, :, None] * space + torch.arange(space)[None, None, :]).reshape(units, -1)


class _Produced(NamedTuple):
    """What one hidden layer makes: its units, as the next layer reads them."""

    units: int
    expansion: int
    positions: tuple[int, ...]  # height and width; empty for a dense layer


class _Layout:
    """Walks through a spec once, working out shapes, tensor names and readers."""

    def __init__(self, spec: NetSpec) -> None:
        self.spec = spec
        self.tensors = _Tensors()
        self.layers: list[Layer] = []
        self.produced: list[_Produced] = []
        self.streams = Streams(spec)
        if not spec.body:
            raise UserError(f"network {spec.name!r} has no hidden layer", "give it at least one")
        shape = spec.inputs
        for i, layer in enumerate(spec.body):
            shape = self._hidden(i, layer, shape)
        features = math.prod(shape)
        for head, h in spec.heads.items():
            site = f"head.{head}"
            self.tensors.add(
                spec.name, f"{site}.weight", (h.size, features), ("head", "weight", site), h.weight_init
            )
            init = _fan_in(h.bias_init, features)
            self.tensors.add(spec.name, f"{site}.bias", (h.size,), ("head", "bias", site), init)
        for free, (size, value) in spec.free.items():
            self.tensors.add(spec.name, free, (size,), ("free", "free", free), Initializer("constant", value))

    def _hidden(self, i: int, layer: LayerSpec, shape: tuple[int, ...]) -> tuple[int, ...]:
        site, add, net = f"body.{i}", self.tensors.add, self.spec.name
        act = activation(layer.act)
        out: tuple[int, ...]
        weight: tuple[int, ...]
        if layer.kind == "conv":
            if len(shape) != 3:
                raise UserError(
                    f"{net}/{site} is a convolution but its input of shape {shape} is no image",
                    "choose a network of dense layers",
                )
            kernel = int(layer.options["kernel"])
            weight = (layer.width, shape[0], kernel, kernel)
            out = (layer.width * act.expansion, _conv_size(shape[1], layer), _conv_size(shape[2], layer))
        elif layer.kind == "dense":
            weight = (layer.width, math.prod(shape))
            out = (layer.width * act.expansion,)
        else:
            raise UserError(f"unknown layer kind {layer.kind!r}", "use dense or conv")
        streams = self.streams.residual(i)
        fn = _layer_fn(i, layer, len(shape) > 1)
        is_site = not layer.options.get("linear", False)
        self.layers.append(Layer(site, fn, layer.act, act.expansion, streams, is_site))
        self.produced.append(_Produced(layer.width, act.expansion, out[1:]))
        if streams:
            first = self.produced[self.streams.opened_by(i)]
            if (first.units, first.positions) != (layer.width, out[1:]):
                raise UserError(
                    f"{net}/{site} makes {layer.width} units at positions {out[1:]}, but the residual stream it "
                    f"belongs to has {first.units} at {first.positions}"
                )
        add(net, f"{site}.weight", weight, ("encoder", "weight", site), layer.weight_init)
        if layer.bias:
            init = _fan_in(layer.bias_init, math.prod(weight[1:]))
            add(net, f"{site}.bias", (layer.width,), ("encoder", "bias", site), init)
        if layer.norm is not None:
            add(net, f"{site}.norm_scale", (layer.width,), ("encoder", "norm_scale", site), _ONE)
        if layer.norm == "layer_norm":
            add(net, f"{site}.norm_offset", (layer.width,), ("encoder", "norm_offset", site), _ZERO)
        return out

    def tail_names(self) -> list[str]:
        """Local names of the tensors that a frozen copy repeats."""
        first = len(self.spec.body) - self.spec.split
        sites = {f"body.{i}" for i in range(first, len(self.spec.body))} | {
            f"head.{h}" for h in self.spec.heads
        }
        return [name for name, info in self.tensors.infos.items() if info.layer in sites]

    def unit_groups(self) -> tuple[UnitGroup, ...]:
        """One group for every activation site."""
        net = self.spec.name
        found = []
        for i, layer in enumerate(self.layers):
            if not layer.site:
                continue
            own = {
                k: f"{net}/body.{i}.{k}" if f"body.{i}.{k}" in self.tensors.shapes else None
                for k in ("bias", "norm_scale", "norm_offset")
            }
            found.append(
                UnitGroup(
                    net,
                    layer.name,
                    self.produced[i].units,
                    layer.act,
                    layer.expansion,
                    f"{net}/body.{i}.weight",
                    own["bias"],
                    own["norm_scale"],
                    own["norm_offset"],
                    tuple(c for j in self.streams.carriers(i) for c in self._consumers(i, j)),
                    self.streams.residual(i),
                )
            )
        return tuple(found)

    def _consumers(self, i: int, carrier: int) -> list[Consumer]:
        """Weights that read the units of layer i in the result of layer `carrier` (i itself, or a later sum)."""
        net, count = self.spec.name, len(self.spec.body)
        made, reader = self.produced[carrier], carrier + 1
        to_conv = reader < count and self.spec.body[reader].kind == "conv"
        columns = _columns(made.units, made.expansion, 1 if to_conv else math.prod(made.positions))
        locals_ = (
            [f"body.{reader}.weight"] if reader < count else [f"head.{h}.weight" for h in self.spec.heads]
        )
        names = [f"{net}/{name}" for name in locals_]
        if i < count - self.spec.split <= reader:  # frozen copies of the tail read the trunk's last units too
            names += [f"{net}/frozen.{j}.{name}" for j in range(self.spec.copies) for name in locals_]
        return [Consumer(name, columns) for name in names]


def check_layout(spec: NetSpec) -> None:
    """Check that a network can be built, without allocating it.

    Raises:
        UserError: Its layers do not fit each other or the input.
    """
    _Layout(spec)


def parameter_count(spec: NetSpec) -> int:
    """Return how many scalars of a network are trained, without allocating it.

    Raises:
        UserError: Its layers do not fit each other or the input.
    """
    return sum(math.prod(shape) for shape in _Layout(spec).tensors.shapes.values())


def build(
    spec: NetSpec, generator_for: Callable[[str], Generator], device: torch.device
) -> tuple[Network, Anatomy, dict[str, Tensor]]:
    """Allocate and initialise a network.

    Args:
        spec: The description, all edits applied.
        generator_for: Gives each tensor its own CPU generator by full name, so that adding a tensor (a norm
            layer) leaves every other tensor's initial value alone.
        device: Where the tensors live.

    Returns:
        The network; its anatomy; and its non-trainable tensors by full name (frozen copies and their signs).
    """
    layout = _Layout(spec)
    params: dict[str, Tensor] = {}
    for local, info in layout.tensors.infos.items():
        value = info.init.draw_(
            torch.empty(layout.tensors.shapes[local]), generator_for(f"{spec.name}/{local}")
        )
        params[local] = value.to(device).requires_grad_(True)
    copied = layout.tail_names() if spec.copies else []
    frozen = [
        {n: torch.zeros_like(params[n], requires_grad=False) for n in copied} for _ in range(spec.copies)
    ]
    signs = torch.zeros(spec.copies)
    active = torch.zeros((), dtype=torch.int64)
    network = Network(spec.name, layout.layers, tuple(spec.heads), params, spec.split, frozen, signs, active)
    buffers = {f"{spec.name}/frozen.{j}.{n}": t for j, copy in enumerate(frozen) for n, t in copy.items()}
    if spec.copies:
        buffers |= {f"{spec.name}/frozen.signs": signs, f"{spec.name}/frozen.active": active}
    anatomy = Anatomy(
        {f"{spec.name}/{n}": i for n, i in layout.tensors.infos.items()},
        {f"{spec.name}/{n}": s for n, s in layout.tensors.shapes.items()},
        layout.unit_groups(),
    )
    return network, anatomy, buffers
