"""Films: what is played and drawn, and that training does not notice."""

from __future__ import annotations

import copy
import functools

import numpy as np
import pytest
import torch

from plasticine.compose import assemble_parts
from plasticine.core.collect import Collector
from plasticine.core.video import Camera
from plasticine.errors import UserError
from plasticine.testing.level import ToyLevel, _ToyEnv
from plasticine.testing.runs import global_random_states
from tests.agents.off_policy_lab import toy_config
from tests.core.held_out import ScriptedEnv, ScriptedLevel
from tests.core.runs import StopAfter, config, recorded, series, tensors, trainer
from tests.core.test_evaluate import Chooser
from tests.core.test_trainer import Memory


class Watcher(Memory):
    def __init__(self):
        super().__init__()
        self.films = []

    def film(self, name, frames, fps, env_steps, facts):
        self.films.append((name, frames, fps, env_steps, facts))


@pytest.fixture
def drawn(monkeypatch):
    """Scripted environments that draw the number of their step, at 30 steps a second: every second one."""
    drawings = []

    def render(self):
        drawings.append(self.steps)
        return np.full((4, 6, 3), self.steps, np.uint8)

    monkeypatch.setattr(ScriptedEnv, "render", render)
    return drawings


def film(lengths, autoreset="same_step"):
    level = ScriptedLevel(lengths, autoreset)
    agent = Chooser()
    camera = Camera(level, agent, Collector(level.spec(), level, agent))
    return camera.film(level.tasks()[0], 0), level, agent


def test_an_episode_is_drawn_from_its_first_image_to_its_end(drawn):
    made, level, agent = film([[151, 3]])
    assert drawn == [0, *range(2, 151, 2), 151]
    assert [int(f[0, 0, 0]) for f in made.frames] == drawn
    assert (made.fps, made.steps) == (15.0, 151)
    assert made.returns == [151 * 152 / 2]  # of the first environment only
    assert {asked[1] for asked in agent.asked} == {True}  # greedy
    assert level.entered[0][2].closed == 1


@pytest.mark.parametrize(
    ("autoreset", "ends"), [("same_step", [50, 100, 150]), ("next_step", [50, 101, 152])]
)
def test_short_episodes_follow_one_another_for_four_seconds(drawn, autoreset, ends):
    made, _, _ = film([[50, 1]], autoreset)
    assert len(made.returns) == 3
    assert made.steps == ends[-1]
    assert drawn == sorted({*range(0, ends[-1] + 1, 2), *ends})


def test_long_ones_are_left_after_twelve_seconds(drawn):
    made, _, _ = film([[10_000, 1]])
    assert (made.steps, made.returns, len(made.frames)) == (360, [], 181)


def test_images_are_copies(monkeypatch):
    canvas = np.zeros((2, 2, 3), np.uint8)

    def render(self):
        canvas[...] = self.steps
        return canvas

    monkeypatch.setattr(ScriptedEnv, "render", render)
    made, _, _ = film([[200, 1]])
    assert len({int(f[0, 0, 0]) for f in made.frames}) == len(made.frames)


# -- in a run ------------------------------------------------------------------------------------------------
@functools.cache
def base(agent):
    return toy_config(agent) if agent != "ppo" else config()


def run_config(agent, *, video=True):
    cfg = copy.deepcopy(base(agent))
    cfg["metrics"]["video"] = video
    cfg["tracker"]["kind"] = "local"
    return cfg


@pytest.fixture
def toy_pictures(monkeypatch):
    def render(self):
        return np.full((8, 8, 3), int(100 + 20 * self._x[0]) % 256, np.uint8)

    monkeypatch.setattr(_ToyEnv, "render", render)


