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
from plasticine.networks.catalog import mlp
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
    x = torch.randn(64, *spec.inputs)
    tensors = {**{f"n/{k}": v for k, v in network.params.items()}, **buffers}
    assert len(anatomy.units) == len(spec.body)
    for group in anatomy.units:
        saved = {k: v.detach().clone() for k, v in tensors.items()}
        unit = group.units - 1
        with torch.no_grad():
            for consumer in group.consumers:
                tensors[consumer.weight][:, consumer.columns[unit]] = 0.0
            cut = {h: y.clone() for h, y in network(x).items()}
            tensors[group.weight][unit] += 10.0 * torch.randn_like(tensors[group.weight][unit])
            if (
                group.norm_scale is None
            ):  # a norm couples the units of a layer: rows are not independent there
                still = network(x)
                assert all(torch.allclose(cut[h], still[h], atol=1e-4) for h in cut), (name, group.site)
            for k, v in tensors.items():
                v.copy_(saved[k])
            original = network(x)
            assert any(not torch.allclose(cut[h], original[h], atol=1e-4) for h in cut) or not activation(
                group.act
            )
            readers = sum(len(c.columns[unit]) for c in group.consumers)
            assert readers > 0


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
