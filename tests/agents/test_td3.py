"""TD3 against an independent recomputation in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.agents.td3 import CriticBatch
from plasticine.core.env import ActionSpec, EnvSpec
from plasticine.core.noise import Streams
from plasticine.errors import UserError
from tests.agents.off_policy_lab import CONTINUOUS, DISCRETE, make_agent, make_learner, numpy_net, step

LOW, HIGH = np.array([-1.0, -3.0]), np.array([1.0, 5.0])
HALF, MIDDLE = np.array([1.0, 4.0]), np.array([0.0, 1.0])


def numpy_policy(tensors, obs):
    return np.tanh(numpy_net(tensors, "actor", "policy", obs)) * HALF + MIDDLE


def numpy_q(tensors, i, obs, actions):
    return numpy_net(tensors, f"critic.{i}", "value", np.concatenate([obs, actions], 1))[:, 0]


def f32(a):
    return torch.as_tensor(a, dtype=torch.float32)


def test_targets_equal_numpy():
    """Smoothing noise clipped, actions clipped, the smaller critic, slow copies only, and 0 after termination."""
    agent = make_agent("td3", target_noise=0.4, target_noise_clip=0.5, gamma=0.9)
    learner = make_learner(agent, CONTINUOUS)
    rng = np.random.default_rng(0)
    rewards, next_obs, terminated = rng.normal(size=200), rng.normal(size=(200, 5)), rng.random(200) < 0.3
    noise = torch.randn((200, 2), generator=Streams(0)["target_noise"]).double().numpy() * 0.4
    assert (abs(noise) > 0.5).mean() > 0.1
    slow = learner.state.targets
    raw = numpy_policy(slow, next_obs) + noise.clip(-0.5, 0.5) * HALF
    action = raw.clip(LOW, HIGH)
    assert (raw != action).any(0).all()
    q = np.stack([numpy_q(slow, i, next_obs, action) for i in range(2)])
    assert 0.1 < (q.argmin(0) == 0).mean() < 0.9
    expected = rewards + 0.9 * np.where(terminated, 0.0, q.min(0))
    got = agent._targets(f32(rewards), f32(next_obs), torch.as_tensor(terminated))
    assert not got.requires_grad
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_losses_equal_numpy():
    agent = make_agent("td3")
    learner = make_learner(agent, CONTINUOUS)
    rng = np.random.default_rng(0)
    obs, actions, targets = rng.normal(size=(64, 5)), rng.uniform(LOW, HIGH, (64, 2)), rng.normal(size=64)
    p = learner.state.params
    batch = CriticBatch(f32(np.concatenate([obs, actions], 1)), f32(obs), f32(targets))
    q = [numpy_q(p, i, obs, actions) for i in range(2)]
    loss, aux = agent.loss("critic", batch)
    expected = ((q[0] - targets) ** 2).mean() + ((q[1] - targets) ** 2).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    assert [a.item() for a in aux] == pytest.approx([expected, q[0].mean()], rel=1e-4)
    loss, aux = agent.loss("actor", batch)
    expected = -numpy_q(p, 0, obs, numpy_policy(p, obs)).mean()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    assert aux[0].item() == loss.item()


def test_actor_follows_the_gradient_of_the_first_critic():
    agent = make_agent("td3")
    learner = make_learner(agent, CONTINUOUS)
    obs = torch.randn(32, 5, generator=torch.Generator().manual_seed(0))
    batch = CriticBatch(torch.zeros(32, 7), obs, torch.zeros(32))
    before = agent.loss("actor", batch)[0].item()
    others = {k: v.detach().clone() for k, v in learner.state.params.items() if not k.startswith("actor/")}
    for _ in range(20):
        learner.updates["actor"](batch, 1e-2)
    assert agent.loss("actor", batch)[0].item() < before - 0.05
    assert all(torch.equal(v, learner.state.params[k]) for k, v in others.items())


@pytest.mark.parametrize("delay", [1, 2, 3])
def test_actor_and_slow_copies_are_delayed(delay):
    agent = make_agent("td3", policy_delay=delay, tau=0.25)
    learner = make_learner(agent, CONTINUOUS)
    rng = np.random.default_rng(0)
    while not agent.ready:
        step(agent, rng)
    seen = []
    for _ in range(7):
        step(agent, rng)
        for phase, lr, batch in agent.batches(0.0):
            seen.append(phase)
            slow = {k: v.clone() for k, v in learner.state.targets.items()}
            learner.updates[phase](batch, lr)
            for k, v in learner.state.targets.items():
                moved = 0.25 * learner.state.params[k].detach() + 0.75 * slow[k]
                torch.testing.assert_close(v, moved if phase == "actor" else slow[k], rtol=1e-5, atol=1e-6)
    assert "".join(p[0] for p in seen) == "".join("c" + "a" * (i % delay == 0) for i in range(1, 8))


def test_actions_are_scaled_noisy_and_inside_the_bounds():
    """Random at first; then the policy with noise of the right size, clipped."""
    agent = make_agent("td3", exploration_noise=0.1)
    learner = make_learner(agent, CONTINUOUS)
    obs = np.full((1, 5), 0.3, np.float32)
    rng = np.random.default_rng(0)

    def draw(count):
        actions = []
        for _ in range(count):
            agent.begin_collect()
            actions.append(agent.act(obs).copy())
        return np.concatenate(actions)

    first = draw(4000)
    np.testing.assert_allclose(first.mean(0), MIDDLE, atol=4 * 4 / np.sqrt(12 * 1000))
    np.testing.assert_allclose(first.std(0), 2 * HALF / np.sqrt(12), rtol=0.04)
    while not agent.ready:
        step(agent, rng)
    later = draw(4000)
    expected = numpy_policy(learner.state.params, obs.astype(float))[0]
    assert (abs(expected - MIDDLE) < 0.7 * HALF).all()
    np.testing.assert_allclose(later.mean(0), expected, atol=0.05)
    np.testing.assert_allclose(later.std(0), 0.1 * HALF, rtol=0.05)
    with torch.no_grad():
        learner.state.params["actor/head.policy.bias"].add_(100.0)
    np.testing.assert_allclose(draw(100).max(0), HIGH)
    assert first.dtype == later.dtype == np.float32


def test_a_random_start_is_not_repeated_when_the_memory_is_emptied():
    agent = make_agent("td3", on_switch="clear")
    learner = make_learner(agent, CONTINUOUS)
    rng = np.random.default_rng(0)
    while not agent.ready:
        step(agent, rng)
    learner.learn(0.0)
    agent.on_task_switch()
    assert (
        agent.probe_inputs(64, torch.Generator())["critic.1"].shape[0] >= 16
    )  # still there for interventions
    step(agent, rng)
    assert not agent.ready
    assert agent._replay.stored == 1
    assert not agent._random
    assert list(agent.batches(0.0)) == []


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (EnvSpec("x/y", (5,), "float32", DISCRETE, 1), "3 discrete actions.*agent for discrete actions"),
        (EnvSpec("x/y", (4, 8, 8), "uint8", CONTINUOUS, 1), "vector observations"),
        (
            EnvSpec("x/y", (5,), "float32", ActionSpec("continuous", 1, (-np.inf,), (1.0,)), 1),
            "bounded actions",
        ),
    ],
)
def test_environments_that_do_not_fit_are_refused(env, message):
    with pytest.raises(UserError) as refusal:
        make_agent("td3").check_env(env)
    import re

    assert re.search(message, f"{refusal.value.what} {refusal.value.fix}")