def test_every_task_is_filmed_at_its_end():
    t = trainer(assemble_parts(run_config("ppo")), tracker=Watcher())
    t.fit()
    assert [f[0] for f in t.tracker.films] == ["task-000", "task-001", "task-002"]
    assert [f[3] for f in t.tracker.films] == [256, 512, 768]
    _, frames, fps, _, facts = t.tracker.films[1]
    assert len({f.tobytes() for f in frames}) > 10
    assert frames[0].shape == (160, 240, 3)
    assert fps == pytest.approx(50 / 3)
    assert (facts["task"], facts["name"]) == (1, t._tasks[1].name)
    assert facts["steps"] >= 200


@pytest.mark.parametrize("agent", ["ppo", "td3", "c51"])
def test_training_is_the_same_bit_for_bit(tmp_path, agent, toy_pictures):
    states = global_random_states()
    plain = recorded(tmp_path / "plain", run_config(agent, video=False))
    filmed = recorded(tmp_path / "filmed", run_config(agent))
    assert states == global_random_states()
    a, b = tensors(plain), tensors(filmed)
    assert all(torch.equal(a[k], b[k]) for k in a)
    streams, others = plain.learner.streams.state(), filmed.learner.streams.state()
    assert streams.keys() == others.keys()
    assert all(torch.equal(v, others[k]) for k, v in streams.items())
    rows = series(tmp_path / "filmed")
    videos = [row for row in rows if row.get("event") == "video"]
    assert [v["facts"]["file"] for v in videos] == [f"videos/task-00{i}.gif" for i in range(3)]
    assert all((tmp_path / "filmed" / v["facts"]["file"]).stat().st_size > 100 for v in videos)
    assert series(tmp_path / "plain") == [row for row in rows if row not in videos]


def test_a_resumed_run_makes_the_same_films(tmp_path):
    cfg = run_config("ppo")
    recorded(tmp_path / "whole", cfg)
    for looks in (4, 2):
        recorded(tmp_path / "parts", cfg, stop=StopAfter(looks))
    recorded(tmp_path / "parts", cfg)
    assert series(tmp_path / "whole") == series(tmp_path / "parts")
    for i in range(3):
        name = f"videos/task-00{i}.gif"
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "parts" / name).read_bytes()


def test_graphics_that_fail_on_the_way_are_reported_once_and_stop_nothing(monkeypatch):
    t = trainer(assemble_parts(run_config("ppo")), tracker=Watcher())
    entered = []

    def fail(task, seed):
        entered.append(task.index)
        raise UserError("no picture", "buy a screen")

    monkeypatch.setattr(t.camera, "film", fail)
    assert t.fit() == "finished"
    told = [e for e in t.tracker.events if e[0] == "video_failed"]
    name = t._tasks[0].name
    facts = {"task": 0, "name": name, "what": "no picture", "fix": "buy a screen"}
    assert told == [("video_failed", 256, facts)]
    assert entered == [0]


def test_what_cannot_be_filmed_is_refused_before_the_run(monkeypatch):
    with pytest.raises(UserError, match=r"toy/discrete cannot be filmed[\s\S]*metrics.video=false"):
        assemble_parts(run_config("c51"))
    closed = []
    monkeypatch.setattr(_ToyEnv, "close", lambda self: closed.append(1))
    level = ToyLevel(
        **{k: v for k, v in base("c51")["env"].items() if k != "_target_"},
    )
    with pytest.raises(UserError):
        level.check_render()
    assert closed == [1]


def test_without_a_record_there_is_nowhere_to_put_a_film():
    cfg = run_config("ppo")
    cfg["tracker"]["kind"] = "none"
    with pytest.raises(UserError, match="tracker=none keeps nothing"):
        assemble_parts(cfg)


def test_the_wish_must_be_a_yes_or_a_no():
    cfg = run_config("ppo", video="yes")
    with pytest.raises(UserError, match=r"metrics\.video='yes'"):
        assemble_parts(cfg)


def test_no_wish_no_camera():
    assert assemble_parts(run_config("ppo", video=False)).camera is None
    cfg = run_config("ppo")
    del cfg["metrics"]["video"]
    assert assemble_parts(cfg).camera is None
