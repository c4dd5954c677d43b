"""Built networks against plain PyTorch, and the map of who reads whom against brute force."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from plasticine.core.noise import Streams
from plasticine.errors import UserError
from plasticine.networks.activations import activation
from plasticine.networks.build import build
from plasticine.networks.catalog import impala, mlp, nature_cnn
from plasticine.networks.initializers import Initializer
from plasticine.networks.spec import HeadSpec, LayerSpec, NetSpec, SlotConflict

ZERO = Initializer("constant", 0.0)
UNIFORM = Initializer("uniform_fan_in", 1.0)
CPU = torch.device("cpu")


def heads(**sizes):
    return {k: HeadSpec(v, UNIFORM, UNIFORM) for k, v in sizes.items()}


def dense(width, act="relu", norm=None):
    return LayerSpec("dense", width, act, norm, UNIFORM, UNIFORM)


def conv(width, act="relu", norm=None):
    return LayerSpec(
        "conv", width, act, norm, UNIFORM, UNIFORM, options={"kernel": 3, "stride": 2, "padding": 1}
    )


SAME = {"kernel": 3, "stride": 1, "padding": 1}
COMMON = {"act": "relu", "norm": None, "init": "uniform_fan_in", "gain": 2.0, "bias_init": "uniform_fan_in"}


def nature(**changes):
    sizes = {"channels": [4, 5, 6], "kernels": [8, 4, 3], "strides": [4, 2, 1], "hidden": [7]}
    return nature_cnn(**{**COMMON, **sizes, **changes})


def residual(**changes):
    return impala(**{**COMMON, "channels": [3, 4, 5], "blocks": 2, "hidden": [7], **changes})


def built(spec, seed=0):
    streams = Streams(seed)
    return build(spec, lambda name: streams.once("init", name), CPU)


SPECS = {
    "mlp": NetSpec("n", (6,), (dense(8), dense(7)), heads(a=3)),
    "two_heads": NetSpec("n", (6,), (dense(8), dense(7)), heads(a=3, b=1)),
    "crelu": NetSpec("n", (6,), (dense(8, "crelu"), dense(7, "crelu")), heads(a=3)),
    "fourier": NetSpec("n", (6,), (dense(8, "fourier"), dense(7, "fourier")), heads(a=3, b=2)),
    "conv": NetSpec("n", (3, 8, 8), (conv(4), conv(5), dense(7)), heads(a=3)),
    "conv_crelu": NetSpec(
        "n", (3, 8, 8), (conv(4, "crelu"), conv(5, "crelu"), dense(7, "crelu")), heads(a=3)
    ),
    "conv_last": NetSpec("n", (3, 8, 8), (conv(4),), heads(a=3, b=1)),
    "norm": NetSpec("n", (6,), (dense(8, norm="layer_norm"), dense(7, norm="rms_norm")), heads(a=3)),
    "tail": NetSpec("n", (6,), (dense(8), dense(7)), heads(a=3, b=1), split=1, copies=2),
    "nature": NetSpec("n", (2, 36, 36), nature(), heads(a=3, b=1)),
    "nature_crelu": NetSpec("n", (2, 36, 36), nature(act="crelu"), heads(a=3)),
    "impala": NetSpec("n", (3, 12, 12), residual(), heads(a=3, b=1)),
    "impala_crelu": NetSpec("n", (3, 12, 12), residual(act="crelu"), heads(a=3)),
    "impala_norm": NetSpec("n", (3, 12, 12), residual(norm="layer_norm"), heads(a=3)),
    "impala_no_dense": NetSpec("n", (3, 12, 12), residual(hidden=[]), heads(a=3, b=1)),
    "impala_tail": NetSpec("n", (3, 12, 12), residual(), heads(a=3, b=1), split=1, copies=2),
    "impala_linear_tail": NetSpec("n", (3, 12, 12), residual(), heads(a=3, b=1), copies=2),
    "conv_tail": NetSpec("n", (3, 8, 8), (conv(4), dense(7)), heads(a=3), split=1, copies=2),
}


def test_mlp_equals_pytorch():
    network, _, _ = built(SPECS["mlp"])
    p = network.params
    reference = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
    for module, site in zip(
        (reference[0], reference[2], reference[4]), ("body.0", "body.1", "head.a"), strict=True
    ):
        module.weight.data, module.bias.data = p[f"{site}.weight"].data, p[f"{site}.bias"].data
    x = torch.randn(5, 6)
    assert torch.allclose(network(x)["a"], reference(x), atol=1e-6)


def with_params(module, params, site):
    module.weight.data, module.bias.data = params[f"{site}.weight"].data, params[f"{site}.bias"].data
    return module


def test_nature_cnn_equals_pytorch():
    network, _, _ = built(SPECS["nature"])
    p = network.params
    c, relu = nn.Conv2d, nn.ReLU()
    modules = [c(2, 4, 8, 4), c(4, 5, 4, 2), c(5, 6, 3, 1)]
    a, b, c3 = (with_params(m, p, f"body.{i}") for i, m in enumerate(modules))
    dense_, head = nn.Linear(6, 7), nn.Linear(7, 3)
    with_params(dense_, p, "body.3")
    with_params(head, p, "head.a")
    reference = nn.Sequential(a, relu, b, relu, c3, relu, nn.Flatten(), dense_, relu, head)
    x = torch.randn(5, 2, 36, 36, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(network(x)["a"], reference(x), atol=1e-5)


def impala_by_hand(p, x):
    """The network of figure 3 in arXiv 1802.01561, written out for three stages of two blocks."""
    layer = 0

    def conv(x):
        nonlocal layer
        y = nn.functional.conv2d(x, p[f"body.{layer}.weight"], p[f"body.{layer}.bias"], padding=1)
        layer += 1
        return y

    for _ in range(3):
        x = nn.functional.max_pool2d(conv(x), 3, 2, 1)
        for _ in range(2):
            x = x + conv(torch.relu(conv(torch.relu(x))))
    h = torch.relu(nn.functional.linear(torch.relu(x).flatten(1), p["body.15.weight"], p["body.15.bias"]))
    return nn.functional.linear(h, p["head.a.weight"], p["head.a.bias"])


def test_impala_equals_pytorch():
    network, _, _ = built(SPECS["impala"])
    x = torch.randn(5, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    expected = impala_by_hand(network.params, x)
    assert torch.allclose(network(x)["a"], expected, atol=1e-5)
    assert expected.std() > 0.05
    mine, theirs = (
        torch.autograd.grad(y.square().sum(), [v for k, v in network.params.items() if "head.b" not in k])
        for y in (network(x)["a"], impala_by_hand(network.params, x))
    )
    assert all(torch.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(mine, theirs, strict=True))


def test_impala_tells_streams_from_units_that_can_be_recycled():
    """Per block: the first convolution's units are read once; the others add up to a stream."""
    _, anatomy, _ = built(SPECS["impala"])
    free = [g.site for g in anatomy.units if not g.residual]
    assert free == [f"body.{i}" for i in (1, 3, 6, 8, 11, 13, 15)]
    streams = {g.site: [c.weight for c in g.consumers] for g in anatomy.units if g.residual}
    assert list(streams) == [f"body.{i}" for i in (0, 2, 5, 7, 10, 12, 14)]  # 4 and 9 are linear
    assert streams["body.0"] == ["n/body.1.weight", "n/body.3.weight", "n/body.5.weight"]
    assert streams["body.14"] == ["n/body.15.weight"]


