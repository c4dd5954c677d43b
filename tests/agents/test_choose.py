"""Acting without training: the greedy action, and how far from it one that is not greedy may be."""

from __future__ import annotations

import functools
import math

import numpy as np
import pytest
import torch

from plasticine.agents.exploration import epsilon_greedy
from plasticine.api import configure
from plasticine.compose import assemble_parts
from tests.agents.off_policy_lab import toy_config

MANY = 4000


@functools.cache
def toy(name: str, actions: str):
    config = toy_config("pqn")
    config["env"] |= {"actions": actions}
    chosen = configure(f"agent={name}", "budget=smoke")["agent"]
    small = {"num_steps": 8, "num_minibatches": 2} if name in ("ppo", "pqn") else {"iteration_steps": 16}
    config["agent"] = {**chosen, **small}
    if name in ("td3", "c51"):
        config["agent"] |= {"learning_starts": 16, "batch_size": 8, "capacity": 100}
    if name == "c51":
        config["agent"] |= {"v_min": -8.0, "v_max": 8.0, "atoms": 11}
    learner = assemble_parts(config).learner
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():  # away from the initial values, so that actions differ in worth
        for p in learner.state.params.values():
            p.add_(0.3 * torch.randn(p.shape, generator=g))
    return learner


def observed(rows: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32)


def choose(learner, obs, *, greedy, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return learner.agent.choose(obs, greedy=greedy, generator=generator)


def outputs(learner, obs):
    net = {"ppo": "actor", "td3": "actor"}.get(type(learner.agent).__name__.lower(), "q")
    with torch.no_grad():
        (out,) = learner.networks[net](torch.from_numpy(obs)).values()
    return out.numpy()


CASES = [
    ("ppo", "discrete"),
    ("ppo", "continuous"),
    ("pqn", "discrete"),
    ("c51", "discrete"),
    ("td3", "continuous"),
]


@pytest.mark.parametrize(("name", "actions"), CASES)
def test_the_greedy_action_is_the_best_one_and_needs_no_chance(name, actions):
    learner, obs = toy(name, actions), observed(64)
    out = outputs(learner, obs)
    if name == "c51":
        logits = out.reshape(64, 3, 11).astype(np.float64)
        masses = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        out = masses @ np.linspace(-8, 8, 11)
    expected = {"discrete": out.argmax(-1), "continuous": np.tanh(out) if name == "td3" else out}[actions]
    if actions == "discrete":
        assert len(set(expected.tolist())) > 1
    for seed in (0, 1):
        assert np.allclose(choose(learner, obs, greedy=True, seed=seed), expected, atol=1e-6)


@pytest.mark.parametrize(("name", "actions"), CASES)
def test_the_dtype_is_that_of_actions_in_training(name, actions):
    learner = toy(name, actions)
    learner.agent.begin_collect()
    trained = learner.agent.act(observed(2))
    for greedy in (True, False):
        action = choose(learner, observed(7), greedy=greedy)
        assert action.dtype == trained.dtype
        assert action.shape == (7, *trained.shape[1:])


def test_ppo_samples_its_policy():
    learner, obs = toy("ppo", "discrete"), np.repeat(observed(1), MANY, axis=0)
    logits = outputs(learner, obs[:1])[0].astype(np.float64)
    wanted = np.exp(logits) / np.exp(logits).sum()
    found = np.bincount(choose(learner, obs, greedy=False), minlength=3) / MANY
    assert np.abs(found - wanted).max() < 4 * math.sqrt(0.25 / MANY)


def test_ppo_samples_its_gaussian():
    learner, obs = toy("ppo", "continuous"), np.repeat(observed(1), MANY, axis=0)
    actions = choose(learner, obs, greedy=False)
    std = learner.state.params["actor/log_std"].detach().exp().numpy()
    assert np.abs(actions.mean(0) - outputs(learner, obs[:1])[0]).max() < 4 * std.max() / math.sqrt(MANY)
    assert np.allclose(actions.std(0), std, rtol=0.06)


@pytest.mark.parametrize("name", ["pqn", "c51"])
def test_values_are_followed_but_for_the_least_exploration(name):
    learner, obs = toy(name, "discrete"), np.repeat(observed(1), MANY, axis=0)
    agent = learner.agent
    best = choose(learner, obs, greedy=True)[0]
    if name == "pqn":
        agent.epsilon.end = 0.3
    else:
        agent.epsilon_end = 0.3
    missed = (choose(learner, obs, greedy=False) != best).mean()
    assert abs(missed - 0.2) < 4 * math.sqrt(0.16 / MANY)  # two of the three random actions are others


def test_td3_adds_its_exploration_noise_within_the_bounds():
    learner, obs = toy("td3", "continuous"), np.repeat(observed(1), MANY, axis=0)
    centre = choose(learner, obs, greedy=True)[0]
    actions = choose(learner, obs, greedy=False)
    assert np.abs(actions).max() <= 1.0
    free = np.abs(centre) < 0.6  # far enough from the bounds for noise of 0.1
    assert free.any()
    assert np.allclose(actions.std(0)[free], 0.1, rtol=0.06)


def test_the_seed_decides():
    learner, obs = toy("ppo", "discrete"), observed(64)
    first, again, other = (choose(learner, obs, greedy=False, seed=s) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_epsilon_greedy():
    best, g = torch.full((MANY,), 2), torch.Generator().manual_seed(0)
    assert (epsilon_greedy(best, 4, 0.0, g) == 2).all()
    counts = np.bincount(epsilon_greedy(best, 4, 1.0, g), minlength=4) / MANY
    assert np.abs(counts - 0.25).max() < 4 * math.sqrt(0.19 / MANY)
