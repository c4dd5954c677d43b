"""Every published set of hyper-parameters composes, reaches its agent, and fills whole iterations of every task."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasticine.api import configure
from plasticine.compose import build_object
from plasticine.core.agent import Agent

FILES = sorted((Path(__file__).resolve().parents[2] / "conf" / "tuned").glob("*.yaml"))
PAIRS = [tuple(path.stem.split("-", 1)) for path in FILES]


@pytest.mark.parametrize(("agent", "env"), PAIRS, ids=[path.stem for path in FILES])
def test_composes(agent, env):
    tuned = configure(f"agent={agent}", f"env={env}")
    plain = configure(f"agent={agent}", f"env={env}", "~tuned")
    assert isinstance(build_object(tuned["agent"], Agent, "agent"), Agent)
    assert tuned["agent"].keys() == plain["agent"].keys()
    assert tuned.keys() == plain.keys()
    assert any(tuned[part] != plain[part] for part in ("agent", "network", "env")), "the file changes nothing"


@pytest.mark.parametrize(("agent", "env"), [p for p in PAIRS if p[0] in ("ppo", "pqn")])
@pytest.mark.parametrize("budget", ["paper", "laptop", "smoke"])
def test_a_task_lasts_at_least_one_rollout(agent, env, budget):
    c = configure(f"agent={agent}", f"env={env}", f"budget={budget}")
    rows = c["agent"]["num_steps"] * c["env"]["num_envs"]
    assert c["env"]["steps_per_task"] >= rows
    assert rows >= 2 * c["agent"]["num_minibatches"]
