"""How the agent does on tasks it is not trained on, asked now and then without training noticing.

Every evaluation enters a fresh environment with a seed of its own and plays complete episodes with `Agent.choose`.
Nothing of the training environment, its episodes, statistics or random streams is read or written, apart from the
observation normaliser's statistics, which are applied as they are. So the weights of a run do not depend on whether,
how often or on what it is evaluated, and nothing about evaluations needs to be restored when a run continues.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.core.agent import Agent
from plasticine.core.collect import Collector
from plasticine.core.env import EnvLevel, EnvSpec, StepOut, Task, VecEnv
from plasticine.core.noise import derive_seed
from plasticine.errors import UserError

__all__ = ["Evaluation", "Evaluator", "Policy", "Round", "Spectator", "play_round"]

Policy = Literal["sample", "greedy"]
#: Name of the variant that is the present task itself.
TRAINING_TASK = "training_task"
_NAME = re.compile(r"[A-Za-z0-9_.\-]+")


class Spectator:
    """Sees what the agent would see, and acts as it would.

    Args:
        agent: Asked for actions.
        collector: Owner of the observation normaliser, whose statistics are used and not updated.
        spec: Describes the observations.
        greedy: See `Agent.choose`.
        seed: Of the actions' randomness.
    """

    def __init__(self, agent: Agent, collector: Collector, spec: EnvSpec, *, greedy: bool, seed: int) -> None:
        self._agent, self._normalizer, self._greedy = agent, collector.obs_normalizer, greedy
        self._generator = torch.Generator().manual_seed(seed)
        self._obs = np.zeros_like(collector.obs)

    def act(self, raw: NDArray[Any]) -> NDArray[Any]:
        """Actions [num_envs, ...] for raw observations [num_envs, *obs_shape]."""
        if self._normalizer is None:
            self._obs[...] = raw
        else:
            self._normalizer.apply(raw, self._obs)
        return self._agent.choose(self._obs, greedy=self._greedy, generator=self._generator)


class Round(NamedTuple):
    """One episode of every environment.

    Attributes:
        returns: [num_envs] float64, raw.
        lengths: [num_envs] env steps.
        over: [num_envs] whether the episode ended; False where it was left at the limit.
    """

    returns: NDArray[np.float64]
    lengths: NDArray[np.int64]
    over: NDArray[np.bool_]


def play_round(
    env: VecEnv, num_envs: int, act: Callable[[NDArray[Any]], NDArray[Any]], *, limit: int
) -> Round:
    """Play the first episode of every environment after a reset; stop when all are over, or after `limit` steps.

    Environments that are through are stepped on until the last one is, but not counted. That makes the way they
    start their next episode irrelevant.
    """
    obs = env.reset()
    result = Round(np.zeros(num_envs), np.zeros(num_envs, np.int64), np.zeros(num_envs, bool))
    for _ in range(limit):
        out: StepOut = env.step(act(obs))
        playing = ~result.over
        result.returns[playing] += out.reward[playing]
        result.lengths[playing] += 1
        result.over[...] |= out.terminated | out.truncated
        if result.over.all():
            break
        obs = out.obs
    return result


class Evaluation:
    """When and how to evaluate. All arguments are the keys of the group ``evaluation``.

    Args:
        every: Iterations between two evaluations; the last iteration of each task is always followed by one. None:
            never evaluate.
        episodes: At least so many for each variant. Every environment plays the same number of them, one after the
            other, so that short episodes do not count more often than long ones.
        max_steps: An episode is left after so many steps and counts with its return so far.
        policy: ``sample`` actions as while training, or the ``greedy`` one.
        training_task: Evaluate on the present task as well, in other environments with other seeds.

    Raises:
        UserError: A value is out of range.
    """

    def __init__(
        self, *, every: int | None, episodes: int, max_steps: int, policy: Policy, training_task: bool
    ) -> None:
        for key, value in (("every", every), ("episodes", episodes), ("max_steps", max_steps)):
            if value is not None and value < 1:
                fix = "; null switches evaluation off" if key == "every" else ""
                raise UserError(
                    f"evaluation.{key}={value} must be at least 1", f"set evaluation.{key}=1 or more{fix}"
                )
        self.every = every
        self.episodes = episodes
        self.max_steps = max_steps
        self.greedy = policy == "greedy"
        self.training_task = training_task

    def due(self, iteration: int, *, last_of_task: bool) -> bool:
        """Whether the iteration just run (1-based) is followed by an evaluation."""
        return self.every is not None and (last_of_task or iteration % self.every == 0)


class Evaluator:
    """Evaluates an agent on the variants of its present task.

    Args:
        evaluation: When and how.
        level: Knows the variants and enters them.
        agent: Chooses the actions.
        collector: Owner of the observation normaliser.
    """

    def __init__(self, evaluation: Evaluation, level: EnvLevel, agent: Agent, collector: Collector) -> None:
        self.evaluation = evaluation
        self._level, self._agent, self._collector = level, agent, collector

    def variants(self, task: Task) -> dict[str, Task]:
        """What the agent is evaluated on during `task`, by name.

        Raises:
            ValueError: The level gives a variant a name that cannot be part of a key.
        """
        found = dict(self._level.evaluations(task))
        for name in found:
            if name == TRAINING_TASK or not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} cannot name an evaluation of {self._level.spec().name}")
        return {**found, TRAINING_TASK: task} if self.evaluation.training_task else found

    def take(self, task: Task, seed: int) -> dict[str, float]:
        """Play, and return ``eval/<variant>/...``: mean ``episodic_return`` (raw) and ``episodic_length``,
        ``episodes``, and how many of them were ``cut`` at the limit.

        Args:
            task: The present one.
            seed: The run's. All evaluations during a task begin alike, which takes chance out of their differences.
        """
        values: dict[str, float] = {}
        for name, variant in self.variants(task).items():
            values |= {f"eval/{name}/{k}": v for k, v in self._play(name, task.index, variant, seed).items()}
        return values

    def _play(self, name: str, index: int, variant: Task, seed: int) -> Mapping[str, float]:
        spec, limits = self._level.spec(), self.evaluation
        spectator = Spectator(
            self._agent,
            self._collector,
            spec,
            greedy=limits.greedy,
            seed=derive_seed(seed, "evaluation", index, name, "act"),
        )
        env = self._level.enter(variant, derive_seed(seed, "evaluation", index, name))
        try:
            rounds = [
                play_round(env, spec.num_envs, spectator.act, limit=limits.max_steps)
                for _ in range(-(-limits.episodes // spec.num_envs))
            ]
        finally:
            env.close()
        return {
            "episodic_return": float(np.mean([r.returns for r in rounds])),
            "episodic_length": float(np.mean([r.lengths for r in rounds])),
            "episodes": float(len(rounds) * spec.num_envs),
            "cut": float(sum((~r.over).sum() for r in rounds)),
        }
