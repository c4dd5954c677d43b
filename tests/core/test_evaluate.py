"""Evaluation: what is counted, and that training does not notice."""

from __future__ import annotations

import copy
import functools
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from plasticine.api import configure
from plasticine.compose import assemble_parts
from plasticine.core.collect import Collector
from plasticine.core.evaluate import Evaluation, Evaluator, Spectator, play_round
from plasticine.core.scores import final_evaluations, summarise_evaluations
from plasticine.envs.contract import check_tasks
from plasticine.errors import UserError
from plasticine.testing.level import ToyLevel
from plasticine.testing.runs import global_random_states
from tests.agents.off_policy_lab import toy_config
from tests.core.held_out import HeldOutToy, ScriptedEnv, ScriptedLevel
from tests.core.runs import StopAfter, recorded, series, tensors, trainer
from tests.core.test_trainer import Memory

AUTORESET = ("same_step", "next_step")
#: Lengths of episode 0, 1, 2 of three environments.
LENGTHS = [[2, 7, 3], [4, 1, 9], [5, 5, 1]]


def still(obs):
    return np.zeros(len(obs), np.int64)


def evaluation(**changes) -> Evaluation:
    usual = {"every": 2, "episodes": 6, "max_steps": 50, "policy": "sample", "training_task": False}
    return Evaluation(**{**usual, **changes})


class Chooser:
    """Remembers how it was asked."""

    gamma = 0.99

    def __init__(self):
        self.asked = []

    def choose(self, obs, *, greedy, generator):
        self.asked.append((obs.copy(), greedy, torch.rand(1, generator=generator).item()))
        return np.zeros(len(obs), np.int64)


def evaluator(level, **changes):
    agent = Chooser()
    collector = Collector(level.spec(), level, agent)
    return Evaluator(evaluation(**changes), level, agent, collector), agent, collector


def score(episode: int, env: int, length: int) -> float:
    return length * (100 * episode + 10 * env) + length * (length + 1) / 2


# -- what is counted -----------------------------------------------------------------------------------------
@pytest.mark.parametrize("autoreset", AUTORESET)
def test_a_round_is_the_first_episode_of_every_environment(autoreset):
    env = ScriptedEnv(LENGTHS, autoreset)
    for number, lengths in enumerate(LENGTHS):
        before = env.steps
        played = play_round(env, 3, still, limit=100)
        assert played.lengths.tolist() == lengths
        assert played.returns.tolist() == [score(number, i, n) for i, n in enumerate(lengths)]
        assert played.over.all()
        assert env.steps - before == max(lengths)


@pytest.mark.parametrize("autoreset", AUTORESET)
def test_an_episode_beyond_the_limit_counts_with_its_return_so_far(autoreset):
    played = play_round(ScriptedEnv(LENGTHS, autoreset), 3, still, limit=3)
    assert played.lengths.tolist() == [2, 3, 3]
    assert played.returns.tolist() == [score(0, 0, 2), score(0, 1, 3), score(0, 2, 3)]
    assert played.over.tolist() == [True, False, True]


@pytest.mark.parametrize("autoreset", AUTORESET)
@pytest.mark.parametrize(("episodes", "rounds"), [(1, 1), (3, 1), (4, 2), (9, 3)])
def test_every_environment_has_the_same_quota(autoreset, episodes, rounds):
    level = ScriptedLevel(LENGTHS, autoreset)
    made, _, _ = evaluator(level, episodes=episodes)
    values = made.take(level.tasks()[0], 0)
    lengths = np.asarray(LENGTHS[:rounds])
    scores = [score(k, i, n) for k, row in enumerate(LENGTHS[:rounds]) for i, n in enumerate(row)]
    assert values == {
        "eval/script/episodic_return": pytest.approx(np.mean(scores)),
        "eval/script/episodic_length": pytest.approx(lengths.mean()),
        "eval/script/episodes": 3.0 * rounds,
        "eval/script/cut": 0.0,
    }
    (_, _, env) = level.entered[0]
    assert env.steps == lengths.max(axis=1).sum()
    assert env.closed == 1


