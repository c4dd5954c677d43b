from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.core.noise import Streams
from plasticine.errors import UserError
from tests.methods import lab

NAME = "layer_reset"
HEADS = {
    "actor/head.policy.weight",
    "actor/head.policy.bias",
    "critic/head.value.weight",
    "critic/head.value.bias",
}


def hidden(*layers, nets=("actor", "critic")):
    kinds = ("weight", "bias", "norm_scale", "norm_offset")
    return {f"{net}/body.{i}.{kind}" for net in nets for i in layers for kind in kinds}


def moved_tensors(**changes):
    p = lab.parts(lab.nodes(NAME, **changes), actions="continuous", network={"norm": "layer_norm"})
    with torch.no_grad():
        for v in p.learner.state.params.values():
            v.add_(1.0)
    before = lab.params(p)
    facts = lab.act(p, NAME)
    changed = {k for k, v in lab.params(p).items() if not torch.equal(v, before[k])}
    assert facts["tensors"] == len(changed)
    assert facts["entries"] == sum(before[k].numel() for k in changed)
    return changed


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (0, set()),
        (1, HEADS),
        (2, HEADS | hidden(1)),
        (3, HEADS | hidden(0, 1)),
        (9, HEADS | hidden(0, 1)),
        ("encoder", hidden(0, 1)),
        ("all", HEADS | hidden(0, 1) | {"actor/log_std"}),
    ],
)
def test_which_tensors(layers, expected):
    assert moved_tensors(layers=layers) == expected


def test_the_scope_restricts_and_layers_are_counted_in_the_whole_network():
    assert moved_tensors(layers=2, scope=["critic/*"]) == {
        k for k in HEADS | hidden(1) if k.startswith("critic")
    }
    assert moved_tensors(layers=2, scope=["actor/body.*"]) == hidden(1, nets=("actor",))
    with pytest.raises(UserError, match="resets nothing"):
        lab.parts(lab.nodes(NAME, layers=2, scope=["actor/body.0.*"]))


@pytest.mark.parametrize("moments", ["reset", "keep"])
def test_values_are_draws_of_the_own_initialiser_and_nothing_else_changes(moments):
    p = lab.parts(lab.nodes(NAME, layers=2, moments=moments), experience=True, actions="continuous")
    lab.learn(p, 2)
    opt = p.learner.state.opt["update"]
    before, remembered = lab.params(p), {k: v.clone() for k, v in opt.items()}
    places = {k: (id(v), v.data_ptr()) for k, v in p.learner.state.params.items()}
    lab.act(p, NAME)
    generator = Streams(0).once(f"method/{NAME}")
    chosen = [k for k in before if "head" in k or "body.1" in k]
    for name in chosen:
        draw = p.learner.anatomy.fresh(name, generator)
        assert torch.equal(p.learner.state.params[name].detach(), draw), name
        if "weight" in name:
            assert not torch.equal(draw, before[name])
    for name in before.keys() - set(chosen):
        assert torch.equal(p.learner.state.params[name].detach(), before[name]), name
    for key, value in opt.items():
        cleared = moments == "reset" and key.partition("/")[2] in chosen
        assert torch.equal(value, torch.zeros_like(value) if cleared else remembered[key]), key
    assert places == {k: (id(v), v.data_ptr()) for k, v in p.learner.state.params.items()}
    after = lab.params(p)
    lab.learn(p, 2)
    assert all(not torch.equal(v, after[k]) for k, v in lab.params(p).items())


def test_draws_have_the_statistics_of_the_initialiser_and_differ_each_time():
    p = lab.parts(lab.nodes(NAME, layers="all"), network={"init": "uniform_fan_in", "gain": 1.0})
    draws = []
    for _ in range(400):
        lab.act(p, NAME)
        draws.append(p.learner.state.params["critic/body.1.weight"].detach().clone())
    stacked = torch.stack(draws)
    spread = 1.0 / math.sqrt(3.0 * 8)  # uniform within 1 / sqrt(8 inputs)
    assert not torch.equal(stacked[0], stacked[1])
    assert float(stacked.std()) == pytest.approx(spread, rel=0.02)
    assert float(stacked.mean(0).abs().max()) < 5 * spread / math.sqrt(400)


def test_nothing_is_left_not_even_nan():
    p = lab.parts(lab.nodes(NAME, layers="all"))
    for v in p.learner.state.params.values():
        v.data.fill_(float("nan"))
    lab.act(p, NAME)
    assert all(bool(torch.isfinite(v).all()) for v in lab.params(p).values())


@pytest.mark.parametrize("targets", ["copy", "keep"])
@pytest.mark.parametrize(("agent", "actions"), [("td3", "continuous"), ("c51", "discrete")])
def test_slow_copies_get_the_same_values(agent, actions, targets):
    p = lab.parts(lab.nodes(NAME, targets=targets), agent_name=agent, actions=actions)
    slow = p.learner.state.targets
    for v in slow.values():
        v.fill_(0.5)
    lab.act(p, NAME)
    heads = {k for k in slow if "/head." in k}
    assert len(heads) == (6 if agent == "td3" else 2)
    for name, value in slow.items():
        if name in heads and targets == "copy":
            assert torch.equal(value, p.learner.state.params[name].detach()), name
        else:
            assert bool((value == 0.5).all()), name


def test_full_reset_leaves_a_new_learner():
    p = lab.parts(lab.nodes("full_reset"), experience=True, actions="continuous")
    lab.learn(p, 2)
    lab.act(p, "full_reset")
    assert all(not v.any() for v in p.learner.state.opt["update"].values())
    generator = Streams(0).once("method/full_reset")
    for name, value in lab.params(p).items():
        assert torch.equal(value, p.learner.anatomy.fresh(name, generator)), name


def test_presets():
    rule = lab.method(lab.parts(lab.nodes("head_reset")), "head_reset")
    assert (rule.layers, rule.when[0].on, rule.copy_to_targets) == (1, "task_switch", True)
    assert len(lab.method(lab.parts(lab.nodes(NAME)), NAME).when) == 4


@pytest.mark.parametrize("depth", [1, 2])
def test_a_reset_output_layer_stands_alone_after_an_injection(depth):
    methods = {**lab.nodes("plasticity_injection", depth=depth), **lab.nodes(NAME)}
    p = lab.parts(methods, network={"act": "tanh"})
    lab.act(p, "plasticity_injection")
    lab.act(p, NAME)
    x, values = lab.observations(7), {k: v.double().numpy() for k, v in lab.params(p).items()}
    h = x.double().numpy()
    for i in (0, 1):
        h = np.tanh(h @ values[f"critic/body.{i}.weight"].T + values[f"critic/body.{i}.bias"])
    expected = h @ values["critic/head.value.weight"].T + values["critic/head.value.bias"]
    np.testing.assert_allclose(lab.outputs(p, x)["critic/value"].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_refuses_what_makes_no_sense():
    with pytest.raises(UserError, match="negative"):
        lab.parts(lab.nodes(NAME, layers=-1))
    with pytest.raises(UserError, match="wrong type"):
        lab.parts(lab.nodes(NAME, layers="final"))
    with pytest.raises(UserError, match="no rule"):
        lab.parts(lab.nodes(NAME, when=[]))
    from plasticine.compose import assemble_parts
    from plasticine.testing import tiny_config

    config = tiny_config(lab.nodes("head_reset"))
    config["env"]["num_tasks"] = 1
    with pytest.raises(UserError, match="never acts"):
        assemble_parts(config)
