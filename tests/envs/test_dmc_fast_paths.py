"""The replaced pieces of dm_control compute what the originals compute."""

import itertools

import numpy as np
import pytest
from dm_control import suite
from dm_control.utils import rewards

from plasticine.envs.dmc_index import cache_named_indices
from plasticine.envs.dmc_reward import fast_tolerance

fast = fast_tolerance(rewards.tolerance)
SIGMOIDS = [
    "gaussian",
    "hyperbolic",
    "long_tail",
    "reciprocal",
    "cosine",
    "linear",
    "quadratic",
    "tanh_squared",
]
BOUNDS = [(0.0, 0.0), (0.5, float("inf")), (-1.0, 1.0), (float("-inf"), 0.3)]


def bits(value):
    return np.asarray(value, dtype=np.float64).tobytes()


def settings_of_tolerance():
    for sigmoid, bounds, margin, at_margin in itertools.product(
        SIGMOIDS, BOUNDS, (0.0, 1, 0.7, 5.0), (0, 0.1, 0.5)
    ):
        if at_margin == 0 and sigmoid not in ("cosine", "linear", "quadratic"):
            continue
        yield {"sigmoid": sigmoid, "bounds": bounds, "margin": margin, "value_at_margin": at_margin}


def test_tolerance_of_numbers():
    rng = np.random.default_rng(0)
    numbers = [*rng.normal(0, 2, 40), 0.0, -0.0, 0.5, 1e-320, 1e150, -1e300, np.inf, -np.inf, np.nan]
    for keys in settings_of_tolerance():
        for number in numbers:
            with np.errstate(all="ignore"):
                for x in (float(number), np.float64(number), np.array(number)):
                    expected, found = rewards.tolerance(x, **keys), fast(x, **keys)
                    assert bits(expected) == bits(found), (x, keys)


def test_tolerance_of_arrays():
    rng = np.random.default_rng(1)
    for keys in settings_of_tolerance():
        for size in (1, 2, 7, 38):
            x = rng.normal(0, 2, size)
            x[rng.integers(size)] = rng.choice([0.0, -0.0, np.nan, np.inf, 1.0])
            before = x.copy()
            with np.errstate(all="ignore"):
                assert bits(rewards.tolerance(x, **keys)) == bits(fast(x, **keys)), (x, keys)
            assert bits(x) == bits(before)


@pytest.mark.parametrize(
    "bad",
    [
        {"bounds": (1.0, 0.0)},
        {"margin": -1.0},
        {"margin": 1.0, "value_at_margin": 0.0},
        {"margin": 1.0, "sigmoid": "linear", "value_at_margin": 1.0},
        {"margin": 1.0, "sigmoid": "unknown"},
    ],
)
@pytest.mark.parametrize("x", [2.5, np.array([2.5, 0.1])])
def test_tolerance_refuses_what_the_original_refuses(x, bad):
    with pytest.raises(ValueError) as original:  # noqa: PT011 - the message is compared
        rewards.tolerance(x, **bad)
    with pytest.raises(ValueError) as ours:  # noqa: PT011
        fast(x, **bad)
    assert str(ours.value) == str(original.value)


@pytest.fixture
def both():
    """The same walker twice: as dm_control indexes it, and with kept indices."""
    plain, cached = (suite.load("walker", "walk", task_kwargs={"random": 0}) for _ in range(2))
    cache_named_indices(cached.physics)
    for env in (plain, cached):
        env.reset()
    # dm_control keeps weak references: the environments must live as long as the test.
    yield plain.physics.named, cached.physics.named
    assert plain is not cached


KEYS = [
    ("qpos", "rootz"),
    ("qpos", ["rootz", "left_knee"]),
    ("qpos", slice(1, 3)),
    ("qpos", 2),
    ("qpos", np.array(["rootz", "left_knee"])),
    ("qpos", [0, 2]),
    ("xpos", "torso"),
    ("xpos", ["torso", "left_leg"]),
    ("xpos", ("torso", "z")),
    ("xpos", ("torso", 2)),
    ("xpos", ("torso", ["x", "z"])),
    ("xpos", (["torso", "left_leg"], "z")),
    ("xpos", (["torso", "left_leg"], ["x", "z"])),
    ("xpos", (np.array([["torso"], ["left_leg"]]), ["x", "z"])),
    ("xmat", (slice(2, None), ["zz", "xz"])),
    ("xmat", ("torso", slice(0, 4))),
    ("xmat", (1, "zz")),
]


@pytest.mark.parametrize(("field", "key"), KEYS, ids=str)
def test_named_reads_and_writes(both, field, key):
    plain, cached = (getattr(named.data, field) for named in both)
    for _ in range(3):  # the second and third time from memory
        expected, found = plain[key], cached[key]
        assert np.array_equal(expected, found)
        assert np.shape(expected) == np.shape(found)
    for value in (0.25, -3.0):
        plain[key] = value
        cached[key] = value
        assert np.array_equal(plain[:], cached[:])
        assert np.array_equal(np.asarray(cached[key]), np.full(np.shape(expected), value))


def test_a_list_that_is_changed_is_looked_up_anew(both):
    _, cached = both
    names = ["torso", "left_leg"]
    before = cached.data.xpos[names].copy()
    names[0] = "right_leg"
    assert not np.array_equal(before[0], cached.data.xpos[names][0])


@pytest.mark.parametrize("key", ["no_such_body", ("torso", "w"), ["torso", "no_such_body"], "", []], ids=repr)
def test_wrong_names_fail_as_before(both, key):
    plain, cached = both
    with pytest.raises((KeyError, IndexError)) as original:
        plain.data.xpos[key]
    with pytest.raises(original.type):
        cached.data.xpos[key]
    with pytest.raises(original.type):
        cached.data.xpos[key]
