from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.errors import UserError
from plasticine.methods.nap import factors
from tests.methods import lab

NAME = "nap"


def step(p, name=NAME):
    m = lab.method(p, name)
    with torch.no_grad():
        m.after_step(m.select(p.learner.state.params), p.learner.state.slots[name], torch.Generator())


def lengths(p):
    return {k: float(np.linalg.norm(v.double().numpy())) for k, v in lab.params(p).items()}


def scale_(p, factor, kind="body", suffix=".weight"):
    with torch.no_grad():
        for name, v in p.learner.state.params.items():
            if kind in name and name.endswith(suffix):
                v.mul_(factor)


def images(network):
    return {
        "network_name": network,
        "shared": True,
        "network": {"init": "he_normal", "gain": 1.0, "bias_init": "zeros"},
    }


# -- building ------------------------------------------------------------------------------------------------
def test_network_by_hand_without_biases():
    p = lab.parts(lab.nodes(NAME, eps=0.2))
    generator = torch.Generator().manual_seed(0)
    for v in p.learner.state.params.values():
        v.data.copy_(torch.randn(v.shape, generator=generator))
    x, q = lab.observations(20), {k: v.double().numpy() for k, v in lab.params(p).items()}
    h = x.double().numpy()
    for i in (0, 1):
        z = h @ q[f"critic/body.{i}.weight"].T
        z = (z - z.mean(1, keepdims=True)) / np.sqrt(z.var(1, keepdims=True) + 0.2)
        h = np.maximum(z * q[f"critic/body.{i}.norm_scale"] + q[f"critic/body.{i}.norm_offset"], 0.0)
    expected = h @ q["critic/head.value.weight"].T + q["critic/head.value.bias"]
    np.testing.assert_allclose(lab.outputs(p, x)["critic/value"].numpy(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("norm", "kinds"),
    [
        ("layer_norm", {"weight", "norm_scale", "norm_offset"}),
        ("rms_norm", {"weight", "norm_scale"}),
        ("none", {"weight", "bias"}),
    ],
)
@pytest.mark.parametrize("network", ["mlp", "nature_cnn", "impala"])
def test_what_hidden_layers_consist_of(norm, kinds, network):
    p = lab.parts(lab.nodes(NAME, norm=norm), **(images(network) if network != "mlp" else {}))
    tensors = p.learner.anatomy.tensors
    layers = {(t.net, t.layer) for t in tensors.values() if t.role == "encoder"}
    for net, layer in layers:
        assert {t.kind for t in tensors.values() if (t.net, t.layer) == (net, layer)} == kinds, layer
    assert {t.kind for t in tensors.values() if t.role == "head"} == {"weight", "bias"}


# -- projecting ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("network", ["mlp", "nature_cnn", "impala"])
@pytest.mark.parametrize("norm", ["layer_norm", "rms_norm"])
def test_the_function_does_not_depend_on_the_scale_of_hidden_weights(network, norm):
    """So that a projection does not change it; on residual streams as well."""
    p = lab.parts(lab.nodes(NAME, norm=norm, eps=1e-8), **(images(network) if network != "mlp" else {}))
    x = lab.observations(40)
    if network != "mlp":
        x = torch.rand(5, 2, 36, 36, generator=torch.Generator().manual_seed(0))
    before, start = lab.outputs(p, x), lengths(p)
    scale_(p, 3.0)
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)
    step(p)
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-3, atol=1e-4)
    assert lengths(p) == pytest.approx(start, rel=1e-5)


@pytest.mark.parametrize(
    ("agent", "actions"),
    [("ppo", "continuous"), ("pqn", "discrete"), ("td3", "continuous"), ("c51", "discrete")],
)
def test_after_training_hidden_weights_have_their_initial_norm_and_heads_are_free(agent, actions):
    from plasticine.testing import record, tiny_config

    run = record(tiny_config(lab.nodes(NAME), agent_name=agent, actions=actions))
    for name, value in run.params.items():
        start = run.initial[f"params:{name}"].double().norm()
        ratio = float(value.double().norm() / start)
        if "/body." in name and name.endswith(".weight"):
            assert ratio == pytest.approx(1.0, rel=1e-5), name
            assert not torch.equal(value, run.initial[f"params:{name}"])
        elif "/head." in name and name.endswith(".weight"):
            assert abs(ratio - 1.0) > 1e-4, name


def test_only_hidden_weights_change_and_by_a_factor():
    p = lab.parts(lab.nodes(NAME), actions="continuous")
    start = lab.params(p)
    with torch.no_grad():
        for i, v in enumerate(p.learner.state.params.values()):
            v.mul_(1.0 + i).add_(0.5)
    before = lab.params(p)
    step(p)
    once = lab.params(p)
    for name, value in once.items():
        if "body" in name and name.endswith(".weight"):
            length = np.linalg.norm(start[name].double().numpy())
            expected = before[name].double().numpy() * length / np.linalg.norm(before[name].double().numpy())
            np.testing.assert_allclose(value.numpy(), expected, rtol=1e-5, atol=1e-7)
        else:
            assert torch.equal(value, before[name]), name
    step(p)
    for name, value in lab.params(p).items():
        torch.testing.assert_close(value, once[name], rtol=1e-6, atol=0)


