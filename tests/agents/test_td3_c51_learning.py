"""TD3 and C51 really learn, in seconds."""

from __future__ import annotations

from tests.agents.test_learning import returns


def test_td3_swings_the_pendulum_up():
    r = returns("agent=td3", "env.domain=pendulum", "env.steps_per_task=8000")
    assert r[:5].mean() < -900
    assert r[-10:].mean() > -600


def test_c51_balances_the_pole():
    r = returns("agent=c51", "env.domain=cartpole", "env.steps_per_task=24000")
    assert r[:20].mean() < 40
    assert r[-20:].mean() > 90
