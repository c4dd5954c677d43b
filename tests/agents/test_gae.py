"""Advantages against the definition, evaluated naively."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.agents.gae import advantages


def by_definition(rewards, values, next_values, terminated, done, gamma, lam):
    """A_t = sum_k (gamma lam)^k delta_{t+k}, up to and including the step that ends the episode. O(T^2)."""
    steps, envs = rewards.shape
    out = np.zeros((steps, envs))
    for n in range(envs):
        for t in range(steps):
            factor = 1.0
            for k in range(t, steps):
                follows = 0.0 if terminated[k, n] else next_values[k, n]
                out[t, n] += factor * (rewards[k, n] + gamma * follows - values[k, n])
                if done[k, n]:
                    break
                factor *= gamma * lam
    return out


@pytest.mark.parametrize("steps", [1, 2, 7, 64, 100])
@pytest.mark.parametrize("lam", [0.0, 0.95, 1.0])
def test_equals_the_definition(steps, lam):
    rng = np.random.default_rng(steps)
    shape = (steps, 3)
    rewards, values, next_values = (rng.normal(size=shape) for _ in range(3))
    terminated = rng.random(shape) < 0.1
    done = terminated | (rng.random(shape) < 0.1)
    arrays = (rewards, values, next_values, terminated, done)
    got = advantages(*(torch.as_tensor(a) for a in arrays), 0.99, lam)
    np.testing.assert_allclose(got.numpy(), by_definition(*arrays, 0.99, lam), rtol=1e-10, atol=1e-10)


def test_truncation_keeps_the_value_of_what_follows():
    """One step, cut by a time limit: delta = r + gamma V(final) - V; terminated: the value is dropped."""
    one = torch.ones(1, 1)
    cut = advantages(one, 2 * one, 10 * one, torch.tensor([[False]]), torch.tensor([[True]]), 0.5, 0.9)
    end = advantages(one, 2 * one, 10 * one, torch.tensor([[True]]), torch.tensor([[True]]), 0.5, 0.9)
    assert cut.item() == pytest.approx(1 + 0.5 * 10 - 2)
    assert end.item() == pytest.approx(1 - 2)
