"""The capacity probe: its fit against numpy, the zero at the start, and what it says of killed units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.compose import build_object
from plasticine.core.metric import Metric
from plasticine.metrics.capacity_probe import fitted_loss, standardised
from plasticine.testing.runs import global_random_states
from tests.metrics.experiments import EXPENSIVE, probe_of


def metric(**changes):
    return build_object({**EXPENSIVE["capacity_probe"], **changes}, Metric, "capacity_probe")


def measured(probe, **changes):
    with torch.no_grad():
        values = metric(**changes, every=1).compute(probe)
    return values


def test_targets_have_mean_zero_and_variance_one():
    y = standardised(torch.tensor([1.0, 2.0, 3.0, 10.0]) * 1e-3 + 5)
    assert float(y.mean()) == pytest.approx(0, abs=1e-4)
    assert float(y.square().mean()) == pytest.approx(1, rel=1e-4)
    assert standardised(torch.full((5,), 0.3)) is None
    assert standardised(torch.zeros(5)) is None
    assert standardised(torch.tensor([1.0, math.nan])) is None


def adam_in_numpy(x, y, w, head, picks, lr):
    """f = head . tanh(w x) + bias, everything trained, all in float64."""
    params = [w.copy(), head.copy(), np.zeros(())]
    first, second = [np.zeros_like(p) for p in params], [np.zeros_like(p) for p in params]
    for t, pick in enumerate(picks, start=1):
        a, b = x[pick], y[pick]
        h = np.tanh(a @ params[0].T)
        e = 2 * (h @ params[1] + params[2] - b) / len(b)
        grads = [(e[:, None] * params[1] * (1 - h**2)).T @ a, e @ h, e.sum()]
        for i, g in enumerate(grads):
            first[i] = 0.9 * first[i] + 0.1 * g
            second[i] = 0.999 * second[i] + 0.001 * g**2
            step = (first[i] / (1 - 0.9**t)) / (np.sqrt(second[i] / (1 - 0.999**t)) + 1e-8)
            params[i] = params[i] - lr * step
    return np.mean((np.tanh(x @ params[0].T) @ params[1] + params[2] - y) ** 2)


def test_fit_equals_numpy():
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(300, 3)), rng.normal(size=(5, 3))  # more rows than one forward pass
    y, head = np.sin(2 * x[:, 0]) + x[:, 1], rng.normal(size=5)
    body, given = {"w": torch.from_numpy(w).float()}, torch.from_numpy(head).float()
    found = fitted_loss(
        lambda p, a: torch.tanh(a @ p["w"].T),
        body,
        given,
        torch.from_numpy(x).float(),
        torch.from_numpy(y).float(),
        steps=40,
        batch_size=16,
        lr=0.02,
        generator=torch.Generator().manual_seed(3),
    )
    picks = torch.randint(300, (40, 16), generator=torch.Generator().manual_seed(3)).numpy()
    assert found == pytest.approx(adam_in_numpy(x, y, w, head, picks, 0.02), rel=1e-4)
    assert found < 0.8 * np.mean((np.tanh(x @ w.T) @ head - y) ** 2)
    assert torch.equal(body["w"], torch.from_numpy(w).float())
    assert torch.equal(given, torch.from_numpy(head).float())


@pytest.mark.parametrize("name", ["ppo", "td3", "pqn-nature"])
def test_gap_is_zero_at_the_initial_weights(name):
    _, probe = probe_of(name, agent={"lr": 0.0})
    values = measured(probe, steps=20)
    for net in probe.nets:
        assert values[f"{net.name}/gap"] == 0.0
        assert values[net.name] == values[f"{net.name}/fresh"] > 0


def killed(t, probe, net, share):
    """Units of the first hidden layer that are off for every input."""
    params = t.learner.state.params
    with torch.no_grad():
        units = int(share * len(params[f"{net}/body.0.bias"]))
        params[f"{net}/body.0.weight"][:units] = 0.0
        params[f"{net}/body.0.bias"][:units] = -1.0


@pytest.mark.parametrize("seed", range(2))
def test_killed_units_cost_capacity(seed):
    options = {"agent": {"lr": 0.0}, "network": {"hidden": [24, 24], "act": "relu"}, "actions": "continuous"}
    t, probe = probe_of("ppo", **options)
    probe.lab._moment = seed
    killed(t, probe, "actor", 0.95)
    before = {k: v.clone() for k, v in t.learner.state.tensors().items()}
    state = global_random_states()
    values = measured(probe, steps=150, targets=2, batch_size=24, lr=0.003)
    assert values["actor/gap"] > 0.1
    assert values["actor"] == pytest.approx(values["actor/fresh"] + values["actor/gap"])
    assert values["critic/gap"] == 0.0
    assert 0 < values["actor/fresh"] < 0.3
    assert global_random_states() == state
    assert all(torch.equal(v, before[k]) for k, v in t.learner.state.tensors().items())


def test_a_network_without_any_live_unit_learns_the_mean_only():
    options = {"agent": {"lr": 0.0}, "network": {"hidden": [24, 24], "act": "relu"}, "actions": "continuous"}
    t, probe = probe_of("ppo", **options)
    params = t.learner.state.params
    with torch.no_grad():
        for layer in ("body.0", "body.1"):
            params[f"actor/{layer}.weight"].zero_()
            params[f"actor/{layer}.bias"].fill_(-1.0)
    assert measured(probe, steps=300, lr=0.01, batch_size=24)["actor"] == pytest.approx(1.0, abs=0.1)


def test_targets_differ_and_are_averaged():
    _, probe = probe_of("pqn")
    one, three = (measured(probe, targets=n, steps=10)["q"] for n in (1, 3))
    generator = probe.lab.generator("capacity_probe")
    with torch.no_grad():
        pairs = [metric(steps=10)._pair(probe.lab, probe.nets[0], generator) for _ in range(3)]
    assert one == pairs[0][0]
    assert three == pytest.approx(np.mean([p[0] for p in pairs]))
    assert len({p[0] for p in pairs}) == 3
