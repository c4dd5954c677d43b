from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.networks.build import build
from plasticine.networks.initializers import Initializer
from plasticine.networks.spec import HeadSpec, LayerSpec, NetSpec
from tests.methods import lab


def randomise(p, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for v in p.learner.state.params.values():
        v.data.copy_(torch.randn(v.shape, generator=generator))


def test_network_by_hand():
    p = lab.parts(lab.nodes("rms_norm", eps=0.3))
    randomise(p)
    x, q = lab.observations(20), {k: v.double().numpy() for k, v in lab.params(p).items()}
    h = x.double().numpy()
    for i in (0, 1):
        z = h @ q[f"critic/body.{i}.weight"].T + q[f"critic/body.{i}.bias"]
        z = z / np.sqrt((z**2).mean(1, keepdims=True) + 0.3)
        h = np.maximum(z * q[f"critic/body.{i}.norm_scale"], 0.0)
    expected = h @ q["critic/head.value.weight"].T + q["critic/head.value.bias"]
    np.testing.assert_allclose(lab.outputs(p, x)["critic/value"].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_adds_scales_of_one_to_hidden_layers_and_no_offsets():
    params = lab.params(lab.parts(lab.nodes("rms_norm")))
    added = {k: v for k, v in params.items() if "norm" in k}
    assert set(added) == {f"{net}/body.{i}.norm_scale" for net in ("actor", "critic") for i in (0, 1)}
    assert all(bool((v == 1).all()) for v in added.values())
    narrow = lab.params(lab.parts(lab.nodes("rms_norm", scope=["critic/body.1.*"])))
    assert [k for k in narrow if "norm" in k] == ["critic/body.1.norm_scale"]


def test_scaling_weights_and_biases_changes_nothing():
    p = lab.parts(lab.nodes("rms_norm"), network={"bias_init": "uniform_fan_in"})
    x = lab.observations(50)
    before = lab.outputs(p, x)
    for name, v in p.learner.state.params.items():
        if "body" in name and name.endswith((".weight", ".bias")):
            v.data.mul_(7.0)
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)


def test_equals_layer_norm_where_the_mean_is_zero():
    """Rows that add up to zero over the layer: the mean of the pre-activations vanishes."""
    outputs = []
    for method in ("rms_norm", "layer_norm"):
        p = lab.parts(lab.nodes(method, eps=0.1))
        with torch.no_grad():
            for name, v in p.learner.state.params.items():
                if "body" in name and name.endswith(".weight"):
                    v.sub_(v.mean(0, keepdim=True))
        outputs.append(lab.outputs(p, lab.observations(30)))
    for key in outputs[0]:
        torch.testing.assert_close(outputs[0][key], outputs[1][key], rtol=1e-4, atol=1e-5)


def test_convolutions_are_normalised_over_channels_and_positions():
    from plasticine.methods.rms_norm import RmsNorm

    one, zero = Initializer("orthogonal", 1.0), Initializer("constant", 0.0)
    layer = LayerSpec("conv", 3, "relu", None, one, zero, options={"kernel": 2, "stride": 1})
    spec = NetSpec("q", (2, 5, 5), (layer,), {"value": HeadSpec(1, one, zero)})
    method = RmsNorm(eps=0.1, name="rms_norm", scope=["*"], when=[])
    net, _, _ = build(
        method.edit_network(spec), lambda name: torch.Generator().manual_seed(len(name)), torch.device("cpu")
    )
    net.params["body.0.norm_scale"].data.copy_(torch.tensor([1.0, 2.0, 3.0]))
    x = torch.randn(4, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    z = torch.nn.functional.conv2d(x, net.params["body.0.weight"]).detach().double().numpy()
    z = z / np.sqrt((z**2).mean((1, 2, 3), keepdims=True) + 0.1)
    z = z * np.array([1.0, 2.0, 3.0])[:, None, None]
    np.testing.assert_allclose(net.capture(x).sites[0].pre.detach().numpy(), z, rtol=1e-4, atol=1e-5)


def test_refusals():
    with pytest.raises(UserError, match="layer_norm"):
        lab.parts(lab.nodes("rms_norm"), network={"norm": "layer_norm"})
    with pytest.raises(UserError, match="both set 'norm'"):
        lab.parts({**lab.nodes("rms_norm"), **lab.nodes("layer_norm")})
    with pytest.raises(UserError, match="eps"):
        lab.parts(lab.nodes("rms_norm", eps=0.0))
