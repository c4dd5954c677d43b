from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.optim import Adam
from plasticine.errors import UserError
from plasticine.methods.adam_rel import RelativeAdam
from plasticine.testing import record, tiny_config
from tests.agents.off_policy_lab import toy_config
from tests.methods import lab


def reference(grads, lr, betas, eps, restarts):
    """Algorithm 1 of the paper in float64: t restarts, m and v go on."""
    m = v = theta = np.zeros_like(grads[0])
    t = 0
    for i, g in enumerate(grads):
        if i in restarts:
            t = 0
        t += 1
        m, v = betas[0] * m + (1 - betas[0]) * g, betas[1] * v + (1 - betas[1]) * g * g
        theta = theta - lr * (m / (1 - betas[0] ** t)) / (np.sqrt(v / (1 - betas[1] ** t)) + eps)
    return theta


@pytest.mark.parametrize("restarts", [{20}, {7, 8, 25}, set()])
def test_against_float64(restarts):
    rng = np.random.default_rng(1)
    grads = [rng.normal(size=4) for _ in range(40)]
    w = torch.zeros(4, requires_grad=True)
    adam = RelativeAdam(betas=(0.9, 0.999), eps=1e-5)
    state = adam.bind({"q/body.0.bias": w})
    for i, g in enumerate(grads):
        if i in restarts:
            moments = state["exp_avg/q/body.0.bias"].clone()
            assert adam.restart(["q/body.0.bias", "elsewhere"]) == 1
            assert torch.equal(state["exp_avg/q/body.0.bias"], moments)
            assert bool(moments.any())
        with torch.no_grad():
            adam.step([torch.tensor(g, dtype=torch.float32)], 0.01)
    expected = reference(grads, 0.01, (0.9, 0.999), 1e-5, restarts)
    np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-4, atol=1e-6)


def test_a_jump_of_the_gradient_makes_no_long_steps():
    def longest(relative):
        w = torch.zeros(1, requires_grad=True)
        adam = RelativeAdam(betas=(0.9, 0.999), eps=1e-8)
        adam.bind({"w": w})
        steps = []
        for i in range(600):
            if relative and i == 500:
                adam.restart(["w"])
            before = float(w.detach())
            with torch.no_grad():
                adam.step([torch.full((1,), 1.0 if i < 500 else 1e3)], 1.0)
            steps.append(abs(float(w.detach()) - before))
        return max(steps[500:])

    assert longest(relative=False) > 4
    assert longest(relative=True) < 1.01


def test_restarts_with_every_iteration():
    run = record(tiny_config(lab.nodes("adam_rel")))
    for tensors in run.iterations:
        steps = [float(v) for k, v in tensors.items() if ":step/" in k]
        assert steps
        assert set(steps) == {0.0}
        assert any(bool(v.any()) for k, v in tensors.items() if ":exp_avg/" in k)


def test_before_the_first_restart_it_is_the_agents_adam_bit_by_bit():
    run, base = record(tiny_config(lab.nodes("adam_rel"))), record(tiny_config({}))
    assert all(torch.equal(v, base.learnt[0][1][k]) for k, v in run.learnt[0][1].items())
    assert any(not torch.equal(v, base.learnt[1][1][k]) for k, v in run.learnt[1][1].items())


def test_restarts_in_scope_only():
    p = lab.parts(lab.nodes("adam_rel", scope=["actor/*"]), experience=True)
    lab.learn(p)
    assert lab.act(p, "adam_rel")["tensors"] == len([k for k in lab.params(p) if k.startswith("actor/")])
    for key, value in p.learner.state.opt["update"].items():
        if key.startswith("step/"):
            assert float(value) == (0.0 if key.startswith("step/actor/") else 4.0)


def test_constants_are_the_agents():
    p = lab.parts(lab.nodes("adam_rel"), agent={"adam_betas": [0.8, 0.95], "adam_eps": 1e-4})
    ((adam, _, _),) = p.learner.surgeon._optimizers[0]._parts
    assert (adam.betas, adam.eps) == ((0.8, 0.95), 1e-4)
    ((adam, _, _),) = lab.parts(lab.nodes("adam_rel"), agent_name="pqn").learner.surgeon._optimizers[0]._parts
    assert isinstance(adam, Adam)


def test_refuses_to_have_no_rule_and_to_replace_twice():
    with pytest.raises(UserError, match="no rule"):
        lab.parts(lab.nodes("adam_rel", when=[]))
    with pytest.raises(UserError, match="only one"):
        lab.parts({**lab.nodes("adam_rel"), **lab.nodes("adam_equal_betas")})
    with pytest.raises(UserError, match="wrapped"):
        lab.parts({**lab.nodes("trac"), **lab.nodes("adam_rel")})


def test_both_optimizers_of_td3_restart():
    config = toy_config("td3")
    config["method"] = lab.nodes("adam_rel")
    run = record(config)
    last = run.iterations[-1]
    for phase in ("actor", "critic"):
        steps = [float(v) for k, v in last.items() if k.startswith(f"opt:{phase}:step/")]
        assert steps
        assert set(steps) == {0.0}
        assert any(bool(v.any()) for k, v in last.items() if k.startswith(f"opt:{phase}:exp_avg/"))
