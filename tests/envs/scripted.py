"""An agent that plays a script, to look at what the collector hands over."""

from __future__ import annotations

from typing import Any

import numpy as np

from plasticine.core.collect import Collector
from plasticine.core.env import EnvLevel


class ScriptedAgent:
    """Plays given actions and remembers what it is to learn from."""

    gamma = 0.99

    def __init__(self, actions: Any) -> None:
        self.script = iter(actions)
        self.rewards: list[Any] = []
        self.ends: list[Any] = []

    def begin_collect(self) -> None:
        pass

    def act(self, obs: Any) -> Any:
        return next(self.script)

    def record(self, out: Any, reward: Any, final_obs: Any, valid: Any) -> None:
        self.rewards.append(np.array(reward))
        self.ends.append(out.terminated.copy())


def play(level: EnvLevel, seed: int, actions: Any) -> tuple[Collector, ScriptedAgent]:
    """Play `actions` [steps, num_envs] in the first task of a level as training would."""
    agent: Any = ScriptedAgent(actions)
    collector = Collector(level.spec(), level, agent)
    env = level.enter(level.tasks()[0], seed)
    collector.enter(env, 0, switch=False)
    collector.collect(len(actions))
    env.close()
    return collector, agent
