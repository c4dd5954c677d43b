import importlib.util

import numpy as np
import pytest
from ale_py.vector_env import AtariVectorEnv
from gymnasium.vector import AutoresetMode

from plasticine.envs import ale_vec
from plasticine.envs.contract import check_env_level, record, scripted_actions
from plasticine.errors import UserError
from tests.envs.levels import level
from tests.envs.scripted import play


def test_standard_ale_keeps_the_contract():
    found = level("standard_ale", image_size=42)
    check_env_level(found, episode_steps=300, state_before=20, state_after=20)
    spec = found.spec()
    assert (found.level, spec.name, spec.obs_shape) == ("standard", "standard_ale/breakout", (4, 42, 42))
    assert (spec.obs_dtype, spec.action.n, spec.max_episode_steps) == ("uint8", 4, 27000)


def test_continual_ale_keeps_the_contract():
    found = level("continual_ale", game=["breakout", "boxing"], cycles=2, num_envs=2, image_size=42)
    check_env_level(found, episode_steps=300, state_before=20, state_after=20)
    assert (found.level, found.spec().name) == ("continual", "continual_ale/games")
    assert [(t.name, t.visit) for t in found.tasks()] == [
        ("breakout", 0),
        ("boxing", 0),
        ("breakout", 1),
        ("boxing", 1),
    ]


def test_shipped_games_share_their_spaces_and_are_really_played():
    found = level("continual_ale", num_envs=1)
    assert [task.name for task in found.tasks()] == ["alien", "atlantis", "boxing", "breakout", "centipede"]
    assert found.spec().action.n == 18
    firsts, facts = [], []
    for task in found.tasks():
        env = found.enter(task, 0)
        firsts.append(env.reset().copy())
        facts.append(env.facts())
        env.close()
    assert [f["game"] for f in facts] == [task.name for task in found.tasks()]
    assert [f["lives"] for f in facts] == [[3], [6], [0], [5], [3]]
    assert all(f["actions"] == 18 for f in facts)
    assert all(np.mean(a != b) > 0.1 for i, a in enumerate(firsts) for b in firsts[:i])


