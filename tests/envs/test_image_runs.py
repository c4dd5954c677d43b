"""Runs on images: stopped and resumed, from the first task to the last."""

from __future__ import annotations

import json

import pytest
import torch

from plasticine.api import configure
from tests.core.runs import StopAfter, recorded, series, tensors

SMALL = (
    "network=nature_cnn",
    "network.channels=[4,8,8]",
    "network.hidden=[32]",
    "env.num_envs=2",
    "agent.num_steps=24",
    "agent.num_minibatches=2",
    "agent.epochs=1",
    "agent.shared_encoder=true",
    "metrics.every=2",
    "metrics.probe_size=32",
    "budget=smoke",
)
PROCGEN = ("env=continual_procgen", "env.num_tasks=2", "env.num_levels=20", "env.steps_per_task=240")
ALE = ("env=continual_ale", "env.game=[breakout,boxing]", "env.cycles=1", "env.steps_per_task=144")

ALE_MODES = ("env=continual_ale", "env.shift=mode", "env.game=breakout", "env.modes=[4,0]", "env.cycles=1")
ALE_MODES += ("env.steps_per_task=144", "env.sticky=0.25")


def stopped_and_resumed(tmp_path, overrides):
    cfg = configure(*overrides, *SMALL)
    whole = recorded(tmp_path / "whole", cfg)
    part = recorded(tmp_path / "parts", cfg, stop=StopAfter(1))
    assert part.counters.iteration == 2
    last = recorded(tmp_path / "parts", cfg)
    assert last.counters == whole.counters
    assert last.counters.env_steps == sum(task.env_steps for task in whole.level.tasks())
    return whole, last


def events(folder, kind):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["facts"] for row in rows if row.get("event") == kind]


TESTED = ("env.test_num_levels=9", "evaluation.every=3", "evaluation.max_steps=40")


@pytest.mark.parametrize("extra", [(), ("env.shift=task", "env.game=[dodgeball,plunder]", *TESTED)])
def test_procgen_resumes_exactly(tmp_path, extra):
    whole, last = stopped_and_resumed(tmp_path, PROCGEN + extra)
    ours, theirs = tensors(whole), tensors(last)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert series(tmp_path / "whole") == series(tmp_path / "parts")
    assert [facts["exact"] for facts in events(tmp_path / "parts", "resume")] == [True]
    assert any("episodes" in row for row in series(tmp_path / "whole"))
    evaluated = [row["s"] for row in series(tmp_path / "whole") if "eval/test/episodes" in row.get("m", {})]
    assert evaluated == ([144, 240, 288, 432, 480] if extra else [])


def test_atari_in_several_modes_resumes_exactly(tmp_path):
    whole, last = stopped_and_resumed(tmp_path, ALE_MODES)
    ours, theirs = tensors(whole), tensors(last)
    assert [key for key in ours if not torch.equal(ours[key], theirs[key])] == []
    assert series(tmp_path / "whole") == series(tmp_path / "parts")
    assert [facts["exact"] for facts in events(tmp_path / "parts", "resume")] == [True]
    assert [facts["mode"] for facts in events(tmp_path / "whole", "task_start")] == [4, 0]


def test_atari_starts_new_games_on_resume_and_says_so(tmp_path):
    stopped_and_resumed(tmp_path, ALE)
    assert [facts["exact"] for facts in events(tmp_path / "parts", "resume")] == [False]