def test_layers_without_a_non_linearity_keep_none():
    spec = SPECS["impala"].set_hidden("crelu", act="crelu").set_hidden("layer_norm", norm="layer_norm")
    assert [i for i, layer in enumerate(spec.body) if layer.act == "identity"] == [4, 9]
    assert all(layer.norm == "layer_norm" for layer in spec.body)
    network, _, _ = built(spec)
    assert network.params["body.1.weight"].shape == (3, 6, 3, 3)
    assert network.params["body.5.weight"].shape == (4, 3, 3, 3)
    assert network.params["body.15.weight"].shape == (7, 2 * 5 * 2 * 2)


def test_convolutions_are_normalised_over_channels_and_positions():
    spec = NetSpec("n", (3, 8, 8), (conv(4, norm="layer_norm"),), heads(a=1))
    network, _, _ = built(spec)
    p, x = network.params, torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        p["body.0.norm_scale"].copy_(torch.arange(4) + 0.5)
        p["body.0.norm_offset"].copy_(torch.arange(4) - 1.0)
    z = nn.functional.conv2d(x, p["body.0.weight"], p["body.0.bias"], 2, 1)
    z = (z - z.mean((1, 2, 3), keepdim=True)) / (z.var((1, 2, 3), correction=0, keepdim=True) + 1e-5).sqrt()
    z = z * p["body.0.norm_scale"].view(-1, 1, 1) + p["body.0.norm_offset"].view(-1, 1, 1)
    assert torch.allclose(network.capture(x).sites[0].pre, z, atol=1e-5)


