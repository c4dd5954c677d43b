from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.noise import Streams
from plasticine.errors import UserError
from plasticine.methods.redo import dormant, recyclable
from plasticine.methods.units import outgoing_mask
from plasticine.networks.build import build
from plasticine.networks.initializers import Initializer
from plasticine.networks.network import Site
from plasticine.networks.spec import HeadSpec, LayerSpec, NetSpec
from tests.methods import lab

X = lab.observations(200)


def liven(p):
    """Make every hidden unit active on some observation."""
    for name, v in p.learner.state.params.items():
        if "/body." in name and name.endswith(".bias"):
            v.data.fill_(3.0 if "body.0" in name else 20.0)


def kill(p, net, layer, units):
    """Make ReLU units exactly dead (on bounded inputs) without touching their weights."""
    p.learner.state.params[f"{net}/{layer}.bias"].data[units] = -1e3


def built(methods=None, **kw):
    kw.setdefault("shared", True)
    return lab.parts(methods or lab.nodes("redo"), **kw)


def inputs(p, x=X):
    return dict.fromkeys(p.learner.networks, x)


# -- which units ---------------------------------------------------------------------------------------------
def test_score_is_the_ratio_of_means():
    post = torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [1.0, 0.1, 0.02, 0, 2, 1]
    )
    a = np.abs(post.double().numpy()).mean(0)
    for tau in (0.0, 0.03, 0.1, 0.2, 1.0):
        got = dormant(Site("body.0", post, post, "relu", 1), tau)
        np.testing.assert_array_equal(got.numpy(), a / a.mean() <= tau)
    assert not dormant(Site("body.0", post, post, "relu", 1), -1.0).any()


