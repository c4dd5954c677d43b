"""Continual backprop against its equations, written out in float64 numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.noise import Streams
from plasticine.core.watch import Seen
from plasticine.errors import UserError
from plasticine.methods.cbp import column_means, contribution
from plasticine.testing import record, tiny_config
from tests.methods import lab


def built(methods=None, *, shared=True, experience=False, **options):
    node = lab.nodes("cbp", **{"replacement_rate": 0.1, "maturity": 2, **options})
    return lab.parts({**node, **(methods or {})}, shared=shared, experience=experience)


def show(p, x, times=1):
    """Hand the method what it would see if `x` were the minibatch of so many steps without any change of weights."""
    method, learner = lab.method(p, "cbp"), p.learner
    for _ in range(times):
        with torch.no_grad():
            sites = {n: net.capture(x).sites for n, net in learner.networks.items()}
            seen = Seen(method.select(learner.state.params), {}, sites, {}, learner.surgeon)
            method.observe(seen, learner.state.slots["cbp"], learner.streams["method/cbp"])


def numbers(tensor):
    return tensor.detach().double().numpy()


# -- utility -------------------------------------------------------------------------------------------------
def test_utility_of_dense_and_convolutional_units():
    rng = np.random.default_rng(1)
    h = rng.standard_normal((7, 3, 4, 4)).astype(np.float32)
    dense, conv = (
        rng.standard_normal((5, 48)).astype(np.float32),
        rng.standard_normal((6, 3, 2, 2)).astype(np.float32),
    )
    post = torch.from_numpy(h)
    blocks = torch.arange(48).view(3, 16)
    got = contribution(column_means(post.abs(), 48), [torch.from_numpy(dense)], blocks)
    by_position = np.abs(h.astype(float)).mean(0).reshape(48) * np.abs(dense.astype(float)).sum(0)
    np.testing.assert_allclose(got, by_position.reshape(3, 16).sum(1), rtol=1e-5)
    got = contribution(column_means(post.abs(), 3), [torch.from_numpy(conv)], torch.arange(3)[:, None])
    np.testing.assert_allclose(
        got, np.abs(h.astype(float)).mean((0, 2, 3)) * np.abs(conv.astype(float)).sum((0, 2, 3)), rtol=1e-5
    )


def test_running_utility_and_means_follow_the_equations():
    p = built(shared=False, utility_decay=0.8, maturity=1000)
    utility = {}
    mean = {}
    for t in range(5):
        x = lab.observations(20, seed=t)
        show(p, x)
        for net, network in p.learner.networks.items():
            for site in network.capture(x).sites:
                h = numbers(site.post)
                reader = (
                    "body.1" if site.name == "body.0" else "head." + ("policy" if net == "actor" else "value")
                )
                w = numbers(network.params[f"{reader}.weight"])
                new = np.abs(h).mean(0) * np.abs(w).sum(0)
                key = f"{net}/{site.name}"
                utility[key] = 0.8 * utility.get(key, 0.0) + 0.2 * new
                mean[key] = 0.8 * mean.get(key, 0.0) + 0.2 * h.mean(0)
    slot = p.learner.state.slots["cbp"]
    assert len(utility) == 4
    for key in utility:
        np.testing.assert_allclose(slot[f"utility/{key}"], utility[key], rtol=1e-5)
        np.testing.assert_allclose(slot[f"mean/{key}"], mean[key], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("act", ["tanh", "crelu", "fourier"])
def test_other_activations_count_all_columns_of_a_unit(act):
    node = lab.nodes("cbp", replacement_rate=0.1, maturity=1000, utility_decay=0.0)
    p = lab.parts(node, shared=True, network={"act": act})
    x = lab.observations(30)
    show(p, x)
    site = p.learner.networks["shared"].capture(x).sites[0]
    w = numbers(p.learner.networks["shared"].params["body.1.weight"])
    columns = np.abs(numbers(site.post)).mean(0) * np.abs(w).sum(0)
    expected = columns.reshape(site.expansion, 8).sum(0)
    np.testing.assert_allclose(p.learner.state.slots["cbp"]["utility/shared/body.0"], expected, rtol=1e-5)


def test_all_heads_of_a_shared_encoder_count():
    p = built(utility_decay=0.0, maturity=1000)
    x = lab.observations(30)
    show(p, x)
    network = p.learner.networks["shared"]
    h = np.abs(numbers(network.capture(x).sites[1].post)).mean(0)
    w = sum(np.abs(numbers(network.params[f"head.{head}.weight"])).sum(0) for head in ("policy", "value"))
    np.testing.assert_allclose(p.learner.state.slots["cbp"]["utility/shared/body.1"], h * w, rtol=1e-5)


# -- which units, and what happens to them -------------------------------------------------------------------
def test_no_unit_is_replaced_before_it_is_mature_and_then_the_least_useful_one():
    p = built(
        maturity=4, replacement_rate=1 / 16, utility_decay=0.9
    )  # two layers of 8: one unit each every 2 steps
    x = lab.observations(40)
    weight = p.learner.state.params["shared/body.0.weight"]
    liven(p)
    heads = [p.learner.state.params[f"shared/head.{h}.weight"] for h in ("policy", "value")]
    with torch.no_grad():
        heads[0][:, 3] = 1e-4
        heads[1][:, 3] = 1e-4
    before = lab.params(p)
    show(p, x, 5)  # age 5 > 4: half a unit in the account of each layer
    assert all(torch.equal(lab.params(p)[k], v) for k, v in before.items())
    slot = p.learner.state.slots["cbp"]
    worst = int(slot["utility/shared/body.0"].argmin())
    show(p, x)
    after = lab.params(p)
    changed = (after["shared/body.0.weight"] != before["shared/body.0.weight"]).any(1)
    assert changed.nonzero().flatten().tolist() == [worst]
    assert int(slot["born/shared/body.0"][worst]) == 6
    assert (slot["born/shared/body.0"] == 0).sum() == 7
    assert float(slot["utility/shared/body.0"][worst]) == 0.0
    assert int(slot["born/shared/body.1"][3]) == 6
    second = after["shared/body.1.weight"]
    assert not second[:, worst].any(), "its readers are cleared, the new unit of the layer after included"
    assert second[3].any()
    for head in heads:
        assert not head[:, 3].any()
        assert head[:, :3].all()
    norm = np.linalg.norm(numbers(weight)[worst])
    draw = numbers(p.learner.anatomy.fresh("shared/body.0.weight", Streams(1).once("x")))
    np.testing.assert_allclose(norm, np.sqrt((draw**2).sum(1).mean()), rtol=1e-4)


def liven(p):
    """Make every hidden unit active on every observation."""
    with torch.no_grad():
        p.learner.state.params["shared/body.0.bias"].fill_(5.0)
        p.learner.state.params["shared/body.1.bias"].fill_(20.0)


def constant_unit(p, layer, unit, value):
    """Let a unit put out the same value on every observation, and be of little use."""
    with torch.no_grad():
        p.learner.state.params[f"shared/{layer}.weight"][unit] = 0.0
        p.learner.state.params[f"shared/{layer}.bias"][unit] = value


def test_a_young_unit_is_not_held_useless_for_its_short_history():
    p = built(maturity=0, replacement_rate=1 / 8, utility_decay=0.9)
    slot, method = p.learner.state.slots["cbp"], lab.method(p, "cbp")
    slot["born/shared/body.0"].copy_(torch.tensor([-9, -9, -9, -9, -9, -9, 0, -9]))
    slot["utility/shared/body.0"].fill_(0.30)
    slot["utility/shared/body.0"][2] = 0.29
    slot["utility/shared/body.0"][6] = 0.10  # of one step, 0.1 of its utility: the largest of all
    first = [g for g in method._groups["shared"] if g.site == "body.0"]
    method._replace(first, 1, p.learner.surgeon, slot, p.learner.streams["method/cbp"])
    assert (slot["born/shared/body.0"] == 1).nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("transfer", [True, False])
def test_a_constant_unit_is_replaced_without_changing_the_function(transfer):
    p = built(maturity=0, replacement_rate=1 / 16, transfer_bias=transfer, utility_decay=0.9)
    liven(p)
    constant_unit(p, "body.0", 5, 0.01)
    constant_unit(p, "body.1", 2, 0.02)
    x = lab.observations(60)
    before = lab.outputs(p, x)
    show(p, x, 2)
    slot = p.learner.state.slots["cbp"]
    assert int(slot["born/shared/body.0"][5]) == 2
    assert int(slot["born/shared/body.1"][2]) == 2
    after = lab.outputs(p, x)
    change = max(float((after[k] - before[k]).abs().max()) for k in after)
    assert change < 2e-5 if transfer else change > 1e-3


def test_the_bias_of_every_reader_takes_the_mean_contribution():
    p = built(maturity=0, replacement_rate=1 / 24, utility_decay=0.7)  # the third step replaces
    batches = [lab.observations(30, seed=s) for s in range(3)]
    net = p.learner.networks["shared"]
    means = [numbers(net.capture(x).sites[1].post).mean(0) for x in batches]
    weighted = 0.3 * (0.49 * means[0] + 0.7 * means[1] + means[2]) / (1 - 0.7**3)
    before = lab.params(p)
    with torch.no_grad():  # keep the first layer out of it
        for x in batches:
            sites = {"shared": net.capture(x).sites}
            method = lab.method(p, "cbp")
            method._groups["shared"] = [g for g in method._groups["shared"] if g.site == "body.1"]
            seen = Seen(method.select(p.learner.state.params), {}, sites, {}, p.learner.surgeon)
            method.observe(seen, p.learner.state.slots["cbp"], p.learner.streams["method/cbp"])
    after = lab.params(p)
    (unit,) = p.learner.state.slots["cbp"]["born/shared/body.1"].nonzero().flatten().tolist()
    for head in ("policy", "value"):
        w = numbers(before[f"shared/head.{head}.weight"])[:, unit]
        moved = numbers(after[f"shared/head.{head}.bias"]) - numbers(before[f"shared/head.{head}.bias"])
        np.testing.assert_allclose(moved, w * weighted[unit], rtol=1e-4, atol=1e-8)


def test_moments_are_cleared_on_the_edited_entries_only_and_targets_left_alone():
    p = built(maturity=0, replacement_rate=1 / 8)
    state = p.learner.state
    for value in state.opt["update"].values():
        value.fill_(5.0)
    state.targets.update({k: torch.full_like(v, 2.0, requires_grad=False) for k, v in state.params.items()})
    show(p, lab.observations(40))
    slot = state.slots["cbp"]
    first, second = (slot[f"born/shared/body.{i}"] == 1 for i in (0, 1))
    assert int(first.sum()) == int(second.sum()) == 1
    cleared = {
        "shared/body.0.weight": first[:, None].expand(8, 5),
        "shared/body.0.bias": first,
        "shared/body.1.weight": first[None, :] | second[:, None],
        "shared/body.1.bias": second,
        "shared/head.policy.weight": second[None, :].expand(3, 8),
        "shared/head.value.weight": second[None, :],
    }
    for key, value in state.opt["update"].items():
        what, _, name = key.partition("/")
        mask = cleared.get(name, torch.zeros(())) if what != "step" else torch.zeros(())
        assert torch.equal(value, torch.where(mask.bool(), 0.0, torch.full_like(value, 5.0))), key
    assert all(bool((t == 2.0).all()) for t in state.targets.values())


def test_frozen_copies_are_readers_too():
    """Their columns are cleared and their biases take the contribution, so that the sum of all paths stays."""
    p = built(lab.nodes("plasticity_injection"), maturity=0, replacement_rate=1 / 16)
    lab.act(p, "plasticity_injection")
    liven(p)
    constant_unit(p, "body.0", 5, 0.01)
    method = lab.method(p, "cbp")
    method._groups["shared"] = [g for g in method._groups["shared"] if g.site == "body.0"]
    x = lab.observations(60)
    before = lab.outputs(p, x)
    assert p.learner.state.frozen["shared/frozen.0.body.1.weight"][:, 5].any()
    show(p, x, 2)
    assert p.learner.state.slots["cbp"]["born/shared/body.0"].nonzero().flatten().tolist() == [5]
    for j in (0, 1):
        assert not p.learner.state.frozen[f"shared/frozen.{j}.body.1.weight"][:, 5].any()
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, before[key], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("network", ["nature_cnn", "impala"])
def test_channels_are_replaced_in_convolutional_networks(network):
    node = lab.nodes("cbp", replacement_rate=0.05, maturity=2)
    run = record(tiny_config(node, network_name=network, shared=True))
    assert not run.moved
    assert not run.draws
    learner = run.trainer.learner
    for group in learner.anatomy.units:
        key = f"born/{group.net}/{group.site}"
        slot = learner.state.slots["cbp"]
        assert (key in slot) is not group.residual
        if key in slot:
            assert bool((slot[key] > 0).any()), key


# -- the agents ----------------------------------------------------------------------------------------------
def test_steps_are_those_of_each_network():
    node = lab.nodes("cbp", replacement_rate=0.05, maturity=2)
    run = record(tiny_config(node, agent_name="td3", actions="continuous"))
    slot = run.trainer.learner.state.slots["cbp"]
    actor, critic = int(slot["steps/actor"]), int(slot["steps/critic.0"])
    assert actor == critic // 2 > 5
    assert int(slot["steps/critic.1"]) == critic
    assert run.trainer.counters.updates == actor + critic


# -- drawing a few rows --------------------------------------------------------------------------------------
@pytest.mark.parametrize("init", ["orthogonal", "uniform_fan_in", "he_normal"])
@pytest.mark.parametrize("shape", [(40, 6), (6, 40), (12, 4, 3, 3)])
def test_a_few_rows_have_the_distribution_of_the_whole(init, shape):
    from plasticine.networks.anatomy import Anatomy, TensorInfo
    from plasticine.networks.initializers import Initializer

    info = TensorInfo("n", "encoder", "weight", "body.0", Initializer(init, 1.3))
    anatomy = Anatomy({"n/w": info}, {"n/w": shape}, ())
    generator = Streams(0).once("rows")
    few = np.concatenate(
        [numbers(anatomy.fresh_rows("n/w", 2, generator)).reshape(2, -1) for _ in range(600)]
    )
    whole = np.concatenate(
        [numbers(anatomy.fresh("n/w", generator)).reshape(shape[0], -1) for _ in range(100)]
    )
    assert abs(few.mean()) < 0.05 * few.std()
    np.testing.assert_allclose(few.std(), whole.std(), rtol=0.05)
    np.testing.assert_allclose((few**2).sum(1).mean(), (whole**2).sum(1).mean(), rtol=0.05)


# -- steps counted for every entry ---------------------------------------------------------------------------
def test_per_element_steps_in_a_run_and_where_they_are_refused():
    node = lab.nodes("cbp", replacement_rate=0.05, maturity=2, per_element_step=True)
    run = record(tiny_config(node, shared=True))
    state = run.trainer.learner.state
    assert "element_c1/shared/body.0.weight" in state.opt["update"]
    assert bool((state.slots["cbp"]["born/shared/body.0"] > 0).any())
    with pytest.raises(UserError, match="entry by entry"):
        record(tiny_config(node, agent_name="pqn"))
    with pytest.raises(UserError, match="entry by entry"):
        record(tiny_config({**lab.nodes("trac"), **node}))
    record(tiny_config({**node, **lab.nodes("trac")}), stop_after=1)


def test_per_element_steps_in_a_part_of_the_network():
    node = lab.nodes("cbp", per_element_step=True, scope=["actor/*"])
    run = record(tiny_config(node), stop_after=1)
    keys = run.trainer.learner.state.opt["update"]
    assert "element_c1/actor/body.0.weight" in keys
    assert "step/critic/body.0.weight" in keys
    assert "element_c1/critic/body.0.weight" not in keys


# -- refusals ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"replacement_rate": 1.5}, "0..1"),
        ({"utility_decay": 1.0}, "utility_decay"),
        ({"maturity": -1}, "maturity"),
        ({"scope": ["shared/head.*"]}, "nothing to replace"),
        ({"scope": ["*.weight"]}, "cannot transfer"),
    ],
)
def test_refuses(changes, what):
    with pytest.raises(UserError, match=what):
        lab.parts(lab.nodes("cbp", **changes), shared=True)
