"""The statistics of a study: which runs count, on which scale, and compared with what."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from plasticine.analysis.stats import estimate, probability_of_improvement
from plasticine.errors import UserError
from plasticine.report.doses import doses_of
from plasticine.report.evidence import Evidence, compare
from plasticine.report.gather import gather
from plasticine.report.layout import Layout
from plasticine.report.runs import read_runs
from plasticine.report.streams import streams_of
from plasticine.report.study import Asked, examine
from tests.report.synthetic import Planned, write_cell, write_run

SMALL = {"tasks": 4, "names": 2, "lines": 16}


def evidence(*folders: Path, score: str = "task_final") -> Evidence:
    runs = read_runs(gather("s", folders))
    return compare(runs, Layout.of(runs, "vanilla"), score)


def test_only_finished_runs_count(tmp_path):
    write_cell(tmp_path, "s", Planned("vanilla", **SMALL))
    redo = Planned("redo", **SMALL)
    for seed in range(3):
        write_run(tmp_path, "s", redo, seed)
    write_run(tmp_path, "s", redo, 3, state="failed", upto=0.6, error="e")
    write_run(tmp_path, "s", redo, 4, state="interrupted", upto=0.9)
    found = evidence(tmp_path)
    assert {place[0]: sorted(values) for place, values in found.scores.items()} == {
        "vanilla": [0, 1, 2, 3, 4], "redo": [0, 1, 2],
    }  # fmt: skip
    cell = next(e for place, e in found.grid.items() if place[0] == "redo")
    assert cell.runs == (3,)
    assert "too narrow" in cell.note


def test_a_level_without_bounds_is_scaled_by_the_study(tmp_path):
    write_cell(tmp_path, "s", Planned("vanilla", **SMALL))
    write_cell(tmp_path, "s", Planned("redo", **SMALL))
    found = evidence(tmp_path)
    (scale,) = found.scales.values()
    assert scale.kind == "study"
    assert "runs of this study" in scale.words
    everything = [value for values in found.scores.values() for value in values.values()]
    assert (min(everything), max(everything)) == (0.0, 1.0)
    for place, values in found.scores.items():
        raw = np.array([found.raw[place][seed] for seed in sorted(values)])
        scores = (raw - scale.low) / (scale.high - scale.low)
        np.testing.assert_allclose([values[seed] for seed in sorted(values)], scores)
        assert found.grid[place].value == estimate([scores]).value


def test_published_bounds_are_used_where_there_are_some(tmp_path):
    write_cell(
        tmp_path,
        "s",
        Planned("vanilla", env="standard_dmc/walker", level="standard", top=900.0, tasks=1, names=1),
    )
    found = evidence(tmp_path)
    (scale,) = found.scales.values()
    assert scale.kind == "published"
    for place, values in found.scores.items():
        for seed, value in values.items():
            assert value == pytest.approx(found.raw[place][seed] / 1000)


def test_over_the_environments_of_a_level(tmp_path):
    for env in ("toy/walk", "toy/run"):
        for method in ("vanilla", "redo"):
            if (method, env) != ("redo", "toy/run"):
                write_cell(tmp_path, "s", Planned(method, env=env, **SMALL))
    found = evidence(tmp_path)
    assert set(found.levels) == {("vanilla", "continual")}  # redo lacks one: no number that looks comparable
    own = [np.array([v for _, v in sorted(found.scores["vanilla", c].items())]) for c in found.layout.columns]
    assert found.levels["vanilla", "continual"].low == estimate(own).low
    better, columns = found.improvement["redo"]
    assert [column.name for column in columns] == ["toy/walk"]
    walk = found.layout.columns[1]
    ours, theirs = (
        np.array([v for _, v in sorted(found.scores[row, walk].items())]) for row in ("redo", "vanilla")
    )
    assert better.value == probability_of_improvement([ours], [theirs]).value > 0.5
    assert found.comparison is not None
    assert found.comparison.rows == ("vanilla", "redo")
    assert [column.name for column in found.comparison.columns] == ["toy/walk"]


def test_what_comparisons_leave_out_is_told(tmp_path):
    for env in ("toy/a", "toy/b", "toy/c"):
        for method in ("vanilla", "redo", "snp"):
            if method != "snp" or env == "toy/a":
                write_cell(tmp_path, "s", Planned(method, env=env, seeds=(0, 1), tasks=2, lines=4))
    comparison = evidence(tmp_path).comparison
    assert comparison is not None
    assert comparison.rows == ("vanilla", "redo")
    assert comparison.left_out == ("snp",)
    assert comparison.places.sum(axis=1) == pytest.approx([1, 1])


def test_one_seed_has_no_interval_and_is_warned_of(tmp_path):
    write_cell(tmp_path, "s", Planned("vanilla", seeds=(0,), **SMALL))
    write_cell(tmp_path, "s", Planned("redo", seeds=(0, 1, 2), **SMALL))
    found = examine(Asked("s", (tmp_path,)))
    alone = next(e for place, e in found.evidence.grid.items() if place[0] == "vanilla")
    assert np.isnan(alone.low)
    assert np.isnan(alone.high)
    text = " ".join(found.warnings)
    assert "1 of 2 cells have one seed" in text
    assert "1 of 2 cells have two or three seeds" in text


def test_enough_seeds_are_not_warned_of(tmp_path):
    write_cell(tmp_path, "s", Planned("vanilla", **SMALL))
    write_cell(tmp_path, "s", Planned("redo", **SMALL))
    assert examine(Asked("s", (tmp_path,))).warnings == ()


def test_relative_scores_need_a_fresh_agent(tmp_path):
    write_cell(tmp_path, "s", Planned("vanilla", **SMALL))
    found = examine(Asked("s", (tmp_path,), score="relative_score"))
    assert not found.evidence.scores
    assert any("fresh agent" in warning for warning in found.warnings)
    write_cell(tmp_path, "s", Planned("full_reset", **SMALL))
    found = examine(Asked("s", (tmp_path,), score="relative_score"))
    values = {place[0]: float(e.value) for place, e in found.evidence.grid.items()}
    assert values["full_reset"] == pytest.approx(1.0, abs=0.1)
    assert values["vanilla"] < 0.9
    slopes = found.streams[0].slopes()
    assert slopes["vanilla"].high < 0 < slopes["full_reset"].high


def test_another_baseline_and_none(tmp_path):
    write_cell(tmp_path, "s", Planned("redo", **SMALL))
    write_cell(tmp_path, "s", Planned("snp", **SMALL))
    without = examine(Asked("s", (tmp_path,)))
    assert not without.evidence.improvement
    assert any("--baseline" in warning for warning in without.warnings)
    other = examine(Asked("s", (tmp_path,), baseline="snp"))
    assert set(other.evidence.improvement) == {"redo"}
    with pytest.raises(UserError, match=r"no method 'spn'.*\n.*did you mean 'snp'"):
        examine(Asked("s", (tmp_path,), baseline="spn"))


def test_unknown_names_are_answered_with_near_ones(tmp_path):
    write_cell(tmp_path, "s", Planned("vanilla", seeds=(0,), **SMALL))
    with pytest.raises(UserError, match=r"no score 'task_finale'.*\n.*task_final"):
        examine(Asked("s", (tmp_path,), score="task_finale"))
    with pytest.raises(UserError, match=r"metric 'rud'.*\n.*rdu"):
        examine(Asked("s", (tmp_path,), metrics=("rud",)))
    assert examine(Asked("s", (tmp_path,), metrics=("all",))).metrics == (
        "effective_rank", "gradient_norm", "rdu", "weight_magnitude",
    )  # fmt: skip


def test_several_folders_of_runs_are_one_study_and_a_run_counts_once(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    cell = Planned("vanilla", **SMALL)
    for seed in (0, 1):
        write_run(a, "s", cell, seed)
    write_run(b, "s", cell, 1, state="interrupted", upto=0.5)
    write_run(b, "s", cell, 2)
    gathered = gather("s", [a, b])
    assert [(run.seed, run.seen.state) for run in gathered.runs] == [
        ("0", "done"),
        ("1", "done"),
        ("2", "done"),
    ]
    assert any("more than one folder" in note for note in gathered.notes)
    assert gather("s", [b, a]).runs[1].store == str(a)
    with pytest.raises(UserError, match=r"no study 't'"):
        gather("t", [a, b])
    with pytest.raises(UserError, match="not a folder"):
        gather("s", [a, tmp_path / "nowhere"])


def test_runs_of_unequal_length_end_where_they_end(tmp_path):
    cell = Planned("vanilla", **SMALL)
    write_run(tmp_path, "s", cell, 0)
    write_run(tmp_path, "s", cell, 1, state="interrupted", upto=0.5)
    runs = read_runs(gather("s", [tmp_path]))
    (stream,) = streams_of(Layout.of(runs, "vanilla"), runs)
    curve = stream.returns["vanilla"]
    middle = len(curve.steps) // 2
    assert curve.runs[middle // 2] == 2
    assert curve.runs[-1] == 1
    assert np.isfinite(curve.value[-1])
    assert np.isnan(curve.low[middle + 5 :]).all()
    assert len(stream.switches) == 4


def test_reading_by_several_processes_gives_the_same(tmp_path, monkeypatch):
    write_cell(tmp_path, "s", Planned("vanilla", seeds=(0, 1, 2), tasks=2, lines=4))
    gathered = gather("s", [tmp_path])
    alone = read_runs(gathered)
    monkeypatch.setattr("plasticine.report.runs._PARALLEL", 2)
    monkeypatch.setattr("plasticine.report.workers.usable_cores", lambda: 2)
    several = read_runs(gathered)
    for one, two in zip(alone, several, strict=True):
        assert one.where == two.where
        assert one.scores is not None
        assert two.scores is not None
        assert repr(one.scores) == repr(two.scores)
        assert {key: value.tobytes() for key, value in one.curves.items()} == {
            key: value.tobytes() for key, value in two.curves.items()
        }


def test_settings_that_vary_are_doses(tmp_path):
    for every in (1, 10, 100):
        when = {"method.redo.when": f'[{{"every": {every}, "unit": "updates"}}]'}
        write_cell(tmp_path, "s", Planned("redo", params=when, seeds=(0, 1), tasks=2, lines=4))
    for strength in (0.1, 0.2):
        params = {"method.snp.shrink": strength, "method.snp.mode": "a"}
        write_cell(tmp_path, "s", Planned("snp", params=params, seeds=(0, 1), tasks=2, lines=4))
    params = {"method.snp.shrink": 0.2, "method.snp.mode": "b"}
    write_cell(tmp_path, "s", Planned("snp", params=params, seeds=(0, 1), tasks=2, lines=4))
    found = doses_of(evidence(tmp_path))
    assert [(d.method, d.name, d.unit, [value for value, _ in d.rows]) for d in found] == [
        ("redo", "period of redo", "updates", [1.0, 10.0, 100.0]),
        ("snp", "shrink", "", [0.1, 0.2]),
    ]
    assert found[1].others == "mode=a"
