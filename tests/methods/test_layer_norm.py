from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.methods.layer_norm import LayerNorm
from plasticine.networks.build import build
from plasticine.networks.initializers import Initializer
from plasticine.networks.spec import HeadSpec, LayerSpec, NetSpec, SlotConflict
from tests.methods import lab


def by_hand(x, params, net, layers, eps):
    """The network in float64 numpy: linear, normalise, scale and shift, ReLU; then the head."""
    p = {k: v.double().numpy() for k, v in params.items()}
    h = x.double().numpy()
    for i in range(layers):
        z = h @ p[f"{net}/body.{i}.weight"].T + p[f"{net}/body.{i}.bias"]
        z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + eps)
        h = np.maximum(z * p[f"{net}/body.{i}.norm_scale"] + p[f"{net}/body.{i}.norm_offset"], 0.0)
    return h @ p[f"{net}/head.value.weight"].T + p[f"{net}/head.value.bias"]


def randomise(p, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for v in p.learner.state.params.values():
        v.data.copy_(torch.randn(v.shape, generator=generator))


def test_normalises_every_hidden_layer_before_the_activation():
    p = lab.parts(lab.nodes("layer_norm", eps=0.3))
    randomise(p)
    x = lab.observations(20)
    expected = by_hand(x, lab.params(p), "critic", 2, 0.3)
    np.testing.assert_allclose(lab.outputs(p, x)["critic/value"].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_starts_at_scale_one_and_offset_zero_on_actor_and_critic_and_not_on_heads():
    names = lab.params(lab.parts(lab.nodes("layer_norm")))
    scales = {k: v for k, v in names.items() if k.endswith("norm_scale")}
    offsets = {k: v for k, v in names.items() if k.endswith("norm_offset")}
    expected = {f"{net}/body.{i}" for net in ("actor", "critic") for i in (0, 1)}
    assert {k.rpartition(".")[0] for k in scales} == {k.rpartition(".")[0] for k in offsets} == expected
    assert all(bool((v == 1).all()) for v in scales.values())
    assert all(bool((v == 0).all()) for v in offsets.values())


def test_scaling_the_incoming_weights_changes_nothing():
    p = lab.parts(lab.nodes("layer_norm"), network={"bias_init": "uniform_fan_in"})
    x = lab.observations(50)
    before = lab.outputs(p, x)
    for name, v in p.learner.state.params.items():
        if "body" in name and name.endswith((".weight", ".bias")):
            v.data.mul_(7.0)
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)


def test_scope_selects_layers():
    names = lab.params(lab.parts(lab.nodes("layer_norm", scope=["actor/body.1.*"])))
    assert {k for k in names if "norm" in k} == {"actor/body.1.norm_scale", "actor/body.1.norm_offset"}


def test_convolutions_are_normalised_over_channels_and_positions():
    one = Initializer("orthogonal", 1.0)
    layer = LayerSpec(
        "conv", 3, "relu", None, one, Initializer("constant", 0.0), options={"kernel": 2, "stride": 1}
    )
    spec = NetSpec("q", (2, 5, 5), (layer,), {"value": HeadSpec(1, one, Initializer("constant", 0.0))})
    method = LayerNorm(eps=0.1, name="layer_norm", scope=["*"], when=[])
    net, _, _ = build(
        method.edit_network(spec), lambda name: torch.Generator().manual_seed(len(name)), torch.device("cpu")
    )
    net.params["body.0.norm_scale"].data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    net.params["body.0.norm_offset"].data.copy_(torch.tensor([0.5, -0.5, 0.0]))
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    z = torch.nn.functional.conv2d(x, net.params["body.0.weight"]).detach().double().numpy()
    z = (z - z.mean((1, 2, 3), keepdims=True)) / np.sqrt(z.var((1, 2, 3), keepdims=True) + 0.1)
    z = z * np.array([1.0, 2.0, 3.0])[:, None, None] + np.array([0.5, -0.5, 0.0])[:, None, None]
    np.testing.assert_allclose(net.capture(x).sites[0].pre.detach().numpy(), z, rtol=1e-4, atol=1e-5)


def test_refuses_another_normalisation():
    with pytest.raises(UserError, match="rms_norm"):
        lab.parts(lab.nodes("layer_norm"), network={"norm": "rms_norm"})
    lab.parts(lab.nodes("layer_norm"), network={"norm": "layer_norm"})
    layer = LayerSpec("dense", 3, "relu", None, Initializer("orthogonal"), Initializer("constant", 0.0))
    spec = NetSpec("q", (2,), (layer,), {}).set_hidden("other", norm="rms_norm")
    with pytest.raises(SlotConflict, match="other"):
        LayerNorm(eps=1e-5, name="layer_norm", scope=["*"], when=[]).edit_network(spec)
