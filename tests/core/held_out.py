"""The toy level with goals that are held out, and an environment that keeps to a script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec, StepOut, Task, VecEnv
from plasticine.testing.level import ToyLevel


class HeldOutToy(ToyLevel):
    """Every task has two variants: its goal mirrored, and far away."""

    def evaluations(self, task: Task) -> Mapping[str, Task]:
        goal = task.options["goal"]
        return {
            "mirrored": replace(task, name="mirrored", options={"goal": -goal}),
            "far": replace(task, name="far", options={"goal": goal + 3.0}),
        }


class ScriptedEnv(VecEnv):
    """Episode k of environment i (counted from the first reset) lasts ``lengths[k][i]`` steps.

    Each step is rewarded with 100 x k + 10 x i + its number within the episode. The observation is that of the
    episode number and of the steps taken in it.
    """

    def __init__(self, lengths: Any, autoreset: str) -> None:
        self.lengths = np.asarray(lengths)
        self.num = self.lengths.shape[1]
        self.next_step = autoreset == "next_step"
        self.resets, self.steps, self.closed = 0, 0, 0
        self.seen: list[np.ndarray] = []

    def reset(self):
        self.at, self.over = np.zeros(self.num, int), np.zeros(self.num, bool)
        self.episode = np.full(self.num, self.resets)
        self.resets += 1
        return self._obs()

    def _obs(self):
        return np.stack([self.episode, self.at], 1).astype(np.float32)

    def step(self, actions):
        self.steps += 1
        self.seen.append(np.array(actions))
        reward, ended = np.zeros(self.num, np.float32), np.zeros(self.num, bool)
        for i in range(self.num):
            if self.over[i]:
                self.over[i], self.at[i] = False, 0
                self.episode[i] += 1
                continue
            self.at[i] += 1
            reward[i] = 100 * self.episode[i] + 10 * i + self.at[i]
            ended[i] = self.at[i] == self.lengths[self.episode[i] % len(self.lengths)][i]
        if self.next_step:
            self.over |= ended
        else:
            self.episode[ended] += 1
            self.at[ended] = 0
        # The even episodes are cut, the odd ones terminate.
        cut = ended & (self.episode % 2 == 0)
        return StepOut(self._obs(), reward, ended & ~cut, cut, None)

    def close(self):
        self.closed += 1


class ScriptedLevel(EnvLevel):
    """One task, whose variant ``script`` is a `ScriptedEnv`."""

    level = "standard"

    def __init__(self, lengths: Any, autoreset: str, *, normalize_obs: bool = False) -> None:
        super().__init__(
            num_envs=len(lengths[0]),
            normalize_obs=normalize_obs,
            normalize_reward=False,
            normalizer_on_switch="carry",
        )
        self._lengths, self._autoreset = lengths, autoreset
        self.entered: list[tuple[Task, int, ScriptedEnv]] = []
        self.names = ("script",)

    def spec(self) -> EnvSpec:
        return EnvSpec(
            "test/scripted", (2,), "float32", ActionSpec("discrete", 2), self.num_envs, None, self._autoreset
        )  # type: ignore[arg-type]

    def tasks(self) -> tuple[Task, ...]:
        return (Task(0, "only", 1000),)

    def evaluations(self, task: Task) -> Mapping[str, Task]:
        return {name: replace(task, name=name) for name in self.names}

    def enter(self, task: Task, seed: int) -> VecEnv:
        env = ScriptedEnv(self._lengths, self._autoreset)
        self.entered.append((task, seed, env))
        return env
