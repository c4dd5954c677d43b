"""Expected against real returns: sums by hand, scripted episodes with known answers, every agent's values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.core.collect import Collector
from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec, StepOut, Task, VecEnv
from plasticine.core.metric import Probe
from plasticine.core.normalize import RewardNormalizer
from plasticine.core.returns import Expectations, Rehearsal, discounted
from plasticine.metrics.overestimation import Overestimation, bias_values
from tests.metrics.experiments import probe_of


def test_discounted_equals_sums_by_hand():
    rng = np.random.default_rng(0)
    rewards, ends, after = rng.normal(size=(9, 4)), rng.random((9, 4)) < 0.2, rng.normal(size=4)
    lengths, gamma = np.array([9, 4, 1, 7]), 0.8
    found = discounted(rewards, ends, lengths, after, gamma)
    for i in range(4):
        for t in range(lengths[i]):
            expected, factor, k = 0.0, 1.0, t
            while True:
                expected += factor * rewards[k, i]
                factor *= gamma
                if ends[k, i]:
                    break
                k += 1
                if k == lengths[i]:
                    expected += factor * after[i]
                    break
            assert found[t, i] == pytest.approx(expected)


class Script(VecEnv):
    """Two environments whose episodes end at given steps; observations count the steps."""

    def __init__(self, level):
        self._level, self._t = level, np.zeros(2, np.int64)

    def _obs(self):
        return np.stack([self._t, [0, 1]], axis=1).astype(np.float32)

    def reset(self):
        self._t[...] = 0
        return self._obs()

    def step(self, actions):
        level = self._level
        level.seen.append(actions.copy())
        self._t += 1
        terminated = self._t == level.terminates
        truncated = self._t == level.truncates
        lost = (self._t == level.loses) if level.loses else None
        reward = (10.0 * self._t).astype(np.float32)
        done = terminated | truncated
        obs, final = self._obs(), None
        if level.autoreset == "same_step":
            final = obs.copy() if done.any() and level.tells else None
            self._t[done] = 0
            obs = self._obs()
        return StepOut(obs, reward, terminated, truncated, final, lost)


class ScriptLevel(EnvLevel):
    """See `Script`."""

    level = "standard"

    def __init__(self, *, terminates, truncates, loses=None, autoreset="same_step", tells=True, **norm):
        options = {"normalize_obs": False, "normalize_reward": False, "normalizer_on_switch": "carry"}
        super().__init__(num_envs=2, **{**options, **norm})
        self.terminates, self.truncates, self.loses = np.array(terminates), np.array(truncates), loses
        self.autoreset, self.tells, self.seen = autoreset, tells, []

    def spec(self):
        return EnvSpec("test/script", (2,), "float32", ActionSpec("discrete", 3), 2, autoreset=self.autoreset)

    def tasks(self):
        return (Task(0, "script", 10),)

    def enter(self, task, seed):
        return Script(self)


class Expecting:
    """Takes action 1 greedily, 2 otherwise; expects 100 plus the step, 1000 more for the second environment."""

    gamma = 0.5
    values_of = "greedy"

    def choose(self, obs, *, greedy, generator):
        return np.full(len(obs), 1 if greedy else 2)

    def values(self, obs, actions):
        assert set(actions) == {1 if self.values_of == "greedy" else 2}
        return {"q": torch.from_numpy(100.0 + obs[:, 0] + 1000.0 * obs[:, 1])}


def play(level, agent=None, limit=50):
    agent = agent or Expecting()
    collector = Collector(level.spec(), level, agent)
    return Rehearsal(level, agent, collector).play(level.tasks()[0], 0, limit), collector


@pytest.mark.parametrize("autoreset", ["same_step", "next_step"])
def test_terminated_and_cut_episodes(autoreset):
    level = ScriptLevel(terminates=[3, 0], truncates=[0, 2], autoreset=autoreset)
    found, _ = play(level)
    # in the order of steps: both environments, both, the first only
    assert found.values["q"].tolist() == [100, 1100, 101, 1101, 102]
    first = [10 + 0.5 * (20 + 0.5 * 30), 20 + 0.5 * 30, 30]
    second = [
        10 + 0.5 * (20 + 0.5 * 1102),
        20 + 0.5 * 1102,
    ]  # goes on with the value of its own last observation
    assert found.returns["q"].tolist() == pytest.approx([first[0], second[0], first[1], second[1], first[2]])
    assert found.open.tolist() == [0, 0.25, 0, 0.5, 0]


def test_a_lost_life_ends_what_counts():
    found, _ = play(ScriptLevel(terminates=[3, 3], truncates=[0, 0], loses=2))
    assert found.returns["q"].tolist() == [20, 20, 20, 20, 30, 30]
    assert found.open.tolist() == [0] * 6


def test_episodes_are_left_at_the_limit():
    found, _ = play(ScriptLevel(terminates=[9, 1], truncates=[0, 0]), limit=2)
    assert found.values["q"].tolist() == [100, 1100, 101]
    assert found.returns["q"].tolist() == pytest.approx([10 + 0.5 * (20 + 0.5 * 102), 10, 20 + 0.5 * 102])
    assert found.open.tolist() == [0.25, 0, 0.5]


def test_a_cut_whose_last_observation_is_unknown_counts_for_nothing():
    level = ScriptLevel(terminates=[3, 0], truncates=[0, 2], tells=False)
    found, _ = play(level)
    assert found.open.tolist() == [0, math.inf, 0, math.inf, 0]
    probe = Probe((), rehearse=lambda limit: found)
    value = Overestimation(max_steps=50, tail=1.0, every=1).compute(probe)
    assert value["q/return"] == pytest.approx(np.mean([27.5, 35, 30]))
    assert value["q/value"] == pytest.approx(101)


def test_the_policy_is_the_one_whose_value_is_estimated():
    for policy, action in (("greedy", 1), ("sample", 2)):
        level, agent = ScriptLevel(terminates=[1, 1], truncates=[0, 0]), Expecting()
        agent.values_of = policy
        play(level, agent)
        assert level.seen[0].tolist() == [action, action]


def test_rewards_are_those_that_are_learnt_from():
    level = ScriptLevel(terminates=[2, 2], truncates=[0, 0], normalize_reward=True)
    level.reward_sign_clip = True
    agent = Expecting()
    collector = Collector(level.spec(), level, agent)
    collector.reward_normalizer.moments.var[...] = 0.0625
    before = repr(collector.state(simulator=False))
    found = Rehearsal(level, agent, collector).play(level.tasks()[0], 0, 50)
    assert found.returns["q"].tolist() == pytest.approx([4 + 0.5 * 4, 6, 4, 4])
    assert repr(collector.state(simulator=False)) == before


def test_scaling_rewards_without_observing_them():
    normalizer = RewardNormalizer(3, 0.9)
    learnt = normalizer.observe(np.array([1.0, -2.0, 500.0], np.float32), np.zeros(3, bool))
    before = repr(normalizer.state())
    assert normalizer.apply(np.array([1.0, -2.0, 500.0], np.float32)).tolist() == learnt.tolist()
    assert float(normalizer.apply(np.array([1e9], np.float32))[0]) == 10.0
    assert repr(normalizer.state()) == before


def test_agents_without_values_have_none():
    agent = Expecting()
    agent.values = lambda obs, actions: {}
    found, _ = play(ScriptLevel(terminates=[2, 2], truncates=[0, 0]), agent)
    assert found is None
    metric = Overestimation(max_steps=5, tail=0.1, every=1)
    assert metric.compute(Probe((), rehearse=lambda limit: None)) == {}


def test_bias():
    values, returns = np.array([3.0, 5.0]), np.array([-1.0, -3.0])
    assert bias_values(values, returns) == pytest.approx({"": 3.0, "value": 4.0, "return": -2.0})
    assert bias_values(10 * values, 10 * returns)[""] == pytest.approx(3.0)
    assert bias_values(returns, returns)[""] == 0.0
    assert math.isnan(bias_values(values, np.array([1.0, -1.0]))[""])
    assert all(math.isnan(v) for v in bias_values(values[:0], returns[:0]).values())
    assert math.isnan(bias_values(np.array([math.nan]), np.ones(1))["value"])


def test_steps_that_mostly_follow_an_estimate_are_left_out():
    played = Expectations(
        {"a": np.array([1.0, 9.0]), "b": np.array([4.0, 9.0])},
        {"a": np.ones(2), "b": np.ones(2)},
        np.array([0.1, 0.11]),
    )
    asked = []
    probe = Probe((), rehearse=lambda limit: asked.append(limit) or played)
    found = Overestimation(max_steps=77, tail=0.1, every=1).compute(probe)
    assert found == {"a": 0, "a/value": 1, "a/return": 1, "b": 3, "b/value": 4, "b/return": 1}
    assert asked == [77]


# -- what the agents expect --------------------------------------------------------------------------------------
def float64(t, net, head, x):
    """An MLP with tanh, evaluated by numpy."""
    p = {
        k.split("/", 1)[1]: v.detach().double().numpy()
        for k, v in t.learner.state.params.items()
        if k.startswith(f"{net}/")
    }
    for i in range(2):
        x = x @ p[f"body.{i}.weight"].T + p[f"body.{i}.bias"]
        if f"body.{i}.norm_scale" in p:
            x = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
            x = x * p[f"body.{i}.norm_scale"] + p[f"body.{i}.norm_offset"]
        x = np.tanh(x)
    return x @ p[f"head.{head}.weight"].T + p[f"head.{head}.bias"]


@pytest.mark.parametrize("name", ["ppo", "ppo-shared", "pqn", "td3", "c51"])
def test_values_of_agents_equal_numpy(name):
    t, _ = probe_of(name, network={"hidden": [6, 5], "act": "tanh"})
    agent, rng = t.learner.agent, np.random.default_rng(0)
    obs = rng.normal(size=(7, 5)).astype(np.float32)
    discrete = t.collector.spec.action.kind == "discrete"
    actions = rng.integers(3, size=7) if discrete else rng.normal(size=(7, 2)).astype(np.float32)
    found = {k: v.numpy() for k, v in agent.values(obs, actions).items()}
    rows = np.arange(7)
    if name == "c51":
        logits = float64(t, "q", "atoms", obs).reshape(7, 3, agent.atoms)
        masses = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
        expected = {"q": (masses @ np.linspace(agent.v_min, agent.v_max, agent.atoms))[rows, actions]}
    elif name == "pqn":
        expected = {"q": float64(t, "q", "q", obs)[rows, actions]}
    elif name == "td3":
        pairs = np.concatenate([obs, actions], axis=1)
        expected = {f"critic.{i}": float64(t, f"critic.{i}", "value", pairs)[:, 0] for i in range(2)}
    else:
        net = "shared" if name == "ppo-shared" else "critic"
        expected = {net: float64(t, net, "value", obs)[:, 0]}
    assert found.keys() == expected.keys()
    for net, values in expected.items():
        assert np.allclose(found[net], values, rtol=1e-4, atol=1e-5)
    assert agent.values_of == ("sample" if name.startswith("ppo") else "greedy")


def test_rehearsals_of_a_task_are_alike_and_those_of_runs_differ():
    t, probe = probe_of("td3")
    first, second = probe.rehearse(20), probe.rehearse(20)
    assert all(np.array_equal(first.returns[k], second.returns[k]) for k in first.returns)
    other = t._rehearsal.play(t.level.tasks()[-1], 1, 20)
    assert any(not np.array_equal(first.values[k], other.values[k]) for k in other.values)
