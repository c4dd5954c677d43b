from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.core.optim import Adam
from plasticine.errors import UserError
from plasticine.methods.upgd import UpgdOptimizer, UpgdSettings, gates_
from plasticine.testing import record, tiny_config
from tests.methods import lab

LR = 0.01


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def optimizer(params, **changes):
    settings = UpgdSettings((0.9, 0.999), 1e-5, True, 0.99, 0.05, 2.0)._replace(**changes)
    o = UpgdOptimizer(settings)
    return o, o.bind(params)


def two_tensors(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "q/body.0.weight": torch.randn(3, 2, generator=generator).requires_grad_(True),
        "q/body.0.bias": torch.randn(3, generator=generator).requires_grad_(True),
    }


def gradients(count, seed=1):
    """Random ones, except that the last bias (which is negative) is of use all the time."""
    rng = np.random.default_rng(seed)
    found = [[rng.normal(size=(3, 2)), rng.normal(size=3)] for _ in range(count)]
    for g in found:
        g[1][2] = 2.0 + abs(g[1][2])
    return found


def reference(theta, grads, noises, s, sigma):
    """Algorithm 1 of the paper (weight-wise, global), with Adam's direction, in float64."""
    u, m, v = ([np.zeros_like(p) for p in theta] for _ in range(3))
    for t, (g, noise) in enumerate(zip(grads, noises, strict=True), 1):
        corrected = []
        for i in range(len(theta)):
            u[i] = s.utility_decay * u[i] + (1 - s.utility_decay) * (-g[i] * theta[i])
            m[i] = s.betas[0] * m[i] + (1 - s.betas[0]) * g[i]
            v[i] = s.betas[1] * v[i] + (1 - s.betas[1]) * g[i] ** 2
            corrected.append(u[i] / (1 - s.utility_decay**t))
        largest = max(c.max() for c in corrected)
        assert largest > 0
        for i in range(len(theta)):
            gate = 1 - sigmoid(corrected[i] / largest)
            direction = g[i]
            if s.adaptive:
                direction = (m[i] / (1 - s.betas[0] ** t)) / (np.sqrt(v[i] / (1 - s.betas[1] ** t)) + s.eps)
            theta[i] = (1 - LR * s.weight_decay) * theta[i]
            theta[i] = theta[i] - s.step_scale * LR * (direction + sigma * noise[i]) * gate
    return theta


@pytest.mark.parametrize("adaptive", [True, False])
@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_against_the_published_algorithm_in_float64(adaptive, sigma):
    params = two_tensors()
    o, _ = optimizer(params, adaptive=adaptive)
    theta = [p.detach().double().numpy().copy() for p in params.values()]
    grads, noises = gradients(60), []
    mine, again = torch.Generator().manual_seed(5), torch.Generator().manual_seed(5)
    with torch.no_grad():
        for g in grads:
            o.step([torch.tensor(x, dtype=torch.float32) for x in g], LR)
            draw = torch.empty(9).normal_(generator=again).double().numpy()
            noises.append([draw[:6].reshape(3, 2), draw[6:]])
            o.perturb(mine, sigma)
    start = [x.copy() for x in theta]
    expected = reference(theta, grads, noises, o.settings, sigma)
    for p, e, s in zip(params.values(), expected, start, strict=True):
        np.testing.assert_allclose(p.detach().numpy(), e, rtol=2e-4, atol=2e-5)
        assert np.abs(e - s).max() > 0.05


def test_gates():
    utilities = [torch.tensor([2.0, 0.0, -2.0]), torch.tensor([[1.0]])]
    gates = [torch.empty(3), torch.empty(1, 1)]
    gates_(gates, utilities)
    assert gates[0].tolist() == pytest.approx([1 - sigmoid(1.0), 0.5, 1 - sigmoid(-1.0)], abs=1e-6)
    assert float(gates[0][0]) == pytest.approx(0.269, abs=1e-3)
    assert float(gates[1]) == pytest.approx(1 - sigmoid(0.5), abs=1e-6)
    gates_(gates, [torch.tensor([-1.0, 0.0, -1e-3]), torch.tensor([[-5.0]])])  # nothing worth protecting
    assert gates[0].tolist() == [1.0, 0.5, 1.0]
    assert float(gates[1]) == 1.0
    gates_(gates, [torch.zeros(3), torch.zeros(1, 1)])
    assert torch.cat([g.flatten() for g in gates]).tolist() == [0.5] * 4