@pytest.mark.parametrize("autoreset", AUTORESET)
def test_short_episodes_count_no_more_than_long_ones(autoreset):
    """An environment whose episodes last one step ends 40 of them while the other ends one."""
    level = ScriptedLevel([[1, 40]], autoreset)
    made, _, _ = evaluator(level, episodes=2)
    values = made.take(level.tasks()[0], 0)
    assert values["eval/script/episodic_length"] == 20.5
    assert values["eval/script/episodes"] == 2


def test_cut_episodes_are_counted():
    level = ScriptedLevel(LENGTHS, "same_step")
    made, _, _ = evaluator(level, episodes=9, max_steps=4)
    assert made.take(level.tasks()[0], 0)["eval/script/cut"] == 4.0  # 7, 9, 5, 5


# -- how the agent is asked ----------------------------------------------------------------------------------
@pytest.mark.parametrize(("policy", "greedy"), [("sample", False), ("greedy", True)])
def test_the_policy_is_asked_as_configured(policy, greedy):
    level = ScriptedLevel(LENGTHS, "same_step")
    made, agent, _ = evaluator(level, policy=policy)
    made.take(level.tasks()[0], 0)
    assert {asked[1] for asked in agent.asked} == {greedy}


def test_observations_are_normalised_with_the_training_statistics_and_leave_them_alone():
    level = ScriptedLevel(LENGTHS, "same_step", normalize_obs=True)
    made, agent, collector = evaluator(level, episodes=3)
    rng = np.random.default_rng(0)
    for _ in range(5):
        collector.obs_normalizer.observe(rng.normal(3.0, 2.0, (3, 2)), np.zeros((3, 2), np.float32))
    before = collector.obs_normalizer.state()
    seen = collector.obs.copy()
    made.take(level.tasks()[0], 0)
    after = collector.obs_normalizer.state()
    for key in ("mean", "var"):
        assert np.array_equal(before["moments"][key], after["moments"][key])
    assert before["moments"]["count"] == after["moments"]["count"]
    assert np.array_equal(collector.obs, seen)
    mean, var = before["moments"]["mean"], before["moments"]["var"]
    assert np.allclose(agent.asked[0][0], (0.0 - mean) / np.sqrt(var + 1e-8), atol=1e-6)
    raw = np.array([[0, 1], [0, 1], [0, 1]])
    assert np.allclose(agent.asked[1][0], (raw - mean) / np.sqrt(var + 1e-8), atol=1e-6)


def test_without_a_normaliser_observations_are_passed_on_as_a_copy():
    level = ScriptedLevel(LENGTHS, "same_step")
    _, agent, collector = evaluator(level)
    spectator = Spectator(agent, collector, level.spec(), greedy=True, seed=0)
    raw = np.ones((3, 2), np.float32)
    raw.flags.writeable = False
    spectator.act(raw)
    assert np.array_equal(agent.asked[0][0], raw)


def test_seeds_depend_on_run_task_and_variant_and_on_nothing_else():
    level = ScriptedLevel(LENGTHS, "same_step")
    level.names = ("one", "two")
    made, agent, _ = evaluator(level, training_task=True)
    task = level.tasks()[0]
    for seed in (0, 0, 1):
        made.take(task, seed)
    seeds = [seed for _, seed, _ in level.entered]
    assert [t.name for t, _, _ in level.entered] == ["one", "two", "only"] * 3
    assert seeds[:3] == seeds[3:6]
    assert len(set(seeds)) == 6
    third = len(agent.asked) // 3
    draws = [number for _, _, number in agent.asked]
    assert draws[:third] == draws[third : 2 * third]
    assert draws[:third] != draws[2 * third :]
    made.take(replace(task, index=1), 0)
    assert level.entered[-1][1] not in seeds


def test_the_environment_is_closed_when_the_agent_fails():
    level = ScriptedLevel(LENGTHS, "same_step")
    made, agent, _ = evaluator(level)
    agent.choose = None
    with pytest.raises(TypeError):
        made.take(level.tasks()[0], 0)
    assert level.entered[0][2].closed == 1


