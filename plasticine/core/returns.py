"""What the agent expects of its actions, beside what it then gets: complete episodes, played for comparison.

As in an evaluation (see `plasticine.core.evaluate`), nothing of training is read or written, apart from the
statistics of the normalisers, which are applied as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from plasticine.core.agent import Agent
from plasticine.core.collect import Collector
from plasticine.core.env import EnvLevel, StepOut, Task, VecEnv
from plasticine.core.noise import derive_seed

__all__ = ["Expectations", "Rehearsal", "discounted"]

F64 = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Expectations:
    """What was expected of k steps, and what came of them, in the units that the agent learns from.

    Attributes:
        values: Expected discounted return of each step [k], by network.
        returns: The discounted return that followed [k], by network: beyond the end of what was played it goes on
            with that network's own estimate.
        open: Share of that estimate in the return [k]: 0 where the return is complete.
    """

    values: dict[str, F64]
    returns: dict[str, F64]
    open: F64


def discounted(rewards: F64, ends: Flags, lengths: NDArray[np.int64], after: F64, gamma: float) -> F64:
    """Discounted sums of what follows each step, itself included [T, n]; rows from ``lengths[i]`` on mean nothing.

    Args:
        rewards: [T, n].
        ends: [T, n] whether nothing that follows the step counts for it.
        lengths: [n] steps that were played.
        after: [n] value of what follows the last of them, unless that ends.
        gamma: Discount factor.
    """
    sums = np.zeros_like(rewards)
    following = np.zeros(rewards.shape[1])
    for t in reversed(range(len(rewards))):
        following = np.where(lengths == t + 1, after, following)
        following = rewards[t] + gamma * np.where(ends[t], 0.0, following)
        sums[t] = following
    return sums


class Rehearsal:
    """Plays the present task in environments of its own and keeps what the agent expects at every step.

    Args:
        level, agent, collector: Those of the run; read only.
    """

    def __init__(self, level: EnvLevel, agent: Agent, collector: Collector) -> None:
        self._level, self._agent, self._collector = level, agent, collector

    def play(self, task: Task, seed: int, limit: int) -> Expectations | None:
        """One episode of every environment, left after `limit` steps; None if the agent does not estimate values.

        Actions are those of the policy whose value the agent estimates (`Agent.values_of`). Rewards are scaled as
        those it learns from. Where the agent learns that nothing follows (a lost life), no return goes on.

        Args:
            task: The present one.
            seed: The run's. All rehearsals of a task begin alike.
        """
        env = self._level.enter(task, derive_seed(seed, "rehearsal", task.index))
        try:
            generator = torch.Generator().manual_seed(derive_seed(seed, "rehearsal", task.index, "act"))
            return _Played(self._level, self._agent, self._collector, generator).run(env, limit)
        finally:
            env.close()


class _Played:
    """The steps of one rehearsal."""

    def __init__(
        self, level: EnvLevel, agent: Agent, collector: Collector, generator: torch.Generator
    ) -> None:
        self._agent, self._collector, self._generator = agent, collector, generator
        self._sign = level.reward_sign_clip
        self._same_step = collector.spec.autoreset == "same_step"
        self._obs = np.zeros_like(collector.obs)
        n = self._num_envs = collector.spec.num_envs
        self._after: dict[str, F64] = {}
        self._open = np.zeros(n)  # share of what follows the last step that is not known: 0, 1 or infinite
        self._lengths = np.zeros(n, np.int64)

    def run(self, env: VecEnv, limit: int) -> Expectations | None:
        rewards: list[F64] = []
        ends: list[Flags] = []
        expected: list[dict[str, F64]] = []
        over = np.zeros(self._num_envs, bool)
        raw = env.reset()
        for t in range(limit):
            actions, values = self._look(raw)
            if not values:
                return None
            out = env.step(actions)
            playing = ~over
            self._lengths[playing] = t + 1
            expected.append(values)
            rewards.append(self._scaled(out))
            ends.append(_ends(out))
            done = out.terminated | out.truncated
            over |= done
            left = playing if t + 1 == limit else playing & done
            if left.any():
                self._close(left, out, done)
            if over.all():
                break
            raw = out.obs
        return self._result(np.array(rewards), np.array(ends), expected)

    def _look(self, raw: NDArray[Any]) -> tuple[NDArray[Any], dict[str, F64]]:
        """Actions for raw observations, and what is expected of them [n] by network."""
        normalizer = self._collector.obs_normalizer
        if normalizer is None:
            self._obs[...] = raw
        else:
            normalizer.apply(raw, self._obs)
        agent = self._agent
        actions = agent.choose(self._obs, greedy=agent.values_of == "greedy", generator=self._generator)
        values = agent.values(self._obs, actions)
        return actions, {net: v.detach().to("cpu", torch.float64).numpy() for net, v in values.items()}

    def _scaled(self, out: StepOut) -> F64:
        reward = np.sign(out.reward) if self._sign else out.reward
        normalizer = self._collector.reward_normalizer
        scaled = reward if normalizer is None else normalizer.apply(reward)
        return np.array(scaled, np.float64)

    def _close(self, left: Flags, out: StepOut, done: Flags) -> None:
        """What follows the last step of the environments `left`, if the episode did not terminate."""
        last, unknown = np.array(out.obs), np.zeros(self._num_envs, bool)
        if self._same_step and out.final_obs is not None:
            last[done] = out.final_obs[done]
        elif self._same_step:  # what is there belongs to the next episode
            unknown = done
        _, values = self._look(last)
        for net, v in values.items():
            self._after.setdefault(net, np.zeros(len(left)))[left] = v[left]
        self._open[left] = np.where(unknown, np.inf, 1.0)[left]

    def _result(self, rewards: F64, ends: Flags, expected: list[dict[str, F64]]) -> Expectations:
        gamma = self._agent.gamma
        played = np.arange(len(rewards))[:, None] < self._lengths
        share = discounted(np.zeros_like(rewards), ends, self._lengths, self._open, gamma)
        values = {net: np.array([e[net] for e in expected])[played] for net in expected[0]}
        returns = {
            net: discounted(rewards, ends, self._lengths, after, gamma)[played]
            for net, after in self._after.items()
        }
        return Expectations(values, returns, share[played])


def _ends(out: StepOut) -> Flags:
    return out.terminated | out.life_lost if out.life_lost is not None else out.terminated.copy()
