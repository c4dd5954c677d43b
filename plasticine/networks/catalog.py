"""Hidden layers by recipe: what the ``network`` group chooses from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plasticine.core.ranges import check_numbers
from plasticine.errors import UserError
from plasticine.networks.activations import activation
from plasticine.networks.initializers import Initializer
from plasticine.networks.spec import LayerSpec

__all__ = ["impala", "mlp", "nature_cnn"]


def mlp(
    *, hidden: Sequence[int], act: str, norm: str | None, init: str, gain: float, bias_init: str
) -> tuple[LayerSpec, ...]:
    """Fully connected hidden layers.

    Args:
        hidden: Units of each layer.
        act: Activation of every layer.
        norm: ``layer_norm``, ``rms_norm`` or None, between linear map and activation.
        init, gain: Weight initialiser.
        bias_init: ``zeros``, or ``uniform_fan_in`` (PyTorch's default).
    """
    if not hidden:
        raise UserError("network.hidden=[] must list the units of at least one layer")
    return _dense(hidden, act, norm, _Draws(init, gain, bias_init))


def nature_cnn(
    *,
    channels: Sequence[int],
    kernels: Sequence[int],
    strides: Sequence[int],
    hidden: Sequence[int],
    act: str,
    norm: str | None,
    init: str,
    gain: float,
    bias_init: str,
) -> tuple[LayerSpec, ...]:
    """Convolutions without padding, then fully connected layers (Mnih et al., Nature 518, 2015).

    Args:
        channels, kernels, strides: One entry per convolution.
        hidden: Units of each fully connected layer.
        act, norm, init, gain, bias_init: As in `mlp`, for every layer.

    Raises:
        UserError: The lists differ in length, or hold something else than positive whole numbers.
    """
    for name, values in (("channels", channels), ("kernels", kernels), ("strides", strides)):
        _counts(name, values)
        if len(values) != len(channels):
            raise UserError(
                f"network.{name} has {len(values)} entries, network.channels has {len(channels)}",
                "give one entry per convolution",
            )
    draws = _Draws(init, gain, bias_init)
    convolutions = tuple(
        _conv(c, act, norm, draws, kernel=k, stride=s)
        for c, k, s in zip(channels, kernels, strides, strict=True)
    )
    return convolutions + _dense(hidden, act, norm, draws)


def impala(
    *,
    channels: Sequence[int],
    blocks: int,
    hidden: Sequence[int],
    act: str,
    norm: str | None,
    init: str,
    gain: float,
    bias_init: str,
) -> tuple[LayerSpec, ...]:
    """The residual network of IMPALA (Espeholt et al., arXiv 1802.01561, figure 3), without its recurrence.

    Each stage is a 3x3 convolution and a 3x3 maximum over every other position, then residual blocks
    ``x + conv(act(conv(act(x))))``. The next stage reads the stream as it is; after the last stage it passes the
    activation and is flattened. A normalisation acts on the result of every convolution, before it is added.

    Args:
        channels: One entry per stage.
        blocks: Residual blocks per stage.
        hidden: Units of each fully connected layer.
        act, norm, init, gain, bias_init: As in `mlp`, for every layer.

    Raises:
        UserError: A number is not a positive whole one.
    """
    _counts("channels", channels)
    _counts("blocks", [blocks])
    draws = _Draws(init, gain, bias_init)
    layers: list[LayerSpec] = []
    for stage, c in enumerate(channels):
        same: dict[str, Any] = {"kernel": 3, "stride": 1, "padding": 1}
        layers.append(_conv(c, act, norm, draws, **same, pool=(3, 2, 1), stream="open"))
        for block in range(blocks):
            layers.append(_conv(c, act, norm, draws, **same))
            if block + 1 < blocks or stage + 1 == len(channels):
                layers.append(_conv(c, act, norm, draws, **same, stream="add"))
            else:  # the next stage's convolution follows without a non-linearity
                layers.append(_conv(c, "identity", norm, draws, **same, stream="add", linear=True))
    return (*layers, *_dense(hidden, act, norm, draws))


class _Draws:
    """Initialisers of the layers of one network."""

    def __init__(self, init: str, gain: float, bias_init: str) -> None:
        check_numbers("network", "[0, inf)", gain=gain)
        self.weight = Initializer(init, gain)
        self.bias = Initializer("constant", 0.0) if bias_init == "zeros" else Initializer(bias_init)


def _counts(name: str, values: Sequence[int]) -> None:
    if not values or any(not isinstance(v, int) or v < 1 for v in values):
        raise UserError(f"network.{name}={list(values)} must list positive whole numbers")


def _dense(hidden: Sequence[int], act: str, norm: str | None, draws: _Draws) -> tuple[LayerSpec, ...]:
    activation(act)
    if hidden:
        _counts("hidden", hidden)
    return tuple(LayerSpec("dense", h, act, norm, draws.weight, draws.bias) for h in hidden)


def _conv(width: int, act: str, norm: str | None, draws: _Draws, **options: Any) -> LayerSpec:
    return LayerSpec("conv", width, act, norm, draws.weight, draws.bias, options=options)
