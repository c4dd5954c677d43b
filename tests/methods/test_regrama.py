"""ReGraMa against its score, written out in float64 numpy, and against gradients taken a second time."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.watch import Seen
from plasticine.errors import UserError
from plasticine.methods.regrama import inactive, unit_gradient, weight_gradient
from plasticine.testing import record, tiny_config
from tests.methods import lab


def built(*, shared=True, experience=True, network=None, **options):
    return lab.parts(lab.nodes("regrama", **options), shared=shared, experience=experience, network=network)


def numbers(tensor):
    return tensor.detach().double().numpy()


# -- the score -----------------------------------------------------------------------------------------------
def test_sizes_are_means_over_everything_but_the_units():
    rng = np.random.default_rng(0)
    for shape in ((4, 7), (4, 3, 2, 2)):
        g = rng.standard_normal(shape)
        got = weight_gradient(torch.from_numpy(g))
        np.testing.assert_allclose(got, np.abs(g).reshape(4, -1).mean(1))
    for shape in ((9, 4), (9, 4, 3, 2)):
        g = rng.standard_normal(shape)
        got = unit_gradient(torch.from_numpy(g))
        np.testing.assert_allclose(got, np.abs(g).mean(tuple(d for d in range(g.ndim) if d != 1)))


def test_inactive_units_have_a_small_share_of_the_mean():
    sizes = torch.tensor([1.0, 0.5, 0.009, 0.0, 2.0, 0.02])
    a = sizes.double().numpy()
    for tau in (0.0, 0.01, 0.03, 0.9):
        np.testing.assert_array_equal(inactive(sizes, tau).numpy(), a / a.mean() <= tau)
        np.testing.assert_array_equal(inactive(sizes * 1e-12, tau).numpy(), a / a.mean() <= tau)
    assert not inactive(sizes, -1.0).any()
    assert not inactive(torch.zeros(3), -1.0).any()
    assert inactive(torch.zeros(3), 0.0).all()
    assert not inactive(torch.ones(3), 0.5).any(), "equal gradients: nobody is inactive"


@pytest.mark.parametrize("of", ["weights", "units"])
@pytest.mark.parametrize("shared", [True, False])
def test_sizes_are_summed_over_the_minibatches_of_an_iteration(of, shared):
    """Compared with gradients taken again, one by one, at the parameters of each step."""
    p = built(of=of, shared=shared, when=[{"every": 2}])
    state, agent = p.learner.state, p.learner.agent
    expected = {}
    for phase, lr, batch in agent.batches(0.0):
        seen, sites = {}, {}
        for name, net in p.learner.networks.items():
            tap = net.tap()
            tap.begin()
            sites[name] = tap
        loss, _ = agent.loss(phase, batch)
        seen = {name: tap.end() for name, tap in sites.items()}
        for g in p.learner.anatomy.units:
            if of == "weights":
                (grad,) = torch.autograd.grad(loss, [state.params[g.weight]], retain_graph=True)
                size = np.abs(numbers(grad)).mean(1)
            else:
                pre = next(s.pre for s in seen[g.net] if s.name == g.site)
                (grad,) = torch.autograd.grad(loss, [pre], retain_graph=True)
                size = np.abs(numbers(grad)).mean(0)
            key = f"size/{g.net}/{g.site}"
            expected[key] = expected.get(key, 0.0) + size
        p.learner.updates[phase](batch, lr)
    slot = state.slots["regrama"]
    assert len(expected) == (2 if shared else 4)
    for key, value in expected.items():
        np.testing.assert_allclose(slot[key], value, rtol=1e-4, atol=1e-10)
    assert all(int(v) == 4 for k, v in slot.items() if k.startswith("minibatches"))


# -- what happens --------------------------------------------------------------------------------------------
def kill(p, units, layer="body.0"):
    with torch.no_grad():
        p.learner.state.params[f"shared/{layer}.bias"][units] = -1e3


def test_a_unit_without_a_gradient_is_reset_and_the_function_stays():
    p = built(tau=0.0)
    kill(p, [1, 4])
    lab.learn(p)
    before = lab.params(p)
    x = lab.observations(100)
    outputs = lab.outputs(p, x)
    for value in p.learner.state.opt["update"].values():
        value.fill_(5.0)
    facts = lab.act(p, "regrama")
    after = lab.params(p)
    assert facts["recycled"] >= 2
    assert facts["hidden_units"] == 16
    dead = (before["shared/body.0.bias"] < -900).nonzero().flatten().tolist()
    assert dead == [1, 4]
    assert not after["shared/body.1.weight"][:, dead].any()
    assert not after["shared/body.0.bias"][dead].any()
    changed = (after["shared/body.0.weight"] != before["shared/body.0.weight"]).any(1)
    assert changed[dead].all()
    first, second = (
        p.learner.state.opt["update"]["exp_avg/shared/body.0.weight"],
        "exp_avg/shared/body.1.weight",
    )
    assert torch.equal((first == 0).all(1), changed)
    assert torch.equal((p.learner.state.opt["update"][second] == 0).all(0), changed)
    for key, value in lab.outputs(p, x).items():
        torch.testing.assert_close(value, outputs[key], rtol=1e-4, atol=1e-5)
    assert not any(bool(t.any()) for t in p.learner.state.slots["regrama"].values()), "counting starts afresh"


def test_outgoing_weights_can_be_kept():
    p = built(tau=0.0, outgoing="keep")
    kill(p, [1])
    lab.learn(p)
    before = lab.params(p)
    lab.act(p, "regrama")
    after = lab.params(p)
    assert after["shared/body.1.weight"][:, 1].all()
    assert not torch.equal(after["shared/body.0.weight"][1], before["shared/body.0.weight"][1])


def test_a_saturated_unit_that_is_never_dormant_is_found():
    """tanh near 1 puts out a lot and learns nothing."""
    p = built(tau=0.01, network={"act": "tanh"}, of="units")
    with torch.no_grad():
        p.learner.state.params["shared/body.0.bias"][2] = 40.0
    lab.learn(p)
    before = lab.params(p)["shared/body.0.weight"]
    facts = lab.act(p, "regrama")
    changed = (lab.params(p)["shared/body.0.weight"] != before).any(1).nonzero().flatten().tolist()
    assert changed == [2]
    assert facts["recycled/shared"] == 1.0


def test_nothing_happens_before_the_first_gradient():
    p = built(tau=0.9, experience=False)
    before = lab.params(p)
    assert lab.act(p, "regrama")["recycled"] == 0.0
    assert all(torch.equal(v, before[k]) for k, v in lab.params(p).items())


def test_each_network_is_compared_with_itself():
    """A network whose gradients are a million times smaller has no inactive units for that."""
    p = built(tau=0.5, shared=False)
    slot, method = p.learner.state.slots["regrama"], lab.method(p, "regrama")
    for net, scale in (("actor", 1e-6), ("critic", 1.0)):
        params = {k: v for k, v in p.learner.state.params.items() if k.startswith(net)}
        grads = {k: torch.full_like(v, scale) for k, v in params.items()}
        method.observe(Seen(params, grads, {net: ()}, {}, p.learner.surgeon), slot, torch.Generator())
    assert lab.act(p, "regrama")["recycled"] == 0.0


@pytest.mark.parametrize("of", ["weights", "units"])
@pytest.mark.parametrize(
    ("agent", "network", "actions"),
    [("ppo", "impala", "discrete"), ("c51", "nature_cnn", "discrete"), ("td3", "mlp", "continuous")],
)
def test_acts_in_every_kind_of_run(of, agent, network, actions):
    node = lab.nodes("regrama", tau=0.9, of=of, when=[{"every": 2, "unit": "iterations"}])
    shared = {"shared": True} if agent == "ppo" else {}
    run = record(tiny_config(node, agent_name=agent, network_name=network, actions=actions, **shared))
    assert any(run.overwritten)
    assert not run.moved
    assert not run.draws


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"when": []}, "no rule"),
        ({"when": [{"on": "run_start"}]}, "run_start"),
        ({"scope": ["shared/head.*"]}, "nothing to reset"),
        ({"of": "activations"}, "wrong type"),
    ],
)
def test_refuses(changes, what):
    with pytest.raises(UserError, match=what):
        lab.parts(lab.nodes("regrama", **changes), shared=True)
