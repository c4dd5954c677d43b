"""The record of a run: what is written, what survives a crash, what is cut on resume."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from plasticine.core.tracker import Episode
from plasticine.errors import UserError
from plasticine.tracking import local
from plasticine.tracking.local import LocalLog
from plasticine.tracking.record import read_metrics


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def committed(run: Path) -> dict:
    return json.loads((run / "committed.json").read_text())


def test_calls_at_one_step_become_one_line(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1}, 10)
    log.log({"b": np.float32(2.5)}, 10)
    assert lines(tmp_path) == []
    log.log({"a": torch.tensor(3.0)}, 20)
    assert [(e["s"], e["m"]) for e in lines(tmp_path)] == [(10, {"a": 1.0, "b": 2.5})]
    log.close("finished")
    assert [(e["s"], e["m"]) for e in lines(tmp_path)] == [(10, {"a": 1.0, "b": 2.5}), (20, {"a": 3.0})]


def test_steps_never_go_back(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1}, 10)
    with pytest.raises(ValueError, match="step 9 is logged after step 10"):
        log.log({"a": 1}, 9)


def test_a_step_is_continued_after_a_mark_but_no_key_twice(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1}, 10)
    log.mark()
    log.log({"summary/a": 2}, 10)
    with pytest.raises(ValueError, match="'a' is already recorded at step 10"):
        log.log({"a": 5}, 10)
    log.close("finished")
    assert [(r.env_steps, r.values) for r in read_metrics(tmp_path).metrics] == [
        (10, {"a": 1, "summary/a": 2})
    ]


def test_nonfinite_values_are_counted_and_named_once(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": float("nan"), "b": 1.0}, 1)
    log.log({"a": float("inf"), "c": float("-inf")}, 2)
    log.log({"a": float("nan")}, 3)
    log.log({"b": 2.0}, 4)
    log.close("finished")
    record = read_metrics(tmp_path)
    assert [r.values for r in record.metrics] == [
        {"b": 1.0, "health/nonfinite": 1.0},
        {"health/nonfinite": 3.0},
        {"health/nonfinite": 4.0},
        {"b": 2.0},
    ]
    assert [(e.env_steps, e.kind, e.facts) for e in record.events] == [
        (1, "nonfinite", {"keys": ["a"]}),
        (2, "nonfinite", {"keys": ["c"]}),
    ]


def test_episodes_and_events(tmp_path):
    log = LocalLog(tmp_path)
    log.episodes([])
    log.log({"a": 1.0}, 5)
    log.event(
        "task_switch", 6, {"task": np.int64(1), "x": float("nan"), "names": ("p", "q"), "at": Path("f")}
    )
    log.episodes([Episode(7, 0, 1.5, 20), Episode(8, 1, float("nan"), 3)])
    record = read_metrics(tmp_path)  # live: before any mark
    assert record.metrics[0].env_steps == 5  # the line in front of the event is on disk
    assert record.events[0].facts == {"task": 1, "x": "nan", "names": ["p", "q"], "at": "f"}
    assert record.episodes[0] == Episode(7, 0, 1.5, 20)
    assert np.isnan(record.episodes[1].episodic_return)
    assert sum("episodes" in e for e in lines(tmp_path)) == 1


def test_nothing_is_touched_before_the_first_call(tmp_path):
    LocalLog(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_mark_is_what_is_on_disk_and_commit_publishes_it(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": float("nan")}, 1)
    log.log({"a": 1.0}, 12)
    mark = log.mark()
    assert mark == {"offset": (tmp_path / "metrics.jsonl").stat().st_size, "step": 12, "nonfinite": 1}
    assert committed(tmp_path)["offset"] == 0
    log.log({"a": 2.0}, 13)
    later = log.mark()
    log.commit(later)
    assert committed(tmp_path) == {**later, "outcome": None, "rewinds": 0}
    log.commit(mark)  # an older checkpoint finished late
    assert committed(tmp_path)["offset"] == later["offset"]
    assert [r.env_steps for r in read_metrics(tmp_path, committed_only=True).metrics] == [1, 12, 13]
    log.log({"a": 3.0}, 14)
    log.log({"a": 3.0}, 15)
    assert [r.env_steps for r in read_metrics(tmp_path, committed_only=True).metrics] == [1, 12, 13]
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_commit_is_atomic(tmp_path, monkeypatch):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    log.commit(log.mark())
    before = committed(tmp_path)
    log.log({"a": 1.0}, 2)
    mark = log.mark()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        log.commit(mark)
    assert committed(tmp_path) == before
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_rewind_cuts_later_lines_and_restores_counters(tmp_path):
    first = LocalLog(tmp_path)
    first.log({"a": float("nan")}, 1)
    mark = first.mark()
    first.commit(mark)
    first.log({"a": float("inf")}, 2)
    first.log({"a": 1.0}, 3)
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"t":1,"s":4,"m":{"a"')  # killed while it wrote
    second = LocalLog(tmp_path)
    second.rewind(mark)
    assert (tmp_path / "metrics.jsonl").stat().st_size == mark["offset"]
    second.log({"a": float("nan")}, 2)
    second.close("finished")
    rows = read_metrics(tmp_path).metrics
    assert [(r.env_steps, r.values) for r in rows] == [
        (1, {"health/nonfinite": 1.0}),
        (2, {"health/nonfinite": 2.0}),
    ]
    assert committed(tmp_path)["rewinds"] == 0  # nothing that was committed is undone


def test_rewind_behind_the_committed_end_is_counted(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    mark = log.mark()
    log.log({"a": 1.0}, 2)
    log.close("failed")
    assert committed(tmp_path)["outcome"] == "failed"
    again = LocalLog(tmp_path)
    again.rewind(mark)
    assert committed(tmp_path) == {**mark, "outcome": None, "rewinds": 1}
    again.rewind({})
    assert committed(tmp_path)["rewinds"] == 2
    assert (tmp_path / "metrics.jsonl").stat().st_size == 0
    again.log({"a": 1.0}, 1)


def test_a_mark_newer_than_the_commit_is_kept(tmp_path):
    """Killed after the checkpoint became durable and before `commit`: the checkpoint decides."""
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    log.commit(log.mark())
    log.log({"a": 1.0}, 2)
    mark = log.mark()
    LocalLog(tmp_path).close("failed")  # an attempt that failed before it loaded anything cuts nothing
    again = LocalLog(tmp_path)
    again.rewind(mark)
    assert committed(tmp_path)["step"] == 2
    assert [r.env_steps for r in read_metrics(tmp_path).metrics] == [1, 2]


def test_without_rewind_the_record_goes_on_at_its_committed_end(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    log.commit(log.mark())
    log.log({"a": 1.0}, 2)
    log.mark()
    again = LocalLog(tmp_path)
    again.event("resume", 1, {})
    record = read_metrics(tmp_path)
    assert [r.env_steps for r in record.metrics] == [1]
    assert [e.kind for e in record.events] == ["resume"]


@pytest.mark.parametrize("damage", ["short", "shifted"])
def test_a_file_that_does_not_fit_the_checkpoint_is_refused(tmp_path, damage):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    mark = log.mark()
    path = tmp_path / "metrics.jsonl"
    text = path.read_text()
    path.write_text(text[:5] if damage == "short" else "\n" + text)
    with pytest.raises(UserError, match="does not fit the checkpoint"):
        LocalLog(tmp_path).rewind(mark)


def test_time_never_goes_back(tmp_path, monkeypatch):
    clock = iter([1000, 400, 1200, 100, 50])
    monkeypatch.setattr(local, "_now", lambda: next(clock))
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    log.log({"a": 1.0}, 2)
    log.log({"a": 1.0}, 3)
    mark = log.mark()
    again = LocalLog(tmp_path)
    again.rewind(mark)
    again.log({"a": 1.0}, 4)
    again.close("finished")
    assert [e["t"] for e in lines(tmp_path)] == [1000, 1000, 1200, 1200]


def test_close_makes_everything_durable_once(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    log.close("interrupted")
    log.close("failed")
    size = (tmp_path / "metrics.jsonl").stat().st_size
    assert committed(tmp_path)["offset"] == size
    assert committed(tmp_path)["outcome"] == "interrupted"
    with pytest.raises(ValueError, match="closed"):
        log.log({"a": 1.0}, 2)


def test_reader_leaves_a_torn_last_line_out_and_refuses_a_broken_one(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    log.mark()
    path = tmp_path / "metrics.jsonl"
    whole = path.read_bytes()
    for torn in (b'{"t":1', b'{"t":1,"s":3,"m":{}}'):
        path.write_bytes(whole + torn)
        assert [r.env_steps for r in read_metrics(tmp_path).metrics] == [1]
    path.write_bytes(b"garbage\n" + whole)
    with pytest.raises(ValueError, match="ends at byte 8 is not JSON"):
        read_metrics(tmp_path)
    assert read_metrics(tmp_path / "nowhere").metrics == []


def test_half_a_line_is_taken_back_when_the_disk_is_full(tmp_path, monkeypatch):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 1)
    log.mark()
    write = os.pwrite
    room = [60]

    def small(fd, data, position):
        if not room:
            raise OSError(28, "No space left on device")
        return write(fd, data[: room.pop()], position)

    monkeypatch.setattr(os, "pwrite", small)
    with pytest.raises(OSError, match="No space"):
        log.event("e" * 80, 1, {})
    monkeypatch.setattr(os, "pwrite", write)
    log.event("f", 1, {})
    assert [e.kind for e in read_metrics(tmp_path).events] == ["f"]
