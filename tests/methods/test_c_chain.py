from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.compose import assemble_parts
from plasticine.core.noise import Streams
from plasticine.core.optim import Adam
from plasticine.core.view import View
from plasticine.errors import UserError
from plasticine.methods.c_chain import Remembering, relative_coefficient
from plasticine.testing import record, tiny_config
from tests.agents.off_policy_lab import toy_config
from tests.methods import lab

ZERO = (torch.zeros(()), (torch.tensor(-0.3),))


def built(agent="ppo", **changes):
    nodes = lab.nodes("c_chain", **{"coef": 1.0, "samples": 12, **changes})
    if agent in ("td3", "c51"):
        config = toy_config(agent)
        config["method"] = nodes
        p = assemble_parts(config)
        p.collector.enter(p.level.enter(p.level.tasks()[0], 0), 0, switch=False)
        for _ in range(20):
            p.collector.collect(p.learner.agent.collect_steps)
            p.learner.agent.prepare(p.collector.obs)
        return p
    actions = "discrete" if agent in ("pqn", "discrete") else "continuous"
    name = "pqn" if agent == "pqn" else "ppo"
    config = {"agent_name": name, "actions": actions, "network": {"act": "tanh"}}
    if name == "ppo":  # outputs that are not next to constant
        config["agent"] = {"policy_gain": 1.0}
    return lab.parts(nodes, experience=True, **config)


def nets_of(p, phase="update"):
    (nets,) = [f.nets for f in p.learner.agent.phases() if f.name == phase]
    return {net: p.learner.networks[net] for net in nets}


def wrapped(p, inner, phase="update", seed=0):
    """The wrapped loss of a phase, and the inputs that it will draw first."""
    views = [View(p.learner.agent, nets_of(p, phase), torch.Generator().manual_seed(seed)) for _ in range(2)]
    m, state = lab.method(p, "c_chain"), p.learner.state
    params = {k: v for k, v in m.select(state.params).items() if k.split("/")[0] in nets_of(p, phase)}
    return m.wrap_loss(inner, views[0], params, state.slots["c_chain"]), views[1].inputs(12)


def output(tensors, net, head, x):
    """A network of two tanh layers in float64."""
    p = {
        k.split("/", 1)[1]: v.detach().double().numpy() for k, v in tensors.items() if k.startswith(net + "/")
    }
    for i in range(2):
        x = np.tanh(x @ p[f"body.{i}.weight"].T + p[f"body.{i}.bias"])
    return x @ p[f"head.{head}.weight"].T + p[f"head.{head}.bias"]


def divergence(before, now):
    def log_softmax(z):
        z = z - z.max(-1, keepdims=True)
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(before), log_softmax(now)
    return (np.exp(p) * (p - q)).sum(-1).mean()


def squares(before, now):
    return ((before - now) ** 2).mean()


CASES = {
    "ppo": ("update", "actor", "policy", squares),
    "discrete": ("update", "actor", "policy", divergence),
    "pqn": ("update", "q", "q", squares),
    "c51": ("update", "q", "atoms", lambda b, n: divergence(b.reshape(12, 3, 11), n.reshape(12, 3, 11))),
    "td3": ("actor", "actor", "policy", lambda b, n: squares(np.tanh(b), np.tanh(n))),
}


def moved(p, seed=2, size=0.05):
    """Give the memory other values than the parameters; return it."""
    generator = torch.Generator().manual_seed(seed)
    m = lab.method(p, "c_chain")
    for value in m._previous.values():
        value.add_(size * torch.randn(value.shape, generator=generator))
    return {**p.learner.state.params, **m._previous}


