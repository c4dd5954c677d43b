"""What levels and the loop promise together: honest returns, unlearnt reset rows, nothing left behind at a switch."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from plasticine.api import configure
from plasticine.compose import assemble_parts
from plasticine.core.trainer import Trainer
from plasticine.envs.contract import record, scripted_actions
from tests.core.runs import trainer
from tests.envs.levels import level
from tests.envs.scripted import play

#: Level, changes, steps that end several episodes.
LOGGED = [
    ("classic", {"normalize_reward": True}, 120),
    ("classic", {"domain": "pendulum", "shift": "none", "num_envs": 2, "normalize_reward": True}, 410),
    ("standard_dmc", {"domain": "cartpole", "task": "balance", "num_envs": 2, "workers": 0}, 2010),
    ("standard_dmc", {"domain": "cartpole", "task": "swingup", "num_envs": 3, "workers": 1}, 1010),
    ("standard_ale", {"game": "pong", "max_frames": 800, "num_envs": 2}, 410),
    (
        "continual_ale",
        {"shift": "mode", "game": "breakout", "modes": [4, 0], "num_envs": 2, "max_frames": 401},
        220,
    ),
    ("continual_procgen", {"game": "fruitbot", "num_levels": 50, "num_envs": 2}, 300),
    (
        "open_craftax",
        {
            "domain": "craftax_classic_symbolic",
            "num_envs": 3,
            "reset_batch": 2,
            "max_episode_steps": 60,
            "normalize_reward": True,
        },
        150,
    ),
]


@pytest.mark.parametrize(("name", "changes", "steps"), LOGGED)
def test_logged_returns_are_sums_of_raw_rewards(name, changes, steps):
    """Whatever is learnt from (scaled rewards, their signs, lost lives), the record tells the simulator's points."""
    found = level(name, **changes)
    actions = scripted_actions(found.spec(), steps, 2)
    collector, agent = play(found, 2, actions)
    env = found.enter(found.tasks()[0], 2)
    env.reset()
    trace = record(env, found.spec(), actions)
    env.close()
    assert len(collector.finished) == len(trace.episodes) >= 2
    for logged, (_, total, length) in zip(collector.finished, trace.episodes, strict=True):
        assert logged.episodic_return == pytest.approx(total, rel=1e-6)
        assert logged.length == length
    assert trace.reward.any()
    learnt_from_something_else = found.normalize_reward or found.reward_sign_clip
    assert learnt_from_something_else or np.array_equal(agent.rewards, trace.reward)
    assert found.spec().autoreset == "same_step"  # so that there are no rows that only reset
    assert collector.env_steps == steps * found.num_envs


def tasks_and_files() -> tuple[set[str], int, int]:
    """(child processes, threads, open files) of this process."""
    children = set(Path("/proc/self/task", str(os.getpid()), "children").read_text().split())
    return children, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


SMALL = ("agent.num_steps=16", "agent.num_minibatches=2", "agent.epochs=1", "metrics.every=100")
VECTORS = ("network=mlp", "network.hidden=[8]")
IMAGES = ("network=nature_cnn", "network.channels=[4,4,4]", "network.hidden=[8]")
STREAMS = [
    ("classic", ("env.num_tasks=3", "env.num_envs=2", *VECTORS), 0, 0),
    (
        "continual_dmc",
        ("env.domain=cartpole", "env.tasks=[balance,swingup]", "env.cycles=2", "env.num_envs=3", "env.workers=2",
         *VECTORS),
        2,
        0,
    ),
    (
        "continual_ale",
        ("env.game=[pong,boxing]", "env.cycles=2", "env.num_envs=2", "env.num_threads=2", *IMAGES),
        0,
        2,
    ),
    (
        "continual_ale",
        ("env.shift=mode", "env.game=breakout", "env.modes=[4,0,8]", "env.num_envs=2", *IMAGES),
        0,
        0,
    ),
    (
        "continual_procgen",
        ("env.num_tasks=2", "env.cycles=2", "env.num_envs=2", "env.num_threads=2", *IMAGES),
        0,
        2,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("env", "overrides", "processes", "threads"), STREAMS)
def test_a_switch_closes_the_environments_it_leaves(monkeypatch, env, overrides, processes, threads):
    parts = assemble_parts(configure(f"env={env}", *overrides, "env.steps_per_task=64", *SMALL))
    enter, closed, left, inside = parts.level.enter, [], [], []
    iterate = Trainer._iterate

    def entering(task, seed):
        left.append(tasks_and_files())
        assert len(closed) == task.index  # the one before is closed before the next one is built
        built = enter(task, seed)
        close = built.close
        built.close = lambda: (closed.append(task.index), close())
        return built

    def iterating(self, *args, **kwargs):
        inside.append(tasks_and_files())
        return iterate(self, *args, **kwargs)

    monkeypatch.setattr(parts.level, "enter", entering)
    monkeypatch.setattr(Trainer, "_iterate", iterating)
    assert trainer(parts).fit() == "finished"
    left.append(tasks_and_files())
    tasks = len(parts.level.tasks())
    assert closed == list(range(tasks))
    assert len(left) == tasks + 1 >= 4
    first = left[1]  # libraries keep a file or a thread of their own from their first use on
    assert left[2:] == [first] * (tasks - 1)
    assert all(len(now[0] - first[0]) == processes for now in inside)
    assert inside[-1][1] - first[1] == threads


def test_an_environment_is_closed_when_training_fails(monkeypatch):
    overrides = (
        "env.domain=cartpole",
        "env.tasks=[swingup]",
        "env.cycles=1",
        "env.num_envs=2",
        "env.workers=1",
    )
    parts = assemble_parts(configure("env=continual_dmc", *overrides, "env.steps_per_task=64", *SMALL))
    before = tasks_and_files()[0]

    def broken(self, *args, **kwargs):
        raise ArithmeticError("broken")

    monkeypatch.setattr(Trainer, "_iterate", broken)
    with pytest.raises(ArithmeticError, match="broken"):
        trainer(parts).fit()
    assert tasks_and_files()[0] == before
