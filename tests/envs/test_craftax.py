"""The Craftax level: contract, equality with stock Craftax, episode ends, achievements, resuming."""

import importlib
import importlib.metadata
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from plasticine.api import configure
from plasticine.envs import craftax_jax
from plasticine.envs.contract import check_env_level, record, scripted_actions
from plasticine.envs.craftax_sim import DOMAINS, load_sim
from plasticine.errors import UserError
from tests.core.runs import StopAfter, recorded, series, tensors
from tests.envs.levels import level

#: Small, and odd on purpose: batches of worlds do not fit the number of environments.
SMALL = {"num_envs": 3, "reset_batch": 2}


def classic(**overrides):
    return level("open_craftax", domain="craftax_classic_symbolic", **{**SMALL, **overrides})


def enter(found, seed=0):
    return found.enter(found.tasks()[0], seed)


@pytest.mark.parametrize("domain", ["craftax_classic_symbolic", "craftax_symbolic"])
def test_contract(domain):
    found = level("open_craftax", domain=domain, max_episode_steps=25, **SMALL)
    check_env_level(found, episode_steps=30, state_before=20, state_after=15)
    assert (found.level, found.spec().name) == ("open", f"open_craftax/{domain}")
    assert [(t.name, t.visit) for t in found.tasks()] == [(domain, 0)]
    # Neither resets nor restored states made JAX compile anything twice.
    sim = load_sim(domain, SMALL["reset_batch"])
    assert (sim.step._cache_size(), sim.worlds._cache_size(), sim.place._cache_size()) == (1, 1, 1)


class Stock:
    """Craftax driven one environment at a time by its own functions, worlds handed out in order."""

    def __init__(self, seed, num_envs, limit):
        self.jax = importlib.import_module("jax")
        self.env = load_sim("craftax_classic_symbolic", SMALL["reset_batch"])._env
        self.params = self.env.default_params.replace(max_timesteps=limit)
        self.keys = np.random.SeedSequence(seed).generate_state(4, np.uint32).reshape(2, 2)
        self.world = self.count = 0
        self.num = num_envs
        self.obs, self.states = map(list, zip(*(self.fresh() for _ in range(num_envs)), strict=True))

    def fresh(self):
        key = self.jax.random.fold_in(self.keys[0], self.world)
        self.world += 1
        return self.env.reset(key, self.params)

    def step(self, actions):
        keys = self.jax.random.split(self.jax.random.fold_in(self.keys[1], self.count), self.num)
        self.count += 1
        rows = []
        for e in range(self.num):
            obs, state, reward, done, info = self.env.step(keys[e], self.states[e], actions[e], self.params)
            dead = bool(state.player_health <= 0)
            flags = {k.split("/")[1]: float(v) for k, v in info.items() if k.startswith("Achievements/")}
            rows.append((obs, reward, bool(done), dead, flags))
            self.states[e] = state
        for e, row in enumerate(rows):
            self.obs[e] = row[0]
            if row[2]:
                self.obs[e], self.states[e] = self.fresh()
        return rows


def test_equals_stock_craftax_through_deaths_and_time_limits():
    steps, limit, seed = 330, 150, 1
    found = classic(max_episode_steps=limit, each_achievement=True)
    env, stock = enter(found, seed), Stock(seed, 3, limit)
    assert np.array_equal(env.reset(), np.stack(stock.obs))
    actions = scripted_actions(found.spec(), steps, 0)
    deaths = cuts = 0
    returns, episodes, unlocked = np.zeros(3), [], []
    for action in actions:
        out, rows = env.step(action), stock.step(action)
        for e, (obs, reward, done, dead, flags) in enumerate(rows):
            assert out.reward[e] == pytest.approx(float(reward), abs=1e-6)
            assert (out.terminated[e], out.truncated[e]) == (done and dead, done and not dead)
            returns[e] += float(reward)
            if done:
                np.testing.assert_allclose(out.final_obs[e], obs, atol=1e-6)
                episodes.append(returns[e])
                unlocked.append(flags)
                returns[e] = 0.0
        np.testing.assert_allclose(out.obs, np.stack(stock.obs), atol=1e-6)
        deaths += int(out.terminated.sum())
        cuts += int(out.truncated.sum())
    assert deaths
    assert cuts
    assert env.facts()["max_return"] == 22

    extras = env.episode_extras()
    assert extras.pop("score") == pytest.approx(100 * np.mean(episodes) / 22, abs=1e-4)
    rates = {name: np.mean([flags[name] for flags in unlocked]) for name in unlocked[0]}
    assert len(rates) == 22
    assert extras.pop("achievements") == pytest.approx(sum(rates.values()) / 100)
    assert extras.pop("success_basic") == pytest.approx(np.mean(list(rates.values())))
    assert extras == pytest.approx({f"success/{name}": rate for name, rate in rates.items()})
    assert len(set(rates.values())) > 2
    assert env.episode_extras() == {}


