import pytest

from plasticine.envs.contract import check_env_level, check_episode_end, check_state
from tests.envs.levels import level

CLASSIC = [
    ("cartpole", "none"),
    ("cartpole", "permute"),
    ("cartpole", "offset"),
    ("cartpole", "gravity"),
    ("acrobot", "offset"),
    ("mountain_car", "gravity"),
    ("mountain_car_continuous", "offset"),
    ("pendulum", "permute"),
]
LIMITS = {
    "cartpole": 100,
    "acrobot": 510,
    "mountain_car": 210,
    "mountain_car_continuous": 1010,
    "pendulum": 210,
}


@pytest.mark.parametrize(("domain", "shift"), CLASSIC)
def test_classic(domain, shift):
    found = level("classic", domain=domain, shift=shift, num_tasks=2, cycles=2, num_envs=3)
    limit = LIMITS[domain]
    check_env_level(found, episode_steps=limit, state_before=limit - 60, state_after=60)
    assert found.level == ("standard" if shift == "none" else "continual")
    assert found.spec().name == f"classic/{domain}"


def test_standard_dmc():
    found = level("standard_dmc", domain="cartpole", task="swingup", num_envs=2)
    check_env_level(found, episode_steps=1000, state_before=990, state_after=30)
    assert (found.level, found.spec().name) == ("standard", "standard_dmc/cartpole-swingup")
    assert found.spec().max_episode_steps == 1000


@pytest.mark.parametrize("shift", ["task", "dynamics"])
def test_continual_dmc(shift):
    found = level("continual_dmc", shift=shift)
    check_env_level(found, episode_steps=1000, state_before=990, state_after=30)
    assert (found.level, found.spec().name) == ("continual", "continual_dmc/quadruped")
    assert found.spec().obs_shape == (78,)
    assert found.spec().action.n == 12


def test_without_a_time_limit_the_spec_has_none():
    found = level("standard_dmc", domain="lqr", task="lqr_2_1")
    assert found.spec().max_episode_steps is None
    check_state(found, before=10, after=10)


def test_episode_check_needs_an_episode():
    with pytest.raises(AssertionError, match="raise `steps`"):
        check_episode_end(level("classic", domain="pendulum"), steps=10)