def test_a_level_that_holds_nothing_out_is_not_entered(monkeypatch):
    entered = []
    enter = ToyLevel.enter
    monkeypatch.setattr(ToyLevel, "enter", lambda self, *a: entered.append(a) or enter(self, *a))
    config = run_config("ppo")
    config["env"]["_target_"] = "plasticine.testing.level.ToyLevel"
    t = assembled(config)
    t.fit()
    assert len(entered) == 3
    assert not [k for _, line in t.tracker.lines for k in line if "eval" in k]


@pytest.mark.parametrize("name", ["training_task", "a/b", "", "two words"])
def test_a_variant_must_have_a_usable_name(name):
    level = ScriptedLevel(LENGTHS, "same_step")
    level.names = (name,)
    with pytest.raises(ValueError, match="cannot name an evaluation of test/scripted"):
        evaluator(level)[0].take(level.tasks()[0], 0)


def test_the_contract_of_levels_covers_what_is_held_out(monkeypatch):
    arguments = {k: v for k, v in toy_config("pqn")["env"].items() if k != "_target_"}
    level = HeldOutToy(**arguments)
    check_tasks(level)
    wrong = {
        "differs from the task": lambda task: {"same": replace(task, name="another")},
        "named by letters": lambda task: {"a b": replace(task, options={"goal": 0.0})},
        "the name of the task itself": lambda task: {"training_task": replace(task, options={"goal": 0.0})},
    }
    for message, evaluations in wrong.items():
        monkeypatch.setattr(level, "evaluations", evaluations)
        with pytest.raises(AssertionError, match=message):
            check_tasks(level)
    monkeypatch.setattr(level, "evaluations", lambda task: {"broken": replace(task, options={})})
    with pytest.raises(KeyError):  # it is entered
        check_tasks(level)


# -- when ----------------------------------------------------------------------------------------------------
@functools.cache
def base_config(agent: str):
    if agent in ("td3", "c51"):
        return toy_config(agent)
    small = {"num_steps": 8, "num_minibatches": 2, "epochs": 2}
    config = toy_config("pqn")
    return {**config, "agent": {**configure(f"agent={agent}")["agent"], **small}}


def run_config(agent: str, **changes):
    config = copy.deepcopy(base_config(agent))
    config["env"] |= {
        "_target_": "tests.core.held_out.HeldOutToy",
        "normalize_obs": True,
        "normalize_reward": True,
    }
    usual = {"every": 4, "episodes": 3, "max_steps": 20, "policy": "sample", "training_task": False}
    config["evaluation"] = {**usual, **changes}
    return config


def assembled(config):
    return trainer(assemble_parts(config), tracker=Memory(), seed=config["seed"])


def test_evaluations_come_every_so_many_iterations_and_at_each_end_of_a_task():
    t = assembled(run_config("ppo"))  # 3 tasks of 6 iterations of 16 steps
    t.fit()
    lines = t.tracker.lines[:-1]
    with_eval = [step // 16 for step, line in lines if "eval/far/episodic_return" in line]
    assert with_eval == [4, 6, 8, 12, 16, 18]
    keys = {k for _, line in lines for k in line if k.startswith("eval/")}
    numbers = ("episodic_return", "episodic_length", "episodes", "cut")
    assert keys == {f"eval/{v}/{n}" for v in ("mirrored", "far") for n in numbers}
    ends = {s // 16: line for s, line in lines if s // 16 in (6, 12, 18)}
    final = [ends[i]["eval/far/episodic_return"] for i in (6, 12, 18)]
    summary = t.tracker.lines[-1][1]
    assert summary["summary/eval/far/final_return"] == final[-1]
    assert summary["summary/eval/far/mean_task_final"] == pytest.approx(np.mean(final))
    assert t.summary()["eval/far/final_return"] == final[-1]


def test_the_training_task_can_be_evaluated_too():
    t = assembled(run_config("ppo", training_task=True, every=18))
    t.fit()
    assert "eval/training_task/episodic_return" in t.tracker.lines[-2][1]


def test_no_cadence_means_never():
    t = assembled(run_config("ppo", every=None))
    t.fit()
    assert not [k for _, line in t.tracker.lines for k in line if "eval" in k]


def test_the_time_of_an_evaluation_is_not_training_time(monkeypatch):
    plain = assembled(run_config("ppo", every=None))
    plain.fit()
    t = assembled(run_config("ppo", every=1))
    monkeypatch.setattr(t.evaluator, "take", lambda task, seed: time.sleep(0.05) or {})
    t.fit()
    assert t._training_seconds < plain._training_seconds + 0.45  # slept for 0.9 s


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"every": 0}, r"evaluation.every=0 must be at least 1[\s\S]*null switches"),
        ({"episodes": 0}, "evaluation.episodes=0"),
        ({"max_steps": 0}, "evaluation.max_steps=0"),
        ({"policy": "random"}, "evaluation.policy='random' has the wrong type"),
        ({"episodes": 2.5}, "evaluation.episodes=2.5 has the wrong type"),
        ({"evry": 3}, "did you mean 'every'"),
    ],
)
def test_mistakes_are_explained(changes, message):
    with pytest.raises(UserError, match=message):
        assemble_parts(run_config("ppo", **changes))


