"""Pictures of every suite: they show what moves, and drawing them changes nothing."""

from __future__ import annotations

import importlib
import itertools
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image, ImageSequence

from plasticine.envs import craftax_sim, dmc_render
from plasticine.envs.contract import scripted_actions
from plasticine.errors import UserError
from plasticine.tracking.gif import write_gif
from tests.envs.levels import level

STEPS = 24
#: Level, changes, size of the images.
SUITES = {
    "cartpole": ("classic", {"domain": "cartpole", "shift": "offset", "num_envs": 2}, (160, 240)),
    "acrobot": ("classic", {"domain": "acrobot", "shift": "none", "num_envs": 1}, (160, 240)),
    "mountain_car": ("classic", {"domain": "mountain_car", "shift": "none", "num_envs": 1}, (160, 240)),
    "continuous": (
        "classic",
        {"domain": "mountain_car_continuous", "shift": "none", "num_envs": 1},
        (160, 240),
    ),
    "pendulum": ("classic", {"domain": "pendulum", "shift": "none", "num_envs": 1}, (160, 240)),
    "ale": ("standard_ale", {"game": "pong", "num_envs": 2, "noop_max": 1}, (84, 84)),
    "procgen": ("standard_procgen", {"num_envs": 2}, (64, 64)),
    "dmc": ("standard_dmc", {"num_envs": 2}, (180, 240)),
}


def play(found, *, drawn):
    """Observations and rewards of the first steps, and the images if they are `drawn`."""
    env = found.enter(found.tasks()[0], 3)
    trace, images = [env.reset().copy()], []
    if drawn:
        images.append(np.array(env.render()))
    for action in scripted_actions(found.spec(), STEPS, 0):
        out = env.step(action)
        trace += [np.array(out.obs), np.array(out.reward)]
        if drawn:
            images.append(np.array(env.render()))
    env.close()
    return trace, images


@pytest.mark.parametrize("suite", SUITES)
def test_images_move_and_change_nothing(suite, tmp_path):
    name, changes, size = SUITES[suite]
    found = level(name, **changes)
    found.check_render()
    blind, _ = play(found, drawn=False)
    trace, images = play(found, drawn=True)
    assert all(np.array_equal(a, b) for a, b in zip(blind, trace, strict=True))
    assert {i.shape for i in images} == {(*size, 3)}
    assert {i.dtype for i in images} == {np.dtype(np.uint8)}
    assert images[0].std() > 5  # not one colour
    moved = sum(not np.array_equal(a, b) for a, b in itertools.pairwise(images))
    assert moved >= 5
    write_gif(tmp_path / "a.gif", images, 15)
    with Image.open(tmp_path / "a.gif") as film:
        shown = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(film)]
    assert len(shown) > 5
    assert all(not np.array_equal(a, b) for a, b in itertools.pairwise(shown))


def where(image, colour):
    """Mean (row, column) of the pixels of a colour."""
    return np.argwhere((image == np.array(colour)).all(-1)).mean(axis=0)


def test_the_cartpole_is_where_its_state_says():
    found = level("classic", domain="cartpole", shift="none", num_envs=1)
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    columns, rows = [], []
    for x, angle in ((-1.0, 0.0), (1.0, 0.0), (0.0, 0.5)):
        env._sims[0].state = (x, 0.0, angle, 0.0)
        image = env.render()
        columns.append(where(image, (0x20, 0x21, 0x24))[1])
        rows.append(where(image, (0xD2, 0x69, 0x1E)))
    assert columns[1] - columns[0] == pytest.approx(90, abs=2)  # 45 pixels a metre
    assert columns[2] == pytest.approx(sum(columns[:2]) / 2, abs=2)
    assert rows[2][1] > columns[2] + 5  # a positive angle leans to the right
    assert rows[0][0] < 100  # the pole stands above the cart
    env.close()


def test_the_upright_pendulum_points_up():
    found = level("classic", domain="pendulum", shift="none", num_envs=1)
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    heights = []
    for angle in (0.0, np.pi):
        env._sims[0].state = np.array([angle, 0.0])
        heights.append(where(env.render(), (0xD2, 0x69, 0x1E))[0])
    assert heights[0] < 80 < heights[1]
    env.close()


def test_atari_shows_the_newest_frame_of_the_first_game():
    found = level("standard_ale", game="pong", num_envs=2)
    env = found.enter(found.tasks()[0], 0)
    assert env.render() is None
    obs = env.reset()
    for action in scripted_actions(found.spec(), 30, 1):
        obs = env.step(action).obs
    for channel in range(3):
        assert np.array_equal(env.render()[..., channel], obs[0, -1])
    env.close()