def test_running_returns_and_the_tally_are_part_of_the_state():
    found = classic(max_episode_steps=60)
    spec = found.spec()
    env = enter(found)
    env.reset()
    record(env, spec, scripted_actions(spec, 110, 0))
    state = env.state()
    assert state["episodes"] >= 3
    assert state["returns"].any()  # rewards of the unfinished episodes
    other = enter(found)
    other.load_state(state)
    actions = scripted_actions(spec, 15, 1)
    record(env, spec, actions)
    record(other, spec, actions)
    assert other.episode_extras() == env.episode_extras() != {}


def test_packed_states_are_small_and_exact():
    sim = load_sim("craftax_classic_symbolic", SMALL["reset_batch"])
    jax = importlib.import_module("jax")
    fields = {"map": np.full((3, 64, 64), 127), "timestep": np.array([0, 5, 128])}
    fields["player_food"] = np.array([-129, 0, 40_000])
    fields = {name: value.astype(np.int32) for name, value in fields.items()}
    state = sim.empty(3).replace(**fields)
    packed = sim.pack(state)
    assert [packed[f".{name}"].dtype for name in fields] == [np.int8, np.int16, np.int32]
    again = sim.unpack(packed, 3)
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_tiers_follow_the_rewards_of_the_simulator():
    sim = load_sim("craftax_symbolic", SMALL["reset_batch"])
    assert (len(sim.achievements), int(sim.weights.sum())) == (67, 226)
    env = enter(level("open_craftax", domain="craftax_symbolic", max_episode_steps=1, **SMALL))
    env.reset()
    env.step(np.zeros(3, np.int64))
    assert set(env.episode_extras()) == {
        "score",
        "achievements",
        "success_basic",
        "success_intermediate",
        "success_advanced",
        "success_very_advanced",
    }


def test_worlds_depend_on_their_number_only():
    """Every episode has a world of its own, whatever the size of the batches they are drawn in."""
    starts = []
    for batch in (2, 3):
        found = classic(reset_batch=batch, max_episode_steps=2)
        env = enter(found, 4)
        rows = [env.reset().copy()]
        for _ in range(4):
            out = env.step(np.zeros(3, np.int64))
            if out.truncated.any():
                assert out.truncated.all()
                rows.append(out.obs.copy())
        starts.append(np.concatenate(rows))
    assert len(starts[0]) == 9
    assert np.array_equal(*starts)
    maps = [row.tobytes() for row in starts[0]]
    assert len(set(maps)) == 9


def test_the_table_of_variants_equals_the_simulators():
    for domain in ("craftax_symbolic", "craftax_classic_symbolic"):
        sim, variant = load_sim(domain, SMALL["reset_batch"]), DOMAINS[domain]
        params = sim._env.default_params
        assert sim._env.observation_space(params).shape == variant.obs_shape
        assert sim._env.num_actions == variant.actions
        assert params.max_timesteps == variant.max_episode_steps
        images = DOMAINS[domain.replace("symbolic", "pixels")]
        package = "craftax_classic" if "classic" in domain else "craftax"
        c = importlib.import_module(f"craftax.{package}.constants")
        size = c.BLOCK_PIXEL_SIZE_AGENT
        high = (c.OBS_DIM[0] + c.INVENTORY_OBS_HEIGHT) * size
        assert images.obs_shape == (3, high, c.OBS_DIM[1] * size)
        assert (images.actions, images.max_episode_steps) == (variant.actions, variant.max_episode_steps)


def test_jax_is_imported_only_when_the_level_is_entered(tmp_path):
    code = (
        "import sys, os\n"
        "from tests.envs.levels import level\n"
        "found = level('open_craftax'); found.spec(); found.tasks()\n"
        "assert not {'jax', 'craftax'} & set(sys.modules)\n"
        "from plasticine.envs.craftax_jax import require_jax\n"
        "jax = require_jax()\n"
        "assert os.environ['XLA_PYTHON_CLIENT_PREALLOCATE'] == 'false'\n"
        "print(jax.default_backend(), jax.config.jax_compilation_cache_dir)\n"
    )
    clean = {"PATH": "/usr/bin:/bin", "PLASTICINE_CACHE_DIR": str(tmp_path)}
    root = Path(__file__).parents[2]
    ran = subprocess.run(
        [sys.executable, "-c", code], env=clean, cwd=root, capture_output=True, text=True, check=True
    )
    backend, folder = ran.stdout.split()
    assert backend == "cpu"
    assert Path(folder).parent == tmp_path


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"domain": "craftax_symbols"}, "did you mean 'craftax_symbolic'"),
        ({"reset_batch": 4}, "env.reset_batch=4"),
        ({"reset_batch": 0}, "env.reset_batch=0"),
        ({"max_episode_steps": 0}, "env.max_episode_steps=0"),
        ({"steps_per_task": 0}, "env.steps_per_task=0"),
    ],
)
def test_mistakes_are_explained(overrides, words):
    with pytest.raises(UserError, match=words):
        level("open_craftax", **{**SMALL, **overrides})


