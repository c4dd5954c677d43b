"""Running normalisation against whole-history recomputation, and its policies at task switches."""

from __future__ import annotations

import numpy as np
import pytest

from plasticine.core.collect import Collector
from plasticine.core.normalize import ObsNormalizer, RewardNormalizer, RunningMoments
from tests.core.runs import parts


@pytest.mark.parametrize("batch", [1, 3])
def test_moments_equal_those_of_the_whole_history(batch):
    rng = np.random.default_rng(0)
    data = rng.normal(3.0, 2.0, size=(240, 4)) * np.array([1.0, 10.0, 0.1, 1.0])
    moments = RunningMoments((4,))
    for rows in data.reshape(-1, batch, 4):
        moments.update(rows)
    np.testing.assert_allclose(moments.mean, data.mean(0), rtol=1e-5)
    np.testing.assert_allclose(moments.var, data.var(0), rtol=1e-4)


def test_observations_are_scaled_with_statistics_that_include_them_and_clipped():
    n = ObsNormalizer((2,))
    out = np.zeros((1, 2), np.float32)
    rng = np.random.default_rng(1)
    history = rng.normal(5.0, 0.5, size=(100, 2))
    for row in history:
        n.observe(row[None], out)
    np.testing.assert_allclose(out[0], (history[-1] - history.mean(0)) / history.std(0), rtol=1e-3)
    before = n.moments.state()
    n.apply(np.array([[1e6, -1e6]]), out)
    assert out.tolist() == [[10.0, -10.0]]
    after = n.moments.state()
    assert all(np.array_equal(before[k], after[k]) for k in before)


def test_rewards_are_divided_by_the_spread_of_the_discounted_return():
    n = RewardNormalizer(2, 0.9)
    rng = np.random.default_rng(2)
    returns, history = np.zeros(2), []
    for t in range(200):
        reward = rng.normal(size=2).astype(np.float32)
        done = np.array([t % 7 == 6, False])
        returns = returns * 0.9 + reward
        history.append(returns.copy())
        scaled = n.observe(reward, done)
        returns[done] = 0.0
    np.testing.assert_allclose(scaled, reward / np.concatenate(history).std(), rtol=1e-3)


@pytest.mark.parametrize("policy", ["carry", "reset", "freeze"])
def test_policy_at_a_task_switch(policy):
    p = parts("env.normalize_obs=true", "env.normalize_reward=true", f"env.normalizer_on_switch={policy}")
    c: Collector = p.collector
    first, second = p.level.tasks()[:2]
    c.enter(p.level.enter(first, 1), 0, switch=False)
    c.collect(16)
    before = c.obs_normalizer.moments.state(), c.reward_normalizer.moments.state()
    c.enter(p.level.enter(second, 2), 1, switch=True)
    after = c.obs_normalizer.moments.state()
    rows = p.level.spec().num_envs  # the reset observation of each environment was seen
    if policy == "carry":
        assert after["count"] == pytest.approx(before[0]["count"] + rows)
        assert c.reward_normalizer.moments.count == before[1]["count"]
    elif policy == "reset":
        assert after["count"] == pytest.approx(rows, rel=1e-3)
        assert c.reward_normalizer.moments.count == pytest.approx(1e-4)
    else:
        assert np.array_equal(after["mean"], before[0]["mean"])
        c.collect(16)
        assert np.array_equal(c.obs_normalizer.moments.mean, before[0]["mean"])
        assert c.reward_normalizer.moments.count == before[1]["count"]
    assert (c.reward_normalizer.returns == 0).all() or policy == "freeze"