@pytest.mark.parametrize("name", ["nature", "impala", "impala_norm", "impala_crelu"])
def test_images_stay_laid_out_with_channels_last(name):
    """Otherwise a convolution on a CPU takes several times as long; parameters are not laid out differently."""
    network, _, _ = built(SPECS[name])
    captured = network.capture(torch.randn(4, *SPECS[name].inputs))
    images = [t for s in captured.sites for t in (s.pre, s.post) if t.dim() == 4 and t.shape[2] > 1]
    assert len(images) > 3
    assert all(t.is_contiguous(memory_format=torch.channels_last) for t in images)
    assert all(v.is_contiguous() for v in network.params.values())


def test_normalisation_stands_between_map_and_activation():
    network, _, _ = built(SPECS["norm"])
    p, x = network.params, torch.randn(5, 6)
    z = nn.functional.linear(x, p["body.0.weight"], p["body.0.bias"])
    h = torch.relu((z - z.mean(1, keepdim=True)) / (z.var(1, correction=0, keepdim=True) + 1e-5).sqrt())
    z = nn.functional.linear(h, p["body.1.weight"], p["body.1.bias"])
    h = torch.relu(z / (z.square().mean(1, keepdim=True) + 1e-5).sqrt())
    assert torch.allclose(
        network(x)["a"], nn.functional.linear(h, p["head.a.weight"], p["head.a.bias"]), atol=1e-5
    )


@pytest.mark.parametrize("name", SPECS)
def test_unit_groups_name_exactly_the_readers(name):
    """Perturbing a unit's incoming row changes the output; zeroing the columns that the anatomy names cuts it off."""
    spec = SPECS[name]
    network, anatomy, buffers = built(spec)
    if spec.copies:
        with torch.no_grad():
            for k, v in buffers.items():
                if k not in ("n/frozen.signs", "n/frozen.active"):
                    v.copy_(torch.randn_like(v))
            network.signs.copy_(torch.tensor([1.0, -1.0]))
        network.activate(2)
    g = torch.Generator().manual_seed(1)
    x = torch.randn(256, *spec.inputs, generator=g)
    tensors = {**{f"n/{k}": v for k, v in network.params.items()}, **buffers}
    saved = {k: v.detach().clone() for k, v in tensors.items()}

    def moved(group, unit, kept):
        """Whether the unit's incoming row shows in the output if only consumer `kept` reads the unit."""
        with torch.no_grad():
            for j, consumer in enumerate(group.consumers):
                if j != kept:
                    tensors[consumer.weight][:, consumer.columns[unit]] = 0.0
            before = {h: y.clone() for h, y in network(x).items()}
            row = tensors[group.weight][unit]
            row += 10.0 * torch.randn(row.shape, generator=g)
            after = network(x)
            for k, v in tensors.items():
                v.copy_(saved[k])
        return any(not torch.allclose(before[h], after[h], atol=1e-4) for h in before)

    assert len(anatomy.units) == sum(not layer.options.get("linear") for layer in spec.body)
    for group in anatomy.units:
        assert group.consumers
        for unit in (0, group.units - 1):
            coupled = group.norm_scale is not None  # a norm couples the units of its layer
            assert coupled or not moved(group, unit, kept=None), (group.site, unit, "has another reader")
            for j, consumer in enumerate(group.consumers):
                assert consumer.columns.shape[0] == group.units
                draws = (moved(group, unit, kept=j) for _ in range(8))  # a draw may leave a unit silent
                assert any(draws), (group.site, unit, consumer.weight, "does not read it")


@pytest.mark.parametrize("name", SPECS)
def test_capture_agrees_with_the_forward_pass(name):
    spec = SPECS[name]
    network, anatomy, _ = built(spec)
    x = torch.randn(4, *spec.inputs)
    c = network.capture(x)
    assert all(torch.equal(c.outputs[h], y) for h, y in network(x).items())
    assert [s.name for s in c.sites] == [u.site for u in anatomy.units]
    for site, group in zip(c.sites, anatomy.units, strict=True):
        assert site.pre.shape[1] == group.units
        assert site.post.shape[1] == group.units * group.expansion
        assert torch.equal(activation(site.act).fn(site.pre), site.post)
    assert torch.equal(c.features, c.sites[-1].post.flatten(1))


def test_adding_a_norm_leaves_every_other_tensor_alone():
    plain, _, _ = built(SPECS["mlp"], seed=3)
    normed, _, _ = built(SPECS["mlp"].set_hidden("layer_norm", norm="layer_norm"), seed=3)
    assert all(torch.equal(v, normed.params[k]) for k, v in plain.params.items())
    other, _, _ = built(SPECS["mlp"], seed=4)
    assert not torch.equal(plain.params["body.0.weight"], other.params["body.0.weight"])