# -- MuJoCo --------------------------------------------------------------------------------------------------
@pytest.fixture
def no_graphics(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(dmc_render, "_works", lambda name: f"no lib{name}")


def test_without_a_graphics_library_a_run_that_is_to_be_filmed_is_refused(no_graphics):
    found = level("standard_dmc")
    with pytest.raises(
        UserError, match=r"egl: no libegl; osmesa: no libosmesa[\s\S]*apt-get install libosmesa6"
    ):
        found.check_render()
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    assert env.render() is None
    env.close()


def test_the_first_backend_that_works_is_taken_or_the_one_that_is_named(monkeypatch):
    monkeypatch.setattr(dmc_render, "_works", lambda name: "" if name == "osmesa" else "broken")
    for named, found in (("", "osmesa"), ("disable", "osmesa"), ("osmesa", "osmesa"), ("egl", None)):
        monkeypatch.setenv("MUJOCO_GL", named)
        assert dmc_render.backend() == found


def test_a_driver_that_crashes_is_no_backend(monkeypatch):
    monkeypatch.setattr(dmc_render, "_PROBE", "import os; os.abort()")
    dmc_render._works.cache_clear()
    try:
        assert dmc_render._works("egl")
        monkeypatch.setattr(dmc_render, "_PROBE", "raise ImportError('no such library')")
        assert dmc_render._works("osmesa") == "ImportError: no such library"
    finally:
        dmc_render._works.cache_clear()


def test_terrain_of_a_new_episode_is_drawn():
    found = level("standard_dmc", domain="quadruped", task="escape", num_envs=1)
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    first = env.render()
    sim = env._first
    sim._model.hfield_data[:] = 0.0
    assert not np.array_equal(env.render(), first)
    env.close()


def test_up_is_up():
    found = level("standard_dmc", domain="pendulum", task="swingup", num_envs=1)
    env = found.enter(found.tasks()[0], 0)
    env.reset()
    rows, physics = [], env._first.physics
    for angle in (0.0, np.pi):
        with physics.reset_context():
            physics.data.qpos[0] = angle
        image = env.render().astype(int)
        rows.append(np.argwhere(image[..., 0] > image[..., 2] + 30)[:, 0].mean())  # what is not blue
    assert rows[0] < rows[1] - 10  # upright, hanging
    env.close()


def test_drawing_leaves_nothing_to_complain_about_at_the_end():
    """The graphics library prints errors if it is freed after Python has gone."""
    code = (
        "from tests.envs.levels import level; found = level('standard_dmc'); "
        "env = found.enter(found.tasks()[0], 0); env.reset(); print(env.render().shape); env.close()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=os.getcwd())
    assert done.stdout.strip() == "(180, 240, 3)"
    assert done.stderr == ""


# -- Craftax -------------------------------------------------------------------------------------------------
def test_craftax_draws_the_first_world_with_its_own_renderer(monkeypatch):
    """Without the textures, whose preparation takes a minute."""
    monkeypatch.setattr(craftax_sim, "load_textures", lambda constants: None)
    sim = craftax_sim.load_sim("craftax_classic_symbolic", 2)
    renderer = importlib.import_module(f"{sim._package}.renderer")
    sizes = []

    def make(size):
        sizes.append(size)
        jnp = importlib.import_module("jax.numpy")
        return lambda state: jnp.broadcast_to(state.map.astype(float)[:, :, None], (*state.map.shape, 3))

    monkeypatch.setattr(renderer, "make_craftax_pixel_renderer", make)
    maps = np.arange(2 * 5 * 4).reshape(2, 5, 4)
    tree = importlib.import_module("jax").tree_util
    tree.register_pytree_node(
        SimpleNamespace, lambda n: ((n.map,), None), lambda _, leaves: SimpleNamespace(map=leaves[0])
    )
    sim.__dict__.pop("picture", None)
    image = sim.picture(SimpleNamespace(map=maps))
    sim.__dict__.pop("picture")
    assert image.dtype == np.uint8
    assert np.array_equal(image, np.repeat(maps[0][:, :, None], 3, axis=2))
    assert sizes == [16]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("domain", "size"), [("craftax_classic_symbolic", (144, 144)), ("craftax_symbolic", (208, 176))]
)
def test_craftax_worlds_are_seen(domain, size):
    found = level("open_craftax", domain=domain, num_envs=2, reset_batch=2)
    found.check_render()
    trace, images = play(found, drawn=True)
    blind, _ = play(found, drawn=False)
    assert all(np.array_equal(a, b) for a, b in zip(blind, trace, strict=True))
    assert {i.shape for i in images} == {(*size, 3)}
    assert len({i.tobytes() for i in images}) > 10