@pytest.mark.parametrize("agent", CASES)
def test_penalty_and_its_gradient_against_float64(agent):
    phase, net, head, difference = CASES[agent]
    p = built(agent, coef=2.5)
    before = moved(p)
    loss, inputs = wrapped(p, lambda batch: ZERO, phase)
    value, aux = loss(object())
    assert aux is ZERO[1]
    x = inputs[net].double().numpy()
    assert x.shape[0] == 12
    old = output(before, net, head, x)
    expected = 2.5 * difference(old, output(p.learner.state.params, net, head, x))
    assert float(value.detach()) == pytest.approx(expected, rel=2e-3)
    assert expected > 1e-5
    name = f"{net}/head.{head}.bias"
    (gradient,) = torch.autograd.grad(value, [p.learner.state.params[name]])
    for i in range(2):  # central differences
        ends = []
        for sign in (1, -1):
            shifted = {k: v.detach().double() for k, v in p.learner.state.params.items()}
            shifted[name] = shifted[name].clone()
            shifted[name][i] += sign * 1e-4
            ends.append(2.5 * difference(old, output(shifted, net, head, x)))
        assert float(gradient[i]) == pytest.approx((ends[0] - ends[1]) / 2e-4, rel=1e-2, abs=1e-6)


def test_nothing_is_added_before_the_first_step_and_something_after():
    p = built("ppo", coef=1.0)
    loss, _ = wrapped(p, lambda batch: ZERO)
    value, _ = loss(object())
    assert float(value.detach()) == 0.0
    grads = torch.autograd.grad(value, list(p.learner.state.params.values()), allow_unused=True)
    assert not any(bool(g.any()) for g in grads if g is not None)
    lab.learn(p)
    assert float(loss(object())[0].detach()) > 0.0


def test_the_memory_is_one_step_old():
    p = built("discrete")
    memory = lab.method(p, "c_chain")._previous
    for phase, lr, batch in p.learner.agent.batches(0.0):
        before = lab.params(p)
        p.learner.updates[phase](batch, lr)
        assert set(memory) == {k for k in before if k.startswith("actor/")}
        for name, value in memory.items():
            assert torch.equal(value, before[name])
            assert not torch.equal(value, lab.params(p)[name])
            assert value is p.learner.state.opt["update"][f"previous/{name}"]


def test_what_is_overwritten_is_no_churn():
    params = {"q/head.q.bias": torch.zeros(3, requires_grad=True)}
    memory: dict[str, torch.Tensor] = {}
    optimizer = Remembering(Adam(betas=(0.9, 0.999), eps=1e-8), lambda name: True, memory)
    state = optimizer.bind(params)
    with torch.no_grad():
        optimizer.step([torch.ones(3)], 1.0)
        params["q/head.q.bias"].copy_(torch.tensor([7.0, 8.0, 9.0]))
        optimizer.overwritten("q/head.q.bias", torch.tensor([True, False, True]), moments=True)
        assert memory["q/head.q.bias"].tolist() == [7.0, 0.0, 9.0]
        assert state["exp_avg/q/head.q.bias"].tolist() == pytest.approx([0.0, 0.1, 0.0])
        optimizer.overwritten("q/head.q.bias", None, moments=False)
    assert memory["q/head.q.bias"].tolist() == [7.0, 8.0, 9.0]


def test_coefficient_follows_the_averages():
    """Against the recurrence in float64, with a main loss and a penalty that change from step to step."""
    p, other = built("ppo", coef=None, target=0.05, decay=0.9), built("ppo", coef=1.0)
    mains = [0.4, -0.2, 0.7, 0.1]
    steps = iter(mains)
    loss, _ = wrapped(p, lambda batch: (torch.zeros(()), (torch.tensor(next(steps)),)))
    bare, _ = wrapped(other, lambda batch: ZERO)
    main = churn = 0.0
    for i, m in enumerate(mains):
        moved(p, seed=i)
        moved(other, seed=i)
        raw = float(bare(object())[0].detach())
        main, churn = 0.9 * main + 0.1 * abs(m), 0.9 * churn + 0.1 * raw
        got = float(loss(object())[0].detach())
        assert got == pytest.approx(0.05 * main / churn * raw, rel=1e-4)
        assert got > 0.0


