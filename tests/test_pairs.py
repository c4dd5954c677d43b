"""Every agent on every level it fits: composed at the smallest budget, run for a few iterations, run as a command."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch

from plasticine import paths
from plasticine.api import configure, make
from plasticine.run import check

DISCRETE, CONTINUOUS = ("c51", "ppo", "pqn"), ("ppo", "td3")


class Level(NamedTuple):
    """A level as one writes it, who can act in it, and what makes it small."""

    words: str
    agents: tuple[str, ...]
    small: str


LEVELS = [
    Level("env=classic", (*DISCRETE, "td3"), "env.num_tasks=2 env.cycles=1"),
    Level("env=classic env.domain=pendulum env.shift=gravity", CONTINUOUS, "env.num_tasks=2 env.cycles=1"),
    Level("env=standard_dmc", CONTINUOUS, ""),
    Level("env=continual_dmc", CONTINUOUS, "env.domain=walker env.cycles=1"),
    Level(
        "env=continual_dmc env.shift=dynamics", CONTINUOUS, "env.domain=walker env.dynamics.values=[1.0,0.5]"
    ),
    Level("env=standard_ale", DISCRETE, ""),
    Level("env=continual_ale", DISCRETE, "env.game=[breakout,boxing] env.cycles=1"),
    Level("env=standard_procgen", DISCRETE, ""),
    Level("env=continual_procgen", DISCRETE, "env.num_tasks=2"),
    Level("env=continual_procgen env.shift=task env.game=all", DISCRETE, "env.game=[bigfish,maze]"),
    Level(
        "env=open_craftax", DISCRETE, "env.domain=craftax_classic_symbolic env.num_envs=3 env.reset_batch=2"
    ),
    Level("env=open_craftax_pixels", DISCRETE, ""),
]
PAIRS = [(agent, level) for level in LEVELS for agent in level.agents]
IDS = [f"{agent} {level.words}" for agent, level in PAIRS]

#: A few iterations of a few steps of tiny networks.
SMALL_AGENT = {
    "ppo": "agent.num_steps=8 agent.num_minibatches=2 agent.epochs=1",
    "pqn": "agent.num_steps=8 agent.num_minibatches=2 agent.epochs=1",
    "td3": "agent.batch_size=8 agent.learning_starts=8 agent.iteration_steps=24 agent.train_frequency=8",
    "c51": "agent.batch_size=8 agent.learning_starts=8 agent.iteration_steps=24 agent.train_frequency=8",
}
SMALL_NETWORK = {
    "mlp": "network.hidden=[8]",
    "nature_cnn": "network.channels=[4,4,4] network.hidden=[8]",
    "impala": "network.channels=[4,4] network.blocks=1 network.hidden=[8]",
}


def words(agent, level):
    return [f"agent={agent}", *level.words.split(), "budget=smoke"]


def test_no_level_and_no_agent_is_forgotten():
    conf = paths.config_dirs()[0]
    assert {p.stem for p in (conf / "env").glob("*.yaml")} == {
        level.words.split()[0].removeprefix("env=") for level in LEVELS
    }
    assert {p.stem for p in (conf / "agent").glob("*.yaml")} == {agent for agent, _ in PAIRS}


@pytest.mark.parametrize(("agent", "level"), PAIRS, ids=IDS)
def test_the_smallest_budget_learns_in_every_task(agent, level):
    plan = check(configure(*words(agent, level)))
    assert min(plan.task_iterations) >= 1
    assert plan.updates >= len(plan.task_iterations)


QUICK = [
    pair for pair in PAIRS if pair[1].words != "env=open_craftax_pixels"
]  # textures are drawn for minutes


@pytest.mark.parametrize(("agent", "level"), QUICK, ids=[f"{agent} {level.words}" for agent, level in QUICK])
def test_a_few_iterations(agent, level):
    line = words(agent, level)
    network = configure(*line)["network"]["_target_"].rpartition(".")[2]
    small = [*SMALL_AGENT[agent].split(), *SMALL_NETWORK[network].split(), "metrics.probe_size=16"]
    if "num_envs" not in level.small:
        small.append("env.num_envs=2")
    trainer = make(*line, *small, "env.steps_per_task=48", *level.small.split())
    before = {name: tensor.clone() for name, tensor in trainer.learner.state.params.items()}
    assert trainer.fit() == "finished"
    assert trainer.counters.env_steps >= 48 * len(trainer.level.tasks()) * 0.5
    assert trainer.counters.task == len(trainer.level.tasks())
    after = trainer.learner.state.params
    assert all(torch.isfinite(tensor).all() for tensor in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "level"), PAIRS, ids=IDS)
def test_the_smallest_budget_takes_seconds(agent, level, tmp_path):
    """Processor time, which does not depend on what else runs here."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", "plasticine.cli.run", *words(agent, level), "tracker=local"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stdout + done.stderr
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert used < (150 if "craftax" in level.words else 90)