def test_kinds_and_roles():
    _, anatomy, _ = built(replace(SPECS["norm"], free={"log_std": (2, -1.0)}))
    assert anatomy.names(kinds=["norm_scale"]) == ["n/body.0.norm_scale", "n/body.1.norm_scale"]
    assert anatomy.names(kinds=["norm_offset"]) == ["n/body.0.norm_offset"]
    assert anatomy.names(roles=["head"]) == ["n/head.a.weight", "n/head.a.bias"]
    assert anatomy.names(kinds=["free"]) == ["n/log_std"]
    assert anatomy.within(["n/body.1.weight"]).units[0].site == "body.1"


def test_slot_conflicts_are_loud_and_agreement_is_fine():
    spec = SPECS["mlp"].set_hidden("crelu", act="crelu")
    assert all(layer.act == "crelu" for layer in spec.body)
    assert spec.set_hidden("other", act="crelu").body == spec.set_hidden("other", act="crelu").body
    with pytest.raises(SlotConflict, match=r"'crelu' and 'fourier' both set 'act' of n/body\.0"):
        spec.set_hidden("fourier", act="fourier")
    assert spec.set_hidden("layer_norm", norm="layer_norm").body[0].act == "crelu"


@pytest.mark.parametrize(
    ("init", "shape"),
    [
        (Initializer("orthogonal", 1.4), (64, 32)),
        (Initializer("orthogonal", 0.5), (32, 64)),
        (Initializer("orthogonal", 1.0), (16, 4, 3, 3)),
        (Initializer("uniform_fan_in", 1.0), (64, 32)),
        (Initializer("he_normal", 1.0), (64, 32)),
        (Initializer("uniform_fan_in", 1.0, 32), (4096,)),
    ],
)
def test_initialisers_have_the_moments_they_claim(init, shape):
    g = torch.Generator().manual_seed(0)
    draws = torch.stack([init.draw_(torch.empty(shape), g) for _ in range(30)])
    assert draws.std().item() == pytest.approx(init.std(shape), rel=0.03)
    assert draws.mean().item() == pytest.approx(
        init.mean(), abs=4 * init.std(shape) / draws.numel() ** 0.5 + 1e-3
    )
    assert not torch.equal(draws[0], draws[1])
    if init.kind == "orthogonal":
        w = draws[0].flatten(1)
        gram = w @ w.T if w.shape[0] <= w.shape[1] else w.T @ w
        assert torch.allclose(gram, init.gain**2 * torch.eye(len(gram)), atol=1e-4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: built(replace(SPECS["mlp"], body=())), "no hidden layer"),
        (lambda: built(NetSpec("n", (6,), (dense(8, "reluu"),), heads(a=1))), "did you mean 'relu'"),
        (
            lambda: built(NetSpec("n", (6,), (dense(8, norm="layernorm"),), heads(a=1))),
            "did you mean 'layer_norm'",
        ),
        (
            lambda: built(NetSpec("n", (6,), (conv(8),), heads(a=1))),
            "is a convolution but its input",
        ),
        (lambda: built(replace(SPECS["impala"], split=2, copies=1)), "begin inside a residual stream"),
        (
            lambda: built(
                NetSpec("n", (3, 8, 8), (replace(conv(8), options={**SAME, "stream": "add"}),), {})
            ),
            "none was opened",
        ),
        (
            lambda: built(
                NetSpec(
                    "n",
                    (3, 8, 8),
                    (
                        replace(conv(8), options={**SAME, "stream": "open"}),
                        replace(conv(4), options={**SAME, "stream": "add"}),
                    ),
                    {},
                )
            ),
            "makes 4 units",
        ),
        (lambda: built(replace(SPECS["nature"], inputs=(2, 30, 30))), "does not fit an input of size"),
        (lambda: residual(channels=[]), "network.channels="),
        (lambda: residual(blocks=0), "network.blocks="),
        (lambda: nature(kernels=[8, 4]), "network.kernels has 2 entries, network.channels has 3"),
        (lambda: nature(hidden=[0]), "network.hidden="),
        (lambda: Initializer("orthogonl"), "did you mean 'orthogonal'"),
        (
            lambda: mlp(hidden=[], act="relu", norm=None, init="orthogonal", gain=1.0, bias_init="zeros"),
            "at least one layer",
        ),
    ],
)
def test_impossible_networks_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()
