"""C51 against an independent recomputation in numpy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.agents.c51 import QBatch, projected
from plasticine.core.env import EnvSpec
from plasticine.errors import UserError
from tests.agents.off_policy_lab import CONTINUOUS, DISCRETE, make_agent, make_learner, numpy_net, step


def by_definition(masses, rewards, discounts, support):
    """Algorithm 1 of the paper, one atom at a time, in exact order."""
    low, high, n = support[0], support[-1], len(support)
    width = (high - low) / (n - 1)
    out = np.zeros_like(masses)
    for row in range(len(masses)):
        for j in range(n):
            place = (min(max(rewards[row] + discounts[row] * support[j], low), high) - low) / width
            place = round(place, 9)
            below, above = math.floor(place), math.ceil(place)
            if below == above:
                out[row, below] += masses[row, j]
            else:
                out[row, below] += masses[row, j] * (above - place)
                out[row, above] += masses[row, j] * (place - below)
    return out


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def random_masses(rows, atoms, seed=0):
    return softmax(3 * np.random.default_rng(seed).normal(size=(rows, atoms)))


@pytest.mark.parametrize(("atoms", "low", "high"), [(51, -10.0, 10.0), (11, 0.0, 100.0), (2, -1.0, 1.0)])
@pytest.mark.parametrize("discount", [0.0, 0.99, 1.0])
@pytest.mark.parametrize("rewards", ["random", "whole atoms", "below", "above"])
def test_projection_equals_its_definition(atoms, low, high, discount, rewards):
    support = np.linspace(low, high, atoms)
    width = support[1] - support[0]
    rng = np.random.default_rng(1)
    r = {
        "random": rng.normal(size=20) * (high - low) / 3,
        "whole atoms": width * rng.integers(-atoms, atoms, 20),
        "below": np.full(20, 3 * low - high),
        "above": np.full(20, 3 * high - low),
    }[rewards]
    masses = random_masses(20, atoms)
    d = np.full(20, discount)
    got = projected(*(torch.as_tensor(a) for a in (masses, r, d, support)))
    np.testing.assert_allclose(got.numpy(), by_definition(masses, r, d, support), atol=1e-8)
    single = projected(*(torch.as_tensor(a, dtype=torch.float32) for a in (masses, r, d, support))).numpy()
    np.testing.assert_allclose(single.sum(1), 1.0, atol=1e-5)
    np.testing.assert_allclose(single, got.numpy(), atol=2e-4)
    assert (single >= 0).all()


def test_projection_preserves_the_mean_inside_the_support():
    support = np.linspace(-10, 10, 51)
    masses = random_masses(50, 51)
    masses[:, :13] = masses[:, -13:] = 0.0
    masses /= masses.sum(1, keepdims=True)
    r = np.random.default_rng(2).uniform(-3, 3, 50)
    got = projected(*(torch.as_tensor(a) for a in (masses, r, np.full(50, 0.97), support))).numpy()
    np.testing.assert_allclose(got @ support, r + 0.97 * (masses @ support), atol=1e-10)


def test_projection_of_ends_and_termination():
    """Termination on an atom puts everything there; beyond an end, everything on that end."""
    support = torch.linspace(-10, 10, 51)
    masses = torch.as_tensor(random_masses(4, 51), dtype=torch.float32)
    got = projected(masses, torch.tensor([2.0, -10.0, 10.0, 77.0]), torch.zeros(4), support)
    expected = torch.zeros(4, 51)
    expected[[0, 1, 2, 3], [30, 0, 50, 50]] = 1.0
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_targets_and_loss_equal_numpy():
    agent = make_agent("c51", gamma=0.9, atoms=7, v_min=-2.0, v_max=2.0)
    learner = make_learner(agent, DISCRETE)
    rng = np.random.default_rng(0)
    n, support = 100, np.linspace(-2, 2, 7)
    obs, next_obs = rng.normal(size=(2, n, 5))
    rewards, terminated, actions = rng.normal(size=n), rng.random(n) < 0.3, rng.integers(0, 3, n)
    slow = softmax(numpy_net(learner.state.targets, "q", "atoms", next_obs).reshape(n, 3, 7))
    best = (slow @ support).argmax(1)
    assert len(set(best)) > 1
    expected = by_definition(slow[np.arange(n), best], rewards, 0.9 * ~terminated, support)
    f32 = lambda a: torch.as_tensor(a, dtype=torch.float32)  # noqa: E731
    targets = agent._targets(f32(rewards), f32(next_obs), torch.as_tensor(terminated))
    assert not targets.requires_grad
    np.testing.assert_allclose(targets.numpy(), expected, atol=1e-4)

    online = softmax(numpy_net(learner.state.params, "q", "atoms", obs).reshape(n, 3, 7))[
        np.arange(n), actions
    ]
    loss, aux = agent.loss("update", QBatch(f32(obs), torch.as_tensor(actions), f32(expected)))
    cross_entropy = -(expected * np.log(online)).sum(1).mean()
    assert loss.item() == pytest.approx(cross_entropy, rel=1e-5)
    assert [a.item() for a in aux] == pytest.approx([cross_entropy, (online @ support).mean()], rel=1e-4)


def test_slow_copy_is_renewed_periodically():
    agent = make_agent("c51", train_frequency=4, target_frequency=12)
    learner = make_learner(agent, DISCRETE)
    rng, renewed = np.random.default_rng(0), []
    while not agent.ready:
        step(agent, rng)
    for _ in range(7):
        step(agent, rng)
        before = {k: v.clone() for k, v in learner.state.targets.items()}
        assert learner.learn(0.0) == 1
        learner.flush()
        equal = all(torch.equal(v, learner.state.params[k]) for k, v in learner.state.targets.items())
        kept = all(torch.equal(v, before[k]) for k, v in learner.state.targets.items())
        assert equal != kept
        renewed.append(equal)
    assert renewed == [False, False, True, False, False, True, False]


def test_exploration_falls_linearly():
    agent = make_agent("c51", epsilon_start=1.0, epsilon_end=0.1, epsilon_fraction=0.5)
    learner = make_learner(agent, DISCRETE)
    obs = np.full((1, 5), 0.3, np.float32)
    atoms = numpy_net(learner.state.params, "q", "atoms", obs.astype(float)).reshape(3, agent.atoms)
    greedy = (softmax(atoms) @ np.linspace(-10, 10, 51)).argmax()
    for progress, epsilon in ((0.0, 1.0), (0.25, 0.55), (0.5, 0.1), (0.9, 0.1)):
        list(agent.batches(progress))
        assert agent.epsilon == agent.statistics()["epsilon"] == pytest.approx(epsilon)
        taken = []
        for _ in range(3000):
            agent.begin_collect()
            taken.append(agent.act(obs)[0])
        share = np.bincount(taken, minlength=3) / 3000
        expected = np.full(3, epsilon / 3)
        expected[greedy] += 1 - epsilon
        assert np.abs(share - expected).max() < 4 * math.sqrt(0.25 / 3000)


def test_stacked_images_are_stored_frame_by_frame():
    shapes = {((4, 8, 8), "uint8"): 4, ((3, 8, 8), "uint8"): 1, ((4,), "float32"): 1}
    for (shape, dtype), frames in shapes.items():
        agent = make_agent("c51")
        env = EnvSpec("x/y", shape, dtype, DISCRETE, 1)
        agent.bind(env, {"q": _NoNetwork()}, _State(), None, torch.device("cpu"))  # type: ignore[arg-type, dict-item]
        assert agent._replay._frames == frames


class _NoNetwork:
    def __init__(self) -> None:
        self.name, self.params = "q", {}


class _State:
    def __init__(self) -> None:
        self.targets: dict = {}


def test_images_are_scaled_to_one():
    agent = make_agent("c51", frame_stack=3)
    env = EnvSpec("x/y", (3, 2, 2), "uint8", DISCRETE, 1)
    agent.bind(env, {"q": _NoNetwork()}, _State(), None, torch.device("cpu"))  # type: ignore[arg-type, dict-item]
    image, none = np.full((1, 3, 2, 2), 255, np.uint8), np.zeros(1, bool)
    for _ in range(2):
        agent._replay.observe(image)
        agent._replay.record(np.zeros(1, int), np.zeros(1), none, none, None, None)
    assert agent.probe_inputs(1, torch.Generator())["q"].eq(1.0).all()
    assert agent._input(torch.from_numpy(image)).eq(1.0).all()


def test_continuous_actions_are_refused():
    env = EnvSpec("x/y", (5,), "float32", CONTINUOUS, 1)
    with pytest.raises(UserError, match="2 continuous components") as refusal:
        make_agent("c51").check_env(env)
    assert "for continuous actions" in refusal.value.fix