def test_missing_and_old_packages_are_explained(monkeypatch):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(UserError, match=r"package craftax\n.*pip install 'plasticine\[craftax\]'"):
        classic()
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.5.0")
    with pytest.raises(UserError, match=r"craftax 1\.5\.0 is installed"):
        classic()


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("PLASTICINE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert craftax_jax.cache_folder() == tmp_path / "xdg" / "plasticine"
    monkeypatch.setenv("PLASTICINE_CACHE_DIR", str(tmp_path / "own"))
    assert craftax_jax.cache_folder() == tmp_path / "own"
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PLASTICINE_CACHE_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match="set PLASTICINE_CACHE_DIR"):
        craftax_jax.cache_folder()


def test_textures_are_drawn_once_and_outside_the_installation(monkeypatch, tmp_path):
    monkeypatch.setenv("PLASTICINE_CACHE_DIR", str(tmp_path))
    drawn = []

    def load():
        if not Path(stock.TEXTURE_CACHE_FILE).exists():
            drawn.append(stock.TEXTURE_CACHE_FILE)
            Path(stock.TEXTURE_CACHE_FILE).write_text("textures")

    version = importlib.metadata.version("craftax")
    for _ in range(2):
        stock = SimpleNamespace(TEXTURE_CACHE_FILE="/site-packages/t.pbz2", load_all_textures=load)
        for _ in range(2):  # for the observations, and for pictures
            craftax_jax.load_textures(stock)
        assert str(tmp_path / f"{version}-t.pbz2") == stock.TEXTURE_CACHE_FILE
    assert len(drawn) == 1
    assert drawn[0].endswith(".partial")  # a killed process leaves no half file under the final name
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{version}-t.pbz2", "t.pbz2.lock"]


@pytest.mark.slow
@pytest.mark.parametrize("domain", ["craftax_classic_pixels", "craftax_pixels"])
def test_pixels_contract(domain):
    installed = Path(importlib.util.find_spec("craftax").origin).parent
    before = {path: path.stat().st_mtime_ns for path in installed.rglob("*.pbz2")}
    found = level("open_craftax", domain=domain, max_episode_steps=25, **SMALL)
    check_env_level(found, episode_steps=30, state_before=20, state_after=15)
    assert {path: path.stat().st_mtime_ns for path in installed.rglob("*.pbz2")} == before
    env = enter(found)
    first = env.reset()
    assert first.dtype == np.uint8
    assert env.render().ndim == 3
    # The same world seen as an image by the stock renderer.
    sim = load_sim(domain, SMALL["reset_batch"])
    jax = importlib.import_module("jax")
    keys = np.random.SeedSequence(0).generate_state(4, np.uint32).reshape(2, 2)
    obs, _ = sim._env.reset(jax.random.fold_in(keys[0], 2))
    assert np.abs(np.asarray(obs) * 255.0 - first[2].transpose(1, 2, 0)).max() <= 0.501


TINY_RUN = (
    "env=open_craftax",
    "env.domain=craftax_classic_symbolic",
    "env.num_envs=3",
    "env.reset_batch=2",
    "env.max_episode_steps=12",
    "env.steps_per_task=240",
    "agent.num_steps=16",
    "agent.num_minibatches=2",
    "agent.epochs=2",
    "network.hidden=[16,16]",
    "metrics.every=3",
    "metrics.probe_size=16",
)


def test_a_stopped_run_ends_as_an_unbroken_one_and_logs_achievements(tmp_path):
    cfg = configure(*TINY_RUN)
    whole = recorded(tmp_path / "whole", cfg)
    recorded(tmp_path / "parts", cfg, stop=StopAfter(1))
    last = recorded(tmp_path / "parts", cfg)
    a, b = tensors(whole), tensors(last)
    assert all(torch.equal(a[k], b[k]) for k in a)
    rows = series(tmp_path / "whole")
    assert rows == series(tmp_path / "parts")
    scores = [row["m"]["train/score"] for row in rows if "train/score" in row.get("m", {})]
    returns = [row["m"]["train/episodic_return"] for row in rows if "train/score" in row.get("m", {})]
    assert len(scores) == whole.plan.iterations == 5
    assert scores == pytest.approx([100 * r / 22 for r in returns])
