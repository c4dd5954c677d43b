"""What the collector hands to the agent, and what it writes down as an episode."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from plasticine.core.collect import Collector
from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec, StepOut, Task, VecEnv
from plasticine.core.normalize import RewardNormalizer

REWARDS = np.array([[3, 0], [-2, 5], [0, 7], [4, -1], [1, 1], [9, 2]], dtype=np.float32)
#: (step, environment)
LOST = [(1, 0), (2, 1), (4, 0)]
ENDED = [(3, 0), (5, 1)]


class ScriptedEnv(VecEnv):
    def __init__(self, lives: bool) -> None:
        self.lives, self.at = lives, -1

    def reset(self) -> Any:
        return np.zeros((2, 1), dtype=np.float32)

    def step(self, actions: Any) -> StepOut:
        self.at += 1
        at = {
            name: np.array([(self.at, e) in places for e in range(2)])
            for name, places in (("lost", LOST), ("ended", ENDED))
        }
        obs = np.full((2, 1), self.at, dtype=np.float32)
        final = obs + 100 if at["ended"].any() else None
        lost = at["lost"] if self.lives and at["lost"].any() else None
        return StepOut(obs, REWARDS[self.at], at["ended"], np.zeros(2, dtype=bool), final, lost)


class ScriptedLevel(EnvLevel):
    level = "standard"

    def __init__(self, *, lives: bool, sign: bool, normalize: bool) -> None:
        super().__init__(
            num_envs=2, normalize_obs=False, normalize_reward=normalize, normalizer_on_switch="carry"
        )
        self.lives, self.reward_sign_clip = lives, sign

    def spec(self) -> EnvSpec:
        return EnvSpec("scripted/lives", (1,), "float32", ActionSpec("discrete", 2), 2)

    def tasks(self) -> tuple[Task, ...]:
        return (Task(0, "only", 12),)

    def enter(self, task: Task, seed: int) -> VecEnv:
        return ScriptedEnv(self.lives)


class Listener:
    """An agent that only remembers what it is told."""

    gamma = 0.9

    def __init__(self) -> None:
        self.told: list[tuple[StepOut, Any, Any]] = []

    def begin_collect(self) -> None:
        pass

    def act(self, obs: Any) -> Any:
        return np.zeros(2, dtype=np.int64)

    def record(self, out: StepOut, reward: Any, final_obs: Any, valid: Any) -> None:
        assert valid is None
        self.told.append((out, np.array(reward), None if final_obs is None else final_obs.copy()))


def play(*, lives: bool = True, sign: bool = False, normalize: bool = False) -> tuple[Collector, Listener]:
    level, agent = ScriptedLevel(lives=lives, sign=sign, normalize=normalize), Listener()
    collector = Collector(level.spec(), level, agent)
    collector.enter(level.enter(level.tasks()[0], 0), 0, switch=False)
    collector.collect(len(REWARDS))
    return collector, agent


def places(rows: list[Any]) -> list[tuple[int, int]]:
    return [tuple(p) for p in np.argwhere(np.stack(rows)).tolist()]


def test_a_lost_life_is_terminal_for_learning_and_nothing_for_the_log():
    collector, agent = play()
    assert places([out.terminated for out, _, _ in agent.told]) == sorted(LOST + ENDED)
    assert [(e.episodic_return, e.length) for e in episodes(collector)] == [(5.0, 4), (14.0, 6)]
    assert [step for step, (_, _, final) in enumerate(agent.told) if final is not None] == [3, 5]
    assert agent.told[3][2][0] == 103
    assert collector.env_steps == 12


def test_without_lives_the_log_is_the_same_and_the_agent_sees_only_true_ends():
    collector, agent = play(lives=False)
    assert places([out.terminated for out, _, _ in agent.told]) == ENDED
    assert episodes(collector) == episodes(play()[0])


def test_signs_are_learnt_from_and_points_are_logged():
    collector, agent = play(sign=True)
    assert np.array_equal([reward for _, reward, _ in agent.told], np.sign(REWARDS))
    assert episodes(collector) == episodes(play()[0])
    assert np.array_equal([reward for _, reward, _ in play()[1].told], REWARDS)


@pytest.mark.parametrize("sign", [False, True])
def test_the_normalised_return_restarts_where_a_life_was_lost(sign):
    _, agent = play(sign=sign, normalize=True)
    expected = RewardNormalizer(2, Listener.gamma)
    rows = np.sign(REWARDS) if sign else REWARDS
    for step, (_, reward, _) in enumerate(agent.told):
        done = np.array([(step, e) in LOST + ENDED for e in range(2)])
        assert np.array_equal(reward, expected.observe(rows[step], done))


def episodes(collector: Collector) -> list[Any]:
    return list(collector.finished)
