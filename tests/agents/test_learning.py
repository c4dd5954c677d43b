"""PPO really learns, in seconds."""

from __future__ import annotations

import numpy as np
import pytest

from plasticine import make
from tests.core.test_trainer import Memory


def returns(*overrides: str) -> np.ndarray:
    trainer = make("env=classic", "env.shift=none", "env.num_tasks=1", "metrics=none", *overrides)
    trainer.tracker = Memory()
    trainer.fit()
    return np.array([e.episodic_return for e in trainer.tracker.finished])


@pytest.mark.parametrize("shared", ["false", "true"])
def test_cartpole_discrete(shared):
    r = returns("env.domain=cartpole", "env.steps_per_task=30000", f"agent.shared_encoder={shared}")
    assert r[:20].mean() < 50
    assert r[-20:].mean() > 150


def test_pendulum_continuous():
    r = returns(
        "env.domain=pendulum",
        "env.steps_per_task=80000",
        "env.normalize_reward=true",
        "agent.gamma=0.9",
        "agent.num_steps=64",
    )
    assert r[:20].mean() < -1000
    assert r[-40:].mean() > -600
