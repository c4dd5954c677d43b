"""The fresh agent among other runs, and what it is good for."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from plasticine.analysis.baselines import find_baseline, fresh_tasks, what_carries_over
from plasticine.analysis.record import RunRecord
from plasticine.analysis.scores import run_scores
from tests.analysis.runs import run
from tests.outsider.pages import blocks

NORMALISED = ("env.normalize_obs=true", "agent.lr=1e-2")
RESET = ("method=full_reset", "env.normalizer_on_switch=reset")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunRecord]:
    folder = tmp_path_factory.mktemp("runs")
    wanted = {
        "plain": (),
        "fresh": RESET,
        "half": ("method=full_reset",),
        "other": (*RESET, "agent.lr=1e-4"),
        "snp": ("method=snp_hard", "metrics=none"),
        "snp_fresh": ("method=[snp_hard,full_reset]", "env.normalizer_on_switch=reset"),
    }
    return {name: run(Path(folder, name), *NORMALISED, *more) for name, more in wanted.items()}


def changed(record: RunRecord, state: str = "finished", **params: object) -> RunRecord:
    card = {**record.card, "params": {**record.card["params"], **params}}
    return dataclasses.replace(record, card=card, state=state)


def test_the_fresh_agent_is_found_by_what_it_does(runs):
    everything = list(runs.values())
    assert find_baseline(runs["plain"], everything).runs == (runs["fresh"],)
    assert find_baseline(runs["snp"], everything).runs == (runs["fresh"],)
    assert find_baseline(runs["snp"], everything, own_method=True).runs == (runs["snp_fresh"],)
    assert find_baseline(runs["fresh"], everything).runs == (runs["fresh"],)


def test_a_missing_baseline_is_explained(runs):
    none = find_baseline(runs["plain"], [runs["plain"], runs["other"]])
    assert none.runs == ()
    assert none.reason == "no run of this stream with method=full_reset env.normalizer_on_switch=reset"
    half = find_baseline(runs["plain"], [runs["half"]])
    assert half.runs == ()
    assert half.reason.endswith("it lacks env.normalizer_on_switch=reset")
    assert "not finished" in find_baseline(runs["plain"], [changed(runs["fresh"], "interrupted")]).reason


def test_a_memory_must_be_emptied(runs):
    remembers = changed(runs["fresh"], **{"agent.on_switch": "keep"})
    assert what_carries_over(remembers) == ("agent.on_switch=clear",)
    assert what_carries_over(changed(runs["fresh"], **{"agent.on_switch": "clear"})) == ()
    wanted = changed(runs["plain"], **{"agent.on_switch": "keep"})
    assert find_baseline(wanted, [remembers]).reason.endswith("it lacks agent.on_switch=clear")
    assert "agent.on_switch=clear" in find_baseline(wanted, []).reason


def test_a_part_of_a_reset_is_no_fresh_agent(runs):
    for key, value in (
        ("layers", 1),
        ("moments", "keep"),
        ("scope", '["actor/*"]'),
        ("when", '[{"every": 5}]'),
    ):
        part = changed(runs["fresh"], **{f"method.full_reset.{key}": value})
        assert find_baseline(runs["plain"], [part]).runs == ()


def test_the_first_task_of_a_plain_run_is_that_of_the_fresh_agent(runs):
    fresh = fresh_tasks([runs["fresh"]])
    assert sorted(fresh) == [0, 1, 2]
    scores = run_scores(runs["plain"], fresh)
    assert scores.tasks[0].relative_score == 1.0  # same seeds, nothing to carry over yet
    assert scores.tasks[2].relative_score != 1.0
    assert all(task.complete and task.episodes for task in scores.tasks)
    assert scores.plasticity_score == pytest.approx(sum(t.relative_score for t in scores.tasks) / 3)
    summary = {
        k.removeprefix("summary/"): s.values[-1] for k, s in runs["plain"].series.items() if "summary" in k
    }
    assert scores.mean_task_final == pytest.approx(summary["mean_task_final"])
    assert scores.tasks[-1].task_final == pytest.approx(summary["final_return"])


def test_fresh_scores_are_averaged_over_seeds(runs):
    a, b = fresh_tasks([runs["fresh"]]), fresh_tasks([runs["other"]])
    both = fresh_tasks([runs["fresh"], runs["other"]])
    assert both[1].seeds == 2
    assert both[1].auc == pytest.approx((a[1].auc + b[1].auc) / 2)
    assert both[1].final == pytest.approx((a[1].final + b[1].final) / 2)


def test_the_example_in_the_documentation_runs(runs, tmp_path, monkeypatch, capsys):
    page = Path(__file__).resolve().parents[2] / "docs" / "scores.md"
    (block,) = [b for b in blocks(page) if b.info == ("python",)]
    for name in ("plain", "fresh"):
        place = tmp_path / "runs" / "first" / name / "seed=0"
        place.parent.mkdir(parents=True)
        shutil.copytree(runs[name].folder, place)
    monkeypatch.chdir(tmp_path)
    exec(block.text, {})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * (1 + 3)
    assert lines[1] == "0 offset=0 " + lines[5].removeprefix("0 offset=0 ")  # the same first task
