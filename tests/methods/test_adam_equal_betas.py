from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.optim import Adam, Divided, RAdam
from plasticine.errors import UserError
from plasticine.testing import record, tiny_config
from tests.methods import lab


def optimizer(p):
    return p.learner.surgeon._optimizers[0]


def adam_paths(grads, lr, beta, eps):
    """Positions after each step from 0, in float64."""
    m = v = theta = np.zeros_like(grads[0])
    path = []
    for t, g in enumerate(grads, 1):
        m, v = beta * m + (1 - beta) * g, beta * v + (1 - beta) * g * g
        theta = theta - lr * (m / (1 - beta**t)) / (np.sqrt(v / (1 - beta**t)) + eps)
        path.append(theta)
    return path


def test_steps_against_float64_and_never_longer_than_the_learning_rate():
    """Gradients grow a thousandfold half way, which makes steps of 6 x lr with the usual betas."""
    rng = np.random.default_rng(0)
    grads = [rng.normal(size=5) * (1.0 if t < 300 else 1000.0) for t in range(600)]
    p = lab.parts(lab.nodes("adam_equal_betas", beta=0.9))
    (part,) = [o for o, _, _ in bound(p)]
    w = torch.zeros(5, requires_grad=True)
    own = Adam(betas=part.betas, eps=part.eps)
    own.bind({"q/body.0.bias": w})
    usual, v = Adam(betas=(0.9, 0.999), eps=1e-8), torch.zeros(5, requires_grad=True)
    usual.bind({"q/body.0.bias": v})
    longest = usual_longest = 0.0
    for g, expected in zip(grads, adam_paths(grads, 0.01, 0.9, 1e-5), strict=True):
        before = w.detach().clone(), v.detach().clone()
        with torch.no_grad():
            own.step([torch.tensor(g, dtype=torch.float32)], 0.01)
            usual.step([torch.tensor(g, dtype=torch.float32)], 0.01)
        longest = max(longest, float((w.detach() - before[0]).abs().max()))
        usual_longest = max(usual_longest, float((v.detach() - before[1]).abs().max()))
        np.testing.assert_allclose(w.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
    assert longest <= 0.01 * (1 + 1e-4)
    assert usual_longest > 0.02


def bound(p):
    assert isinstance(optimizer(p), Divided)
    return optimizer(p)._parts


def test_equals_the_agent_with_these_betas_bit_by_bit():
    with_method = record(tiny_config(lab.nodes("adam_equal_betas", beta=0.95)))
    with_setting = record(tiny_config({}, agent={"adam_betas": [0.95, 0.95]}))
    assert all(torch.equal(v, with_setting.params[k]) for k, v in with_method.params.items())


def test_takes_the_agents_epsilon_unless_told():
    (adam,) = [o for o, _, _ in bound(lab.parts(lab.nodes("adam_equal_betas")))]
    assert (adam.betas, adam.eps) == ((0.99, 0.99), 1e-5)
    (adam,) = [o for o, _, _ in bound(lab.parts(lab.nodes("adam_equal_betas", eps=1e-3)))]
    assert adam.eps == 1e-3


def test_scope_is_a_part_of_the_parameters_and_the_rest_keeps_the_agents_optimizer():
    p = lab.parts(lab.nodes("adam_equal_betas", scope=["critic/*"]))
    inside, outside = bound(p)
    assert inside[2] == {k for k in p.learner.state.params if k.startswith("critic/")}
    assert outside[2] == set(p.learner.state.params) - inside[2]
    assert (inside[0].betas, outside[0].betas) == ((0.99, 0.99), (0.9, 0.999))
    assert set(p.learner.state.opt["update"]) == {
        f"{what}/{k}" for k in p.learner.state.params for what in ("exp_avg", "exp_avg_sq", "step")
    }


def test_each_part_gets_its_own_gradients_and_news():
    params = {name: torch.zeros(2, requires_grad=True) for name in "abcd"}
    divided = Divided(
        Adam(betas=(0.5, 0.5), eps=1e-8), Adam(betas=(0.9, 0.999), eps=1e-8), lambda n: n in "bd"
    )
    state = divided.bind(params)
    grads = [torch.full((2,), float(i + 1)) for i in range(4)]
    with torch.no_grad():
        divided.step(grads, 0.1)
    for i, name in enumerate(params):
        share = 0.5 if name in "bd" else 0.1
        assert torch.allclose(state[f"exp_avg/{name}"], share * grads[i])
    divided.overwritten("b", torch.tensor([True, False]), moments=True)
    divided.overwritten("c", None, moments=True)
    assert state["exp_avg/b"].tolist() == [0.0, 1.0]
    assert (float(state["step/b"]), float(state["step/c"])) == (1.0, 0.0)
    assert not state["exp_avg/c"].any()
    assert state["exp_avg/d"].any()


def test_replaces_the_rectified_adam_of_pqn():
    p = lab.parts(lab.nodes("adam_equal_betas"), agent_name="pqn")
    assert [type(o) for o, _, _ in bound(p)] == [Adam]
    p = lab.parts(lab.nodes("adam_equal_betas", scope=["q/head.*"]), agent_name="pqn")
    assert [type(o) for o, _, _ in bound(p)] == [Adam, RAdam]


def test_two_replacements_and_a_replacement_of_what_is_wrapped_are_refused():
    with pytest.raises(UserError, match="already replaced"):
        lab.parts({**lab.nodes("adam_equal_betas"), **lab.nodes("adam_rel")})
    with pytest.raises(UserError, match=r"put 'adam_equal_betas' before"):
        lab.parts({**lab.nodes("trac"), **lab.nodes("adam_equal_betas")})
    p = lab.parts({**lab.nodes("adam_equal_betas"), **lab.nodes("trac")})
    assert isinstance(optimizer(p)._base, Divided)


@pytest.mark.parametrize("changes", [{"beta": 1.0}, {"beta": -0.1}, {"eps": 0.0}])
def test_refuses_what_makes_no_sense(changes):
    with pytest.raises(UserError, match=next(iter(changes))):
        lab.parts(lab.nodes("adam_equal_betas", **changes))