def stock(game, seed, num, **options):
    """ale-py's own vector environment with the level's emulator seeds."""
    env = AtariVectorEnv(
        game, num, num_threads=1, reward_clipping=False, autoreset_mode=AutoresetMode.SAME_STEP, **options
    )
    first, _ = env.reset(seed=np.random.SeedSequence(seed).generate_state(num).astype(np.int64) // 2)
    return env, first


def test_observations_and_rewards_are_those_of_ale_py():
    found = level("standard_ale", game="pong", episodic_life=False, sticky=0.25, max_frames=800)
    actions = scripted_actions(found.spec(), 250, 3)
    env = found.enter(found.tasks()[0], 3)
    other, first = stock("pong", 3, 2, repeat_action_probability=0.25, max_num_frames_per_episode=800)
    assert np.array_equal(env.reset(), first)
    trace = record(env, found.spec(), actions)
    for i, action in enumerate(actions):
        obs, reward, terminated, truncated, info = other.step(action)
        assert np.array_equal(trace.obs[i], obs)
        assert np.array_equal(trace.reward[i], reward)
        assert np.array_equal(trace.truncated[i], truncated)
        assert not terminated.any()
        for step, e, final in trace.finals:
            if step == i:
                assert np.array_equal(final, info["final_obs"][e])
    assert trace.truncated.sum() == 2  # 800 frames are 200 steps
    assert len(trace.finals) == 2
    assert trace.reward.min() < 0


def test_whole_games_are_logged_in_points_while_lives_and_signs_are_learnt_from():
    steps, num, seed = 500, 2, 4
    found = level("standard_ale", game="asterix", num_envs=num)
    actions = scripted_actions(found.spec(), steps, seed)
    collector, agent = play(found, seed, actions)

    env, _ = stock("asterix", seed, num)
    points, ends, games = np.zeros(num), np.zeros((steps, num), dtype=int), []
    for i, action in enumerate(actions):
        _, reward, terminated, truncated, _ = env.step(action)
        points += reward
        ends[i] = terminated
        assert not truncated.any()
        for e in np.flatnonzero(terminated):
            games.append(points[e])
            points[e] = 0
        assert np.array_equal(agent.rewards[i], np.sign(reward))
    assert len(games) >= 2
    assert max(games) >= 50  # every reward in this game is a multiple of 50 points
    assert [episode.episodic_return for episode in collector.finished] == games
    learnt = np.array(agent.ends, dtype=int)
    assert (learnt >= ends).all()
    for e in range(num):  # three lives: two are lost, the third one ends the game
        played = np.flatnonzero(ends[:, e])[-1] + 1
        assert learnt[:played, e].sum() == 3 * ends[:played, e].sum()


def test_the_game_goes_on_after_a_lost_life():
    found = level("standard_ale")
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    seen = []
    for action in scripted_actions(found.spec(), 200, 0):
        out = env.step(action)
        if out.life_lost is not None and out.life_lost[0]:
            assert not out.terminated[0]
            seen.append(env.facts()["lives"][0])
        if out.terminated[0]:
            assert seen == [4, 3, 2, 1]
            assert env.facts()["lives"][0] == 5
            return
    pytest.fail("no game ended")


def test_no_life_is_lost_at_the_end_or_on_the_way_to_it():
    found = level("standard_ale", num_envs=4)
    env = found.enter(found.tasks()[0], 0)
    obs = env.reset()
    env._env.step = lambda actions: (
        obs,
        np.zeros(4, dtype=np.int32),
        np.array([False, False, True, False]),
        np.array([False, False, True, False]),
        {"lives": np.array([4, 0, 3, 6]), "final_obs": obs},
    )
    out = env.step(np.zeros(4, dtype=np.int64))
    assert out.life_lost.tolist() == [True, False, False, False]  # 0 left: the end follows
    assert (out.terminated & out.truncated).sum() == 0
    assert env.step(np.zeros(4, dtype=np.int64)).life_lost is None


def test_lives_are_an_option():
    found = level("standard_ale", episodic_life=False)
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    trace = record(env, found.spec(), scripted_actions(found.spec(), 200, 0))
    assert trace.terminated.any()
    assert not trace.life_lost.any()


def test_threads_do_not_change_the_results():
    traces = []
    for threads in (1, 2):
        found = level("standard_ale", game="boxing", num_threads=threads, num_envs=3)
        env = found.enter(found.tasks()[0], 9)
        env.reset()
        traces.append(record(env, found.spec(), scripted_actions(found.spec(), 60, 1)))
        env.close()
    assert traces[0].same(traces[1])


def test_a_missing_package_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "ale_py" else find(name))
    ale_vec.require_ale.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'plasticine\[ale\]'"):
        level("standard_ale")


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("standard_ale", {"game": "Breakout"}, "did you mean 'breakout'"),
        ("standard_ale", {"game": "MsPacman"}, "did you mean 'ms_pacman'"),
        ("continual_ale", {"game": ["alien", "centiped"]}, "did you mean 'centipede'"),
        ("continual_ale", {"game": "alien"}, "not a list of games"),
        ("continual_ale", {"full_action_space": False}, "alien 18, atlantis 4.*\n.*full_action_space=true"),
        ("standard_ale", {"sticky": 1.0}, "env.sticky=1.0"),
        ("standard_ale", {"frame_skip": 0}, "env.frame_skip=0"),
        ("standard_ale", {"num_threads": 0}, "env.num_threads=0"),
        ("standard_ale", {"noop_max": -1}, "env.noop_max=-1"),
    ],
)
def test_mistakes_are_explained(name, changes, message):
    with pytest.raises(UserError, match=message):
        level(name, **changes)