def test_the_shipped_group_has_every_key():
    assert set(configure()["evaluation"]) == {"every", "episodes", "max_steps", "policy", "training_task"}


def test_scores_by_variant():
    values = {"eval/a/episodic_return": 1.0, "eval/a/episodes": 3.0, "eval/b/episodic_return": 5.0}
    assert final_evaluations(2, values) == [(2, "a", 1.0), (2, "b", 5.0)]
    ends = [(0, "a", 1.0), (1, "a", 2.0), (1, "b", 7.0)]
    assert summarise_evaluations(ends) == {
        "eval/a/final_return": 2.0,
        "eval/a/mean_task_final": 1.5,
        "eval/b/final_return": 7.0,
        "eval/b/mean_task_final": 7.0,
    }
    assert summarise_evaluations([]) == {}


# -- training does not notice --------------------------------------------------------------------------------
def without_evaluations(rows):
    for row in rows:
        if "m" in row:
            row["m"] = {k: v for k, v in row["m"].items() if "eval/" not in k}
    return rows


@pytest.mark.parametrize("policy", ["sample", "greedy"])
@pytest.mark.parametrize("agent", ["ppo", "pqn", "td3", "c51"])
def test_training_is_the_same_bit_for_bit(tmp_path, agent, policy):
    states = global_random_states()
    plain = recorded(tmp_path / "plain", run_config(agent, every=None))
    often = recorded(tmp_path / "often", run_config(agent, every=1, policy=policy, training_task=True))
    assert states == global_random_states()
    a, b = tensors(plain), tensors(often)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[k], b[k]) for k in a)
    streams, others = plain.learner.streams.state(), often.learner.streams.state()
    assert streams.keys() == others.keys()
    assert all(torch.equal(v, others[k]) for k, v in streams.items())
    for one, other in zip(
        plain.collector._normalizers().values(), often.collector._normalizers().values(), strict=True
    ):
        assert str(one.state()) == str(other.state())
    told = series(tmp_path / "often")
    assert any("eval/mirrored/episodic_return" in row.get("m", {}) for row in told)
    assert series(tmp_path / "plain") == without_evaluations(told)


@pytest.mark.parametrize("agent", ["ppo", "td3"])
def test_interrupted_equals_uninterrupted(tmp_path, agent):
    config = run_config(agent, every=2)
    whole = recorded(tmp_path / "whole", config)
    for looks in (1, 3, 7):
        assert recorded(tmp_path / "parts", config, stop=StopAfter(looks)).counters.iteration < 18
    last = recorded(tmp_path / "parts", config)
    a, b = tensors(whole), tensors(last)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert series(tmp_path / "whole") == series(tmp_path / "parts")
    ours, theirs = ({k: v for k, v in t.summary().items() if k != "env_steps_per_s"} for t in (whole, last))
    assert ours == theirs