def test_equal_utilities_and_no_noise_are_scaled_gradient_descent():
    params = {"a": torch.full((4,), -1.0, requires_grad=True)}
    o, _ = optimizer(params, adaptive=False, weight_decay=0.0)
    with torch.no_grad():
        o.step([torch.ones(4)], LR)  # every utility is 1, the largest
    expected = -1.0 - 2 * LR * (1 - sigmoid(1.0))
    np.testing.assert_allclose(params["a"].detach().numpy(), expected, rtol=1e-6)


def test_overwritten_entries_lose_utility_and_moments():
    params = two_tensors()
    o, state = optimizer(params)
    with torch.no_grad():
        for g in gradients(5):
            o.step([torch.tensor(x, dtype=torch.float32) for x in g], LR)
    mask = torch.tensor([True, False, True])
    kept = {k: v.clone() for k, v in state.items()}
    o.overwritten("q/body.0.bias", mask, moments=False)
    o.overwritten("q/frozen.0.bias", None, moments=True)
    assert all(torch.equal(v, kept[k]) for k, v in state.items())
    o.overwritten("q/body.0.bias", mask, moments=True)
    for what in ("utility", "exp_avg", "exp_avg_sq"):
        assert torch.equal(state[f"{what}/q/body.0.bias"] == 0, mask)
        assert bool(state[f"{what}/q/body.0.weight"].all())
    assert float(state["step/q/body.0.bias"]) == 5.0
    o.overwritten("q/body.0.weight", None, moments=True)
    assert not any(
        state[f"{what}/q/body.0.weight"].any() for what in ("utility", "exp_avg", "exp_avg_sq", "step")
    )


def test_takes_over_the_agents_constants_within_its_scope():
    p = lab.parts(lab.nodes("upgd", scope=["actor/*"]), agent={"adam_betas": [0.8, 0.99], "adam_eps": 1e-4})
    inside, outside = p.learner.surgeon._optimizers[0]._parts
    assert isinstance(inside[0], UpgdOptimizer)
    assert inside[0].settings == UpgdSettings((0.8, 0.99), 1e-4, True, 0.999, 1e-3, 2.0)
    assert type(outside[0]) is Adam
    state = p.learner.state.opt["update"]
    assert {k for k in state if k.startswith("utility/")} == {f"utility/{k}" for k in inside[2]}
    assert all(k.startswith("actor/") for k in inside[2])


def test_only_the_methods_own_stream_is_drawn_from_and_only_with_noise():
    streams = {}
    for sigma in (0.0, 0.5):
        run = record(tiny_config(lab.nodes("upgd", sigma=sigma)), stop_after=2)
        assert not run.draws
        streams[sigma] = run.trainer.learner.streams.state()
    for name in streams[0.0]:
        same = torch.equal(streams[0.0][name], streams[0.5][name])
        assert same == (name != "method/upgd"), name


def test_both_optimizers_of_td3_are_perturbed():
    from tests.agents.off_policy_lab import toy_config

    config = toy_config("td3")
    config["method"] = lab.nodes("upgd", sigma=5.0)
    noisy = record(config, stop_after=4)
    config["method"] = lab.nodes("upgd", sigma=0.0)
    quiet = record(config, stop_after=4)
    moved = [k for k, v in noisy.params.items() if not torch.equal(v, quiet.params[k])]
    assert {k.split("/")[0] for k in moved} == {"actor", "critic.0", "critic.1"}


def test_refuses_another_replacement_and_what_makes_no_sense():
    with pytest.raises(UserError, match="only one"):
        lab.parts({**lab.nodes("adam_equal_betas"), **lab.nodes("upgd")})
    with pytest.raises(UserError, match="wrapped"):
        lab.parts({**lab.nodes("trac"), **lab.nodes("upgd")})
    for changes in ({"utility_decay": 1.0}, {"sigma": -1.0}, {"weight_decay": -1.0}, {"step_scale": 0.0}):
        with pytest.raises(UserError, match=next(iter(changes))):
            lab.parts(lab.nodes("upgd", **changes))