def test_zero_weights_stay_zero_and_others_are_not_disturbed():
    p = lab.parts(lab.nodes(NAME))
    start = lengths(p)
    with torch.no_grad():
        p.learner.state.params["actor/body.0.weight"].zero_()
    scale_(p, 4.0)
    step(p)
    now = lengths(p)
    assert now.pop("actor/body.0.weight") == 0.0
    assert now == pytest.approx({k: v for k, v in start.items() if k in now}, rel=1e-5)


def test_joint_length_of_scale_and_offset():
    p = lab.parts(lab.nodes(NAME, affine="project"))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, v in p.learner.state.params.items():
            if "norm" in name:
                v.copy_(torch.randn(v.shape, generator=generator))
    before = lab.params(p)
    step(p)
    now = lab.params(p)
    for layer in ("actor/body.0", "critic/body.1"):
        both = [
            np.concatenate([q[f"{layer}.norm_{k}"].double().numpy() for k in ("scale", "offset")])
            for q in (before, now)
        ]
        np.testing.assert_allclose(both[1], both[0] * np.sqrt(8) / np.linalg.norm(both[0]), rtol=1e-5)
    assert all(v.startswith("length/") for v in p.learner.state.slots[NAME])
    assert len(p.learner.state.slots[NAME]) == 8
    free = lab.parts(lab.nodes(NAME))
    scale_(free, 2.0, suffix="norm_scale")
    step(free)
    assert all(bool((v == 2.0).all()) for k, v in lab.params(free).items() if k.endswith("norm_scale"))
    rms = lab.parts(lab.nodes(NAME, affine="project", norm="rms_norm"))
    scale_(rms, 3.0, suffix="norm_scale")
    step(rms)
    for name, value in lab.params(rms).items():
        if name.endswith("norm_scale"):
            torch.testing.assert_close(value, torch.ones(8))


def test_factors():
    a, b, zero = torch.tensor([3.0, 0.0]), torch.tensor([[4.0]]), torch.zeros(3)
    scales = factors([[a, b], [zero], [b]], [torch.tensor(10.0), torch.tensor(1.0), torch.tensor(1.0)])
    assert [float(s) for s in scales] == pytest.approx([2.0, 1.0, 0.25])
    assert all(s.dim() == 0 for s in scales)


def test_scope():
    p = lab.parts(lab.nodes(NAME, scope=["critic/*"]))
    assert {k for k in lab.params(p) if "norm" in k or "actor" in k} == {
        *(f"critic/body.{i}.norm_{k}" for i in (0, 1) for k in ("scale", "offset")),
        *(f"actor/{layer}.{k}" for layer in ("body.0", "body.1", "head.policy") for k in ("weight", "bias")),
    }
    before = lab.params(p)
    scale_(p, 2.0)
    step(p)
    for name, value in lab.params(p).items():
        doubled = "actor/body" in name and name.endswith("weight")
        torch.testing.assert_close(value, before[name] * (2.0 if doubled else 1.0))


# -- at moments, and the reference's form --------------------------------------------------------------------
def test_reference_projects_every_layer_now_and_then_and_normalises_nothing():
    p = lab.parts(lab.nodes("nap_reference"), actions="continuous")
    assert not [k for k in lab.params(p) if "norm" in k]
    start = lengths(p)
    scale_(p, 2.0, kind="")
    step(p, "nap_reference")
    assert all(lengths(p)[k] == pytest.approx(2 * v) for k, v in start.items() if k.endswith("weight"))
    facts = lab.act(p, "nap_reference")
    assert lengths(p) == pytest.approx(start, rel=1e-5)
    assert facts == {"projected": 6.0, "largest_change": pytest.approx(0.5)}


def test_projection_at_moments_keeps_the_moments_and_re_anchors_trac():
    p = lab.parts({**lab.nodes("trac", start=0.1), **lab.nodes(NAME, when=[{"every": 1}])}, experience=True)
    lab.learn(p, 3)
    before = {k: v.clone() for k, v in p.learner.state.opt["update"].items()}
    lab.act(p, NAME)
    now = p.learner.state.opt["update"]
    weight = "actor/body.0.weight"
    assert bool(before[f"trac_path/{weight}"].any())
    assert not now[f"trac_path/{weight}"].any()
    assert torch.equal(now[f"trac_reference/{weight}"], p.learner.state.params[weight].detach())
    for key in (f"exp_avg/{weight}", f"exp_avg_sq/{weight}", "trac_path/actor/head.policy.weight"):
        assert torch.equal(now[key], before[key])


def test_normalising_without_projecting():
    p = lab.parts(lab.nodes(NAME, project=False))
    scale_(p, 2.0)
    before = lab.params(p)
    step(p)
    assert lab.act(p, NAME) == {"projected": 0.0}
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())
    assert any("norm" in k for k in before)


# -- refusals ------------------------------------------------------------------------------------------------
def test_composition():
    lab.parts({**lab.nodes(NAME), **lab.nodes("layer_norm")})
    lab.parts(lab.nodes(NAME), agent_name="pqn", agent={"layer_norm": True})
    with pytest.raises(UserError, match="both set 'norm'"):
        lab.parts({**lab.nodes(NAME), **lab.nodes("rms_norm")})
    with pytest.raises(UserError, match="both set 'norm'"):
        lab.parts(lab.nodes(NAME, norm="rms_norm"), agent_name="pqn", agent={"layer_norm": True})
    with pytest.raises(UserError, match="nothing to project"):
        lab.parts(lab.nodes(NAME, scope=["*/head.*"]))
    with pytest.raises(UserError, match="eps"):
        lab.parts(lab.nodes(NAME, eps=0.0))
