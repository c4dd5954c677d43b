"""Diagnosis while a run goes on: it changes nothing, survives interruptions, and equals the one afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from plasticine.analysis.record import read_run
from plasticine.cell import cell_id
from plasticine.diagnosis.afterwards import curves_of, diagnose
from plasticine.diagnosis.watch import Watch, is_wanted
from plasticine.tracking.follower import _diagnosis
from tests.core.runs import StopAfter, config, recorded, series, tensors
from tests.diagnosis import lab

WATCHED = ("metrics.every=1", "evaluation.every=null")


def frozen(seed: int = 0, onset: int = 8) -> dict:
    """A tiny run whose weights stop changing."""
    wanted = config(*WATCHED, "env.num_tasks=2", f"seed={seed}", "env.steps_per_task=512")
    common = {"scope": ["*"], "when": [], "rate": 0.0, "onset": onset}
    wanted["method"] = {"harm": {"_target_": "tests.diagnosis.pathologies.Freeze", **common}}
    return wanted


def events(folder: Path) -> list[dict]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{"s": row["s"], **row["facts"]} for row in rows if row.get("event") == "diagnosis"]


def test_what_is_found_is_in_the_record_with_where_it_began(tmp_path):
    recorded(tmp_path, frozen())
    (found,) = events(tmp_path)
    assert (found["name"], found["state"]) == ("frozen_network", "found")
    assert found["began"] == 3 * 64  # 8 steps are two iterations: the third one undoes its steps
    assert found["began"] < found["s"] < 1024  # before the end of the run


def test_an_interrupted_run_is_diagnosed_like_one_that_was_not(tmp_path):
    recorded(tmp_path / "a", frozen())
    recorded(tmp_path / "b", frozen(), stop=StopAfter(5))
    again = recorded(tmp_path / "b", frozen())
    assert series(tmp_path / "a") == series(tmp_path / "b")
    assert again.diagnosis.state() == recorded(tmp_path / "c", frozen()).diagnosis.state()


def test_the_record_afterwards_says_what_the_run_said(tmp_path):
    trainer = recorded(tmp_path, frozen())
    card = {"method": "m", "agent": "ppo", "env": "e", "level": "l", "seed": 0, "cell": "c", "study": "s"}
    (tmp_path / "run.json").write_text(json.dumps({**card, "actions": {"kind": "discrete", "n": 2}}))
    record = read_run(tmp_path)
    watch = trainer.diagnosis
    assert curves_of(record, watch.signatures).state() == watch.curves.state()
    assert diagnose(record, watch.signatures) == watch.now()
    assert watch.now().names == ("frozen_network",)


def test_training_is_the_same_bit_for_bit_without(tmp_path):
    a = recorded(tmp_path / "a", config(*WATCHED))
    b = recorded(tmp_path / "b", config(*WATCHED, "diagnosis=none"))
    assert b.diagnosis is None
    assert all(torch.equal(value, tensors(b)[name]) for name, value in tensors(a).items())
    quiet = [row for row in series(tmp_path / "a") if row.get("event") != "diagnosis"]
    assert quiet == series(tmp_path / "b")


def test_a_diagnosis_is_no_part_of_what_a_run_is():
    assert cell_id(config()) == cell_id(config("diagnosis=none")) == cell_id(config("diagnosis.looks=3"))


def test_one_look_is_not_enough_for_a_trend_and_what_is_over_is_said():
    watch = Watch(lab.signatures(), looks=10, facts={"actions": {"kind": "discrete", "n": 2}})

    def go(first: int, last: int, rdu: float, ret: float) -> list[tuple[str, str, int]]:
        found = []
        for k in range(first, last):
            for event in watch.take(
                {"plasticity/rdu/q": rdu, "train/episodic_return": ret + k % 3}, k, k / 100
            ):
                found.append((event["state"], event["name"], k))
        return found

    assert go(1, 21, 0.1, 100.0) == []
    assert go(21, 61, 0.9, 20.0) == [("found", "rising_dormancy", 40)]  # suspected at 30
    assert go(61, 101, 0.1, 100.0) == [("over", "rising_dormancy", 70)]


def test_a_suspicion_outlives_an_interruption():
    def rows(first: int, last: int) -> list[tuple[dict[str, float], int, float]]:
        lost = [(0.1, 100.0) if k <= 20 else (0.9, 20.0) for k in range(first, last)]
        keys = ("plasticity/rdu/q", "train/episodic_return")
        return [
            ({keys[0]: rdu, keys[1]: ret + k % 3}, k, k / 100)
            for k, (rdu, ret) in enumerate(lost, start=first)
        ]

    before = Watch(lab.signatures(), looks=10, facts={})
    assert not [event for row in rows(1, 36) for event in before.take(*row)]
    after = Watch(lab.signatures(), looks=10, facts={})
    after.load_state(json.loads(json.dumps(before.state())))
    assert [(event["name"], row[1]) for row in rows(36, 61) for event in after.take(*row)] == [
        ("rising_dormancy", 40)
    ]


@pytest.mark.parametrize(
    ("facts", "tag"),
    [
        ([], None),
        ([("found", "a"), ("found", "b")], "a, b"),
        ([("found", "a"), ("found", "b"), ("over", "a")], "b"),
        ([("found", "a"), ("over", "a")], "nothing any more"),
    ],
)
def test_mlflow_gets_the_latest_state_as_a_tag(facts, tag):
    assert _diagnosis([{"kind": "diagnosis", "facts": {"state": s, "name": n}} for s, n in facts]) == tag


def test_only_what_is_looked_at_is_kept():
    signatures = lab.signatures()
    kept = ("plasticity/rdu/q", "loss/td_loss", "train/episodic_return")
    assert all(is_wanted(key, signatures) for key in kept)
    assert not any(
        is_wanted(k, signatures) for k in ("speed/env_steps_per_s", "plasticity/rdu_mean", "eval/x/y")
    )
