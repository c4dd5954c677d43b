"""Records read back."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from plasticine.analysis.record import read_run
from plasticine.errors import UserError

CARD = {
    "study": "s",
    "level": "continual",
    "env": "e",
    "method": "vanilla",
    "agent": "ppo",
    "seed": 3,
    "cell": "c",
}
LINES = [
    {"t": 1, "s": 0, "event": "task_start", "facts": {"index": 0, "name": "walk", "visit": 0}},
    {"t": 2, "s": 10, "m": {"a": 1.5, "b": 2.0}},
    {"t": 2, "episodes": [[7, 0, -3.5, 7], [10, 0, 4.0, 3]]},
    {"t": 3, "s": 20, "m": {"a": 2.5}},
    {"t": 3, "s": 20, "event": "task_start", "facts": {"index": 1, "name": "run", "visit": 0}},
    {"t": 4, "s": 30, "m": {"a": 3.5}},
]  # fmt: skip


def written(folder: Path, state: str = "finished", tail: str = "") -> Path:
    (folder / "run.json").write_text(json.dumps(CARD))
    (folder / "status.json").write_text(json.dumps({"state": state}))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + tail)
    return folder


def test_a_record_is_read_back(tmp_path):
    record = read_run(written(tmp_path))
    assert record.series["a"].steps.tolist() == [10, 20, 30]
    assert record.series["a"].values.tolist() == [1.5, 2.5, 3.5]
    assert record.series["b"].steps.tolist() == [10]
    assert record.episodes.tolist() == [[7, 0, -3.5, 7], [10, 0, 4.0, 3]]
    assert [dataclasses.astuple(task) for task in record.tasks] == [
        (0, "walk", 0, 0, 20, True),
        (1, "run", 0, 20, 30, True),
    ]
    assert (record.method, record.agent, record.env, record.level) == ("vanilla", "ppo", "e", "continual")
    assert (record.seed, record.cell, record.study, record.env_steps) == (3, "c", "s", 30)


def test_a_run_that_goes_on_is_read_as_far_as_it_has_come(tmp_path):
    record = read_run(written(tmp_path, "running", tail='{"t": 5, "s": 40, "m": {"a": 9'))
    assert record.env_steps == 30
    assert [task.complete for task in record.tasks] == [True, False]


def test_what_cannot_be_read_is_told(tmp_path):
    with pytest.raises(UserError, match=r"no run in"):
        read_run(tmp_path)
    written(tmp_path, tail="{broken}\n")
    with pytest.raises(UserError, match=r"line 7 of .*metrics.jsonl is broken"):
        read_run(tmp_path)


def test_a_run_that_has_recorded_nothing_is_empty(tmp_path):
    (tmp_path / "run.json").write_text(json.dumps(CARD))
    record = read_run(tmp_path)
    assert record.env_steps == 0
    assert record.tasks == ()
    assert record.episodes.shape == (0, 4)
