"""From a description to tensors: `NetSpec` -> `Network` + `Anatomy`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from plasticine.errors import UserError, nearest
from plasticine.networks.activations import activation
from plasticine.networks.anatomy import Anatomy, Consumer, TensorInfo, UnitGroup
from plasticine.networks.initializers import Initializer
from plasticine.networks.network import LayerFn, LocalParams, Network
from plasticine.networks.spec import LayerSpec, NetSpec

__all__ = ["build"]

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
    if norm is None:

        def forward(x: Tensor, p: LocalParams) -> tuple[Tensor, Tensor]:
            z = linear(x, p)
            return z, act(z)
    else:

        def forward(x: Tensor, p: LocalParams) -> tuple[Tensor, Tensor]:
            z = norm(linear(x, p), p)
            return z, act(z)

    return forward


def _norm_fn(i: int, layer: LayerSpec) -> Callable[[Tensor, LocalParams], Tensor] | None:
    """Normalisation of hidden layer i over everything but the batch; scale and offset per unit."""
    scale, offset = f"body.{i}.norm_scale", f"body.{i}.norm_offset"
    eps = float(layer.options.get("norm_eps", 1e-5))
    conv = layer.kind == "conv"

    def layer_norm(z: Tensor, p: LocalParams) -> Tensor:
        if not conv:
            return F.layer_norm(z, z.shape[1:], p[scale], p[offset], eps)
        z = F.layer_norm(z, z.shape[1:], None, None, eps)
        return z * p[scale].view(-1, 1, 1) + p[offset].view(-1, 1, 1)

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
    out = (size + 2 * int(layer.options.get("padding", 0)) - int(layer.options["kernel"])) // int(
        layer.options["stride"]
    ) + 1
    if out < 1:
        raise UserError(
            f"a convolution with kernel {layer.options['kernel']} does not fit an input of size {size}"
        )
    return out


def _fan_in(init: Initializer, fan_in: int) -> Initializer:
    return Initializer(init.kind, init.gain, fan_in) if init.kind in ("uniform_fan_in", "he_normal") else init


def _columns(units: int, expansion: int, space: int) -> Tensor:
    """Columns [units, expansion * space] that read unit i: expansion halves, channel-major flattening."""
    halves = torch.arange(units)[:, None] + units * torch.arange(expansion)[None, :]
    return (halves[:, :, None] * space + torch.arange(space)[None, None, :]).reshape(units, -1)


class _Layout:
    """Walks through a spec once, working out shapes, tensor names and readers."""

    def __init__(self, spec: NetSpec) -> None:
        self.spec = spec
        self.tensors = _Tensors()
        self.layers: list[tuple[str, LayerFn, str, int]] = []
        self.groups: list[tuple[int, int, int, int]] = []  # (layer, units, expansion, space when flattened)
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
                    f"{net}/{site} is a convolution but its input has shape {shape}", "use network=mlp"
                )
            kernel = int(layer.options["kernel"])
            weight = (layer.width, shape[0], kernel, kernel)
            out = (layer.width * act.expansion, _conv_size(shape[1], layer), _conv_size(shape[2], layer))
        elif layer.kind == "dense":
            weight = (layer.width, math.prod(shape))
            out = (layer.width * act.expansion,)
        else:
            raise UserError(f"unknown layer kind {layer.kind!r}", "use dense or conv")
        self.layers.append((site, _layer_fn(i, layer, len(shape) > 1), layer.act, act.expansion))
        self.groups.append((i, layer.width, act.expansion, math.prod(out[1:])))
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
        net, last = self.spec.name, len(self.spec.body) - 1
        trunk_end = last - self.spec.split
        found = []
        for i, units, expansion, space in self.groups:
            to_conv = i < last and self.spec.body[i + 1].kind == "conv"
            columns = _columns(units, expansion, 1 if to_conv else space)
            readers = [f"body.{i + 1}.weight"] if i < last else [f"head.{h}.weight" for h in self.spec.heads]
            names = [f"{net}/{r}" for r in readers]
            if i == trunk_end:  # frozen copies of the tail read the trunk's last units as well
                names += [f"{net}/frozen.{j}.{r}" for j in range(self.spec.copies) for r in readers]
            own = {
                k: f"{net}/body.{i}.{k}" if f"body.{i}.{k}" in self.tensors.shapes else None
                for k in ("bias", "norm_scale", "norm_offset")
            }
            consumers = tuple(Consumer(n, columns) for n in names)
            found.append(
                UnitGroup(
                    net,
                    f"body.{i}",
                    units,
                    self.spec.body[i].act,
                    expansion,
                    f"{net}/body.{i}.weight",
                    own["bias"],
                    own["norm_scale"],
                    own["norm_offset"],
                    consumers,
                )
            )
        return tuple(found)


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
