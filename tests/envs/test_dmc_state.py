"""A restored simulation goes on exactly, in the middle of an episode and into the next ones."""

import pickle

import numpy as np
import pytest
from dm_control import suite

from plasticine.envs.contract import check_plain, check_state, record, scripted_actions
from tests.envs.levels import level

# Chosen for what their tasks change when an episode starts: nothing, targets in the model, object poses,
# actuator gains (point_mass hard), counters (hopper).
REPRESENTATIVE = [
    ("quadruped", "run"),
    ("walker", "walk"),
    ("point_mass", "hard"),
    ("finger", "turn_hard"),
    ("fish", "swim"),
    ("manipulator", "bring_ball"),
    ("hopper", "hop"),
    ("swimmer", "swimmer6"),
    ("humanoid", "walk"),
]


@pytest.mark.parametrize(("domain", "task"), REPRESENTATIVE)
def test_middle_of_an_episode_and_over_its_end(domain, task):
    found = level("standard_dmc", domain=domain, task=task)
    check_state(found, before=30, after=50)
    check_state(found, before=980, after=50)


def test_right_after_a_reset():
    check_state(level("standard_dmc", domain="quadruped", task="walk"), before=0, after=50)
    check_state(level("standard_dmc", domain="quadruped", task="walk"), before=1000, after=50)


def test_terrain_and_body_constants():
    check_state(level("standard_dmc", domain="quadruped", task="escape"), before=5, after=10)
    check_state(level("standard_dmc", domain="dog", task="fetch"), before=20, after=20)


@pytest.mark.slow
@pytest.mark.parametrize(("domain", "task"), suite.ALL_TASKS)
def test_every_task_of_the_suite(domain, task):
    found = level("standard_dmc", domain=domain, task=task)
    check_state(found, before=300, after=300)
    check_state(found, before=990, after=100)


def test_state_of_changed_dynamics():
    found = level("continual_dmc", shift="dynamics")
    check_state(found, before=50, after=50)


def test_a_state_survives_a_file_and_is_small():
    found = level("standard_dmc", domain="quadruped", task="walk", num_envs=2)
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    record(env, found.spec(), scripted_actions(found.spec(), 10, 0))
    state = env.state()
    check_plain(state)
    assert len(pickle.dumps(state)) < 50_000
    other = found.enter(found.tasks()[0], 0)
    assert np.array_equal(other.load_state(pickle.loads(pickle.dumps(state))), state["obs"])


def test_only_what_the_task_changed_is_stored():
    changed = {}
    for domain, task in (("walker", "walk"), ("fish", "swim"), ("quadruped", "escape")):
        found = level("standard_dmc", domain=domain, task=task)
        env = found.enter(found.tasks()[0], 0)
        env.reset()
        changed[task] = set(env.state()["sims"][0]["changes"]["model"])
    assert changed == {"walk": set(), "swim": {"geom_pos"}, "escape": {"hfield_data"}}


def test_the_random_state_of_the_task_is_part_of_the_state():
    found = level("standard_dmc", domain="reacher", task="easy")
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    state = env.state()
    following = env.reset().copy()
    assert not np.array_equal(following, env.reset())
    env.load_state(state)
    assert np.array_equal(following, env.reset())


def test_numbers_of_the_task_are_part_of_the_state():
    found = level("standard_dmc", domain="walker", task="walk")
    env, other = (found.enter(found.tasks()[0], 0) for _ in range(2))
    env.reset()
    env._block.sims[0].task._move_speed = np.float64(3.5)
    env._block.sims[0].task._started = True
    other.reset()
    other._block.sims[0].task._leftover = 1
    other.load_state(env.state())
    attributes = vars(other._block.sims[0].task)
    assert attributes["_move_speed"] == 3.5
    assert type(attributes["_move_speed"]) is np.float64
    assert attributes["_started"] is True
    assert "_leftover" not in attributes


def test_a_state_of_another_number_of_environments_is_refused():
    one, two = (level("standard_dmc", domain="pendulum", task="swingup", num_envs=n) for n in (1, 2))
    env = one.enter(one.tasks()[0], 0)
    env.reset()
    with pytest.raises(ValueError, match="state of 1 environments, this has 2"):
        two.enter(two.tasks()[0], 0).load_state(env.state())