def test_score_of_channels_and_of_units_with_two_outputs():
    post = torch.rand(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    post[:, 1] *= 0.01
    assert dormant(Site("body.0", post, post, "relu", 1), 0.1).tolist() == [False, True, False]
    z = torch.tensor(
        [[-3.0, 1e-4, 2.0], [-2.0, -1e-4, 1.0]]
    )  # unit 0 is negative throughout, yet not dormant
    both = torch.cat((z.relu(), (-z).relu()), dim=1)
    assert dormant(Site("body.0", z, both, "crelu", 2), 0.1).tolist() == [False, True, False]


def test_a_dead_layer_is_recycled_whole():
    assert dormant(Site("body.0", torch.zeros(4, 3), torch.zeros(4, 3), "relu", 1), 0.0).all()


# -- what happens to them ------------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [True, False])
def test_exactly_dead_units_are_replaced_without_changing_the_function(shared):
    p = built(shared=shared)
    nets = list(p.learner.networks)
    liven(p)
    for net in nets:
        kill(p, net, "body.0", [1, 4])
        kill(p, net, "body.1", [0, 6, 7])
    before, outputs = lab.params(p), lab.outputs(p, X)
    facts = lab.act(p, "redo", inputs(p))
    assert facts["recycled"] == 5 * len(nets)
    assert facts["hidden_units"] == 16 * len(nets)
    assert all(facts[f"recycled/{net}"] == 5 for net in nets)
    for key, value in lab.outputs(p, X).items():
        torch.testing.assert_close(value, outputs[key], rtol=1e-5, atol=1e-6)
    after = lab.params(p)
    for net in nets:
        for head in [k for k in after if k.startswith(f"{net}/head") and k.endswith("weight")]:
            assert not after[head][:, [0, 6, 7]].any()
            assert torch.equal(after[head][:, 1:6], before[head][:, 1:6])
        second = after[f"{net}/body.1.weight"]
        assert not second[:, [1, 4]].any(), "columns of both old and of re-drawn units are cleared"
        assert second[[0, 6, 7]].any(dim=1).all()
        old = before[f"{net}/body.1.weight"]
        alive, read = [1, 2, 3, 4, 5], [0, 2, 3, 5, 6, 7]
        assert torch.equal(second[alive][:, read], old[alive][:, read])
        assert torch.equal(
            after[f"{net}/body.0.weight"][[0, 2, 3]], before[f"{net}/body.0.weight"][[0, 2, 3]]
        )
        assert not torch.equal(after[f"{net}/body.0.weight"][1], before[f"{net}/body.0.weight"][1])
        assert not after[f"{net}/body.0.bias"][[1, 4]].any()
        for name in [k for k in after if k.startswith(f"{net}/head") and k.endswith("bias")]:
            assert torch.equal(after[name], before[name])
        site = p.learner.networks[net].capture(X).sites[0]
        assert not dormant(site, 0.025)[[1, 4]].any(), "re-drawn units are active"


def test_incoming_weights_are_rows_of_a_fresh_draw_of_the_own_initialiser():
    p = built(network={"bias_init": "uniform_fan_in"})
    kill(p, "shared", "body.0", [2])
    lab.act(p, "redo", inputs(p))
    generator = Streams(0).once("method/redo")
    weight = p.learner.anatomy.fresh("shared/body.0.weight", generator)
    bias = p.learner.anatomy.fresh("shared/body.0.bias", generator)
    after = lab.params(p)
    assert torch.equal(after["shared/body.0.weight"][2], weight[2])
    assert float(after["shared/body.0.bias"][2]) == float(bias[2]) != 0.0


def test_moments_are_cleared_on_these_entries_only_and_targets_left_alone():
    p = built()
    kill(p, "shared", "body.0", [3])
    state = p.learner.state
    for value in state.opt["update"].values():
        value.fill_(5.0)
    state.targets.update({k: torch.full_like(v, 2.0, requires_grad=False) for k, v in state.params.items()})
    lab.act(p, "redo", inputs(p))
    row, column = torch.zeros(8, 5, dtype=torch.bool), torch.zeros(8, 8, dtype=torch.bool)
    row[3], column[:, 3] = True, True
    cleared = {"shared/body.0.weight": row, "shared/body.0.bias": row[:, 0], "shared/body.1.weight": column}
    for key, value in state.opt["update"].items():
        what, _, name = key.partition("/")
        mask = cleared.get(name, torch.zeros(())) if what != "step" else torch.zeros(())
        assert torch.equal(value, torch.where(mask.bool(), 0.0, torch.full_like(value, 5.0))), key
    assert all(bool((t == 2.0).all()) for t in state.targets.values())


def test_normalisation_of_a_recycled_unit_starts_afresh():
    p = built({**lab.nodes("redo"), **lab.nodes("layer_norm")})
    params = p.learner.state.params
    params["shared/body.0.norm_scale"].data.fill_(0.5)
    params["shared/body.0.norm_offset"].data.fill_(0.25)
    params["shared/body.0.norm_offset"].data[5] = -1e3
    lab.act(p, "redo", inputs(p))
    scale, offset = torch.full((8,), 0.5), torch.full((8,), 0.25)
    scale[5], offset[5] = 1.0, 0.0
    assert torch.equal(params["shared/body.0.norm_scale"].detach(), scale)
    assert torch.equal(params["shared/body.0.norm_offset"].detach(), offset)


def test_a_dead_layer_ends_finite():
    p = built()
    kill(p, "shared", "body.0", list(range(8)))
    before = lab.outputs(p, X)
    assert lab.act(p, "redo", inputs(p))["recycled"] >= 8
    for key, value in lab.outputs(p, X).items():
        torch.testing.assert_close(value, before[key])
    assert all(bool(torch.isfinite(v).all()) for v in p.learner.state.params.values())


def test_crelu_units_have_two_columns():
    p = built(network={"act": "crelu"})
    p.learner.state.params["shared/body.1.weight"].data[3] = 0.0
    before = lab.params(p)
    assert lab.act(p, "redo", inputs(p))["recycled"] == 1
    head = p.learner.state.params["shared/head.policy.weight"]
    zero = (head == 0).all(dim=0).nonzero().flatten().tolist()
    assert zero == [3, 11]
    assert torch.equal(head[:, 4:11].detach(), before["shared/head.policy.weight"][:, 4:11])


def test_frozen_copies_are_readers_too():
    p = built({**lab.nodes("redo"), **lab.nodes("plasticity_injection")})
    lab.act(p, "plasticity_injection")
    liven(p)
    kill(p, "shared", "body.0", [4])
    before = lab.outputs(p, X)
    lab.act(p, "redo", inputs(p))
    for j in (0, 1):
        assert not p.learner.state.frozen[f"shared/frozen.{j}.body.1.weight"][:, 4].any()
    for key, value in lab.outputs(p, X).items():
        torch.testing.assert_close(value, before[key], rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # whatever the new unit computes, nobody reads it
        reference = lab.outputs(p, X)
        p.learner.state.params["shared/body.0.weight"][4] += 3.0
        for key, value in lab.outputs(p, X).items():
            assert torch.equal(value, reference[key])


def test_a_channel_read_through_flattening():
    """conv (3 channels of 4x4) -> dense: channel 1 is read by columns 16..31."""
    one, zero = Initializer("orthogonal", 1.0), Initializer("constant", 0.0)
    body = (
        LayerSpec("conv", 3, "relu", None, one, zero, options={"kernel": 2, "stride": 1}),
        LayerSpec("dense", 4, "relu", None, one, zero),
    )
    spec = NetSpec("q", (2, 5, 5), body, {"value": HeadSpec(1, one, zero)})
    net, anatomy, _ = build(spec, lambda name: torch.Generator().manual_seed(1), torch.device("cpu"))
    group = recyclable(anatomy)[0]
    (consumer,) = group.consumers
    mask = outgoing_mask(consumer, net.params["body.1.weight"].shape, torch.tensor([False, True, False]))
    assert mask.squeeze(0).nonzero().flatten().tolist() == list(range(16, 32))
    x = torch.randn(6, 2, 5, 5, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net.params["body.0.bias"][1] = -1e3
        before = net(x)["value"]
        net.params["body.1.weight"].masked_fill_(mask, 0.0)
        net.params["body.0.bias"][1] = 0.7
        torch.testing.assert_close(net(x)["value"], before)


# -- scope and refusals --------------------------------------------------------------------------------------
def test_a_layer_whose_readers_are_out_of_scope_is_left_alone():
    p = built(lab.nodes("redo", scope=["shared/body.*"]))
    kill(p, "shared", "body.0", [1])
    kill(p, "shared", "body.1", [1])
    heads = {k: v for k, v in lab.params(p).items() if "head" in k}
    second = lab.params(p)["shared/body.1.weight"]
    assert lab.act(p, "redo", inputs(p))["recycled"] == 1
    after = lab.params(p)
    assert all(torch.equal(after[k], v) for k, v in heads.items())
    assert torch.equal(after["shared/body.1.weight"][1, 2:], second[1, 2:])


def test_residual_streams_and_fourier_units_are_skipped():
    from dataclasses import replace

    p = built(network={"act": "tanh"})
    units = p.learner.anatomy.units
    changed = (replace(units[0], residual=True), replace(units[1], act="fourier", expansion=2))
    assert recyclable(p.learner.anatomy) == list(units)
    assert recyclable(replace(p.learner.anatomy, units=changed)) == []


def test_refuses_networks_and_rules_with_which_it_could_never_act():
    with pytest.raises(UserError, match="nothing to recycle"):
        built(network={"act": "fourier"})
    with pytest.raises(UserError, match="no rule"):
        built(lab.nodes("redo", when=[]))
    for event in ("run_start", "task_start"):
        with pytest.raises(UserError, match=event):
            built(lab.nodes("redo", when={"on": event}))
    with pytest.raises(UserError, match="observations"):
        built(lab.nodes("redo", observations=0))