def test_coefficient_is_zero_without_churn():
    zero, one = torch.zeros(()), torch.ones(())
    assert float(relative_coefficient(0.05, one, zero)) == 0.0
    assert float(relative_coefficient(0.05, 2 * one, 4 * one)) == pytest.approx(0.025)


def test_a_loss_evaluated_twice_sees_the_same_observations():
    p = built("ppo", coef=None)
    moved(p)
    slot = p.learner.state.slots["c_chain"]
    loss, _ = wrapped(p, lambda batch: ZERO)
    batch = object()
    first = float(loss(batch)[0].detach())
    averages = {k: v.clone() for k, v in slot.items()}
    assert float(loss(batch)[0].detach()) == first
    assert all(torch.equal(v, averages[k]) for k, v in slot.items())
    assert float(loss(object())[0].detach()) != first


def test_only_tensors_in_scope_make_churn_and_are_held():
    p = built("discrete", scope=["actor/body.0.*"])
    assert set(lab.method(p, "c_chain")._previous) == {"actor/body.0.weight", "actor/body.0.bias"}
    moved(p)
    loss, _ = wrapped(p, lambda batch: ZERO)
    value, _ = loss(object())
    grads = torch.autograd.grad(value, list(p.learner.state.params.values()), allow_unused=True)
    held = {k for k, g in zip(p.learner.state.params, grads, strict=True) if g is not None}
    assert held == {"actor/body.0.weight", "actor/body.0.bias"}
    assert float(value.detach()) > 0


def test_heads_choose_networks():
    p = built("ppo", heads=["val*"])
    assert {k.split("/")[0] for k in lab.method(p, "c_chain")._previous} == {"critic"}
    assert set(p.learner.state.slots["c_chain"]) == {"main/critic", "churn/critic"}
    moved(p)
    loss, inputs = wrapped(p, lambda batch: ZERO)
    x = inputs["critic"].double().numpy()
    before = {**p.learner.state.params, **lab.method(p, "c_chain")._previous}
    expected = squares(
        output(before, "critic", "value", x), output(p.learner.state.params, "critic", "value", x)
    )
    assert float(loss(object())[0].detach()) == pytest.approx(expected, rel=1e-3)
    with pytest.raises(UserError, match="finds none of the heads"):
        built("ppo", heads=["q"])


def test_less_churn_with_it_than_without():
    def churn(coef):
        p = built("discrete", coef=coef)
        x = lab.observations(200)
        total = 0.0
        for _ in range(5):
            for phase, lr, batch in p.learner.agent.batches(0.0):
                before = lab.outputs(p, x)["actor/policy"]
                p.learner.updates[phase](batch, 10 * lr)
                total += divergence(
                    before.double().numpy(), lab.outputs(p, x)["actor/policy"].double().numpy()
                )
            p.learner.flush()
        return total

    assert churn(300.0) < 0.7 * churn(0.0)


def test_draws_from_its_own_stream():
    with_method, without = record(tiny_config(lab.nodes("c_chain"))), record(tiny_config({}))
    mine, theirs = (r.trainer.learner.streams.state() for r in (with_method, without))
    assert all(torch.equal(mine[k], v) for k, v in theirs.items())
    assert not torch.equal(mine["method/c_chain"], Streams(0).once("method/c_chain").get_state())


def test_composes_with_wrappers_but_not_with_a_later_replacement():
    p = lab.parts({**lab.nodes("c_chain"), **lab.nodes("trac")})
    assert isinstance(p.learner.surgeon._optimizers[0]._base, Remembering)
    lab.parts({**lab.nodes("adam_equal_betas"), **lab.nodes("c_chain")})
    with pytest.raises(UserError, match="put 'upgd' before"):
        lab.parts({**lab.nodes("c_chain"), **lab.nodes("upgd")})


def test_refuses_what_makes_no_sense():
    for changes in ({"coef": -1.0}, {"target": -0.1}, {"decay": 1.0}, {"samples": 0}):
        with pytest.raises(UserError, match=next(iter(changes))):
            built(**changes)
