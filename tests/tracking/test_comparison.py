"""A study in MLflow: aggregates over seeds, kept right while seeds finish, are redone, or a process is killed."""

from __future__ import annotations

import base64
import json
import math
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from plasticine.comparison import study as study_module
from plasticine.comparison.study import StudyComparison, update_studies
from plasticine.tracking.aggregate import DIGEST_TAG, Aggregates
from plasticine.tracking.follower import RunFollower
from plasticine.tracking.local import LocalLog
from plasticine.tracking.parent import PARENT_TAG
from plasticine.tracking.store import Store, open_store, resolve_uri
from plasticine.tracking.views import view_links

STEPS = 400
RETURN = "train/episodic_return"


@pytest.fixture
def store(launch) -> Store:
    return open_store(resolve_uri(None, launch), "grid", launch)


@pytest.fixture(autouse=True)
def attached(monkeypatch) -> list[Path]:
    """Stands in for the report, which has its own tests; notes what it was asked for."""
    asked: list[Path] = []

    def write(folder: Path, out: Path) -> None:
        asked.append(folder)
        (out / "figures").mkdir()
        (out / "figures" / "curve.png").write_bytes(b"png")
        (out / "report.html").write_text(f"report {len(asked)}")

    monkeypatch.setattr(study_module, "write_attachments", write)
    return asked


@pytest.fixture
def play(launch, make_run, store) -> Callable[..., Path]:
    """A run with two tasks, of one value throughout, that is in MLflow."""

    def play(
        value: float,
        state: str = "finished",
        metrics: int = 0,
        lines: int = STEPS,
        every: int = 1,
        send: bool = True,
        **run,
    ) -> Path:
        run_dir = make_run(launch, **run)
        log = LocalLog(run_dir)
        for step in range(1, lines + 1):
            if step in (1, lines // 2 + 1):
                log.event("task_start", step - 1, {"index": int(step > 1), "name": f"t{int(step > 1)}"})
            row = {RETURN: value + (step > lines // 2), "task/index": float(step > lines // 2)}
            if step % every == 0:
                row |= {f"plasticity/m{i}": value * i for i in range(metrics)}
            row |= {"plasticity/m0/actor": 1.0, "loss/a": 1.0}
            log.log(row, step)
        if state == "finished":
            log.log({"summary/final_return": value + 1, "summary/mean_return": value}, lines)
        log.close(state)
        (run_dir / "status.json").write_text(json.dumps({"state": state}))
        if send:
            RunFollower(run_dir).push(store, math.inf, final=True)
        return run_dir

    return play


def aggregates(seen, launch) -> list:
    return seen(launch).kind("aggregate")


def points(store: Store, run, key: str) -> dict[int, float]:
    history = store.client.get_metric_history(run.info.run_id, key)
    found = {m.step: m.value for m in history}
    assert len(found) == len(history), "a step is there twice"
    return found


def test_one_cell_becomes_mean_iqm_and_interval(launch, store, play, seen):
    for seed, value in enumerate((0.0, 1.0, 2.0, 3.0, 94.0)):
        run_dir = play(value, seed=seed, metrics=2)
    assert update_studies(store, [run_dir]) == ""
    (run,) = aggregates(seen, launch)
    names = {"study": "grid", "level": "shift", "env": "toy", "method": "snp", "agent": "ppo"}
    names |= {"cell": "12345678", "budget": "smoke", "seeds": "5", "kind": "aggregate"}
    assert run.data.params == names
    assert names.items() <= run.data.tags.items()
    assert run.data.tags["seed_list"] == "0,1,2,3,4"
    assert run.data.tags["plasticine.switches"] == "200"
    assert run.data.tags[PARENT_TAG] == store.parents.of("grid")
    assert run.info.run_name == "snp · ppo · toy (5 seeds)"
    assert run.info.status == "FINISHED"
    mean, middle = points(store, run, f"mean/{RETURN}"), points(store, run, f"iqm/{RETURN}")
    grid = [round(step) for step in np.arange(1, 101) * (STEPS / 100)]
    assert list(mean) == list(middle) == grid
    assert set(mean.values()) == {20.0, 21.0}  # first and second task
    assert mean[200] == 20.0
    assert mean[204] == 21.0
    assert set(middle.values()) == {2.0, 3.0}  # 0 and 94 do not count
    low, high = points(store, run, f"ci_low/{RETURN}"), points(store, run, f"ci_high/{RETURN}")
    assert list(low) == list(high) == grid
    assert all(low[s] < middle[s] < high[s] for s in grid)
    assert points(store, run, "iqm/summary/final_return") == {STEPS: 3.0}
    assert points(store, run, "mean/plasticity/m1") == dict.fromkeys(grid, 20.0)
    assert points(store, run, "task/index") == {0: 0.0, 200: 1.0, STEPS: 1.0}
    assert "iqm/plasticity/m0/actor" not in run.data.metrics


def test_one_seed_has_no_interval(launch, store, play, seen):
    update_studies(store, [play(1.0)])
    (run,) = aggregates(seen, launch)
    assert {key.split("/")[0] for key in run.data.metrics} == {"mean", "iqm", "task"}
    assert "no interval" in run.data.tags["mlflow.note.content"]


def test_a_further_seed_replaces_everything_and_nothing_else_does(launch, store, play, seen, attached):
    first = play(1.0, seed=0)
    play(5.0, seed=1, state="failed")
    update_studies(store, [first])
    (before,) = aggregates(seen, launch)
    assert before.info.run_name == "snp · ppo · toy (1 of 2 seeds, 1 failed)"
    update_studies(store, [first])
    (same,) = aggregates(seen, launch)
    assert same.info.run_id == before.info.run_id
    assert len(attached) == 1  # nothing changed: no second report
    play(3.0, seed=2)
    update_studies(store, [first])
    (after,) = aggregates(seen, launch)
    assert after.info.run_id != before.info.run_id
    assert set(points(store, after, f"mean/{RETURN}").values()) == {2.0, 3.0}
    assert after.data.params["seeds"] == "2"
    assert len(attached) == 2
    parent = store.client.get_run(store.parents.of("grid"))
    assert {"runs": "3", "finished": "2", "failed": "1"}.items() <= parent.data.tags.items()
    assert parent.info.status == "FAILED"
    assert seen(launch).artifact_of(parent, "report.html") == "report 2"
    assert seen(launch).artifact_of(parent, "figures/curve.png") == "png"
    assert (
        "| toy | snp | ppo | 12345678 | 2 of 3 seeds, 1 failed | 3 |"
        in parent.data.tags["mlflow.note.content"]
    )


def test_killed_while_an_aggregate_is_made(launch, store, play, seen, monkeypatch):
    run_dir = play(1.0, seed=0)
    update_studies(store, [run_dir])
    play(2.0, seed=1)
    client = type(store.client)
    for method in ("log_batch", "set_terminated", "set_tag", "delete_run"):
        with monkeypatch.context() as patch:

            def killed(self, *_args, **_kwargs):
                raise KeyboardInterrupt

            patch.setattr(client, method, killed)
            with pytest.raises(KeyboardInterrupt):
                StudyComparison(store, run_dir.parents[1]).update()
        complete = [run for run in aggregates(seen, launch) if DIGEST_TAG in run.data.tags]
        assert complete, "there is always one to look at"
        if method != "delete_run":
            assert [run.data.params["seeds"] for run in complete] == ["1"]
    assert update_studies(store, [run_dir]) == ""
    (run,) = aggregates(seen, launch)
    assert run.data.params["seeds"] == "2"
    assert run.info.status == "FINISHED"
    assert set(points(store, run, f"mean/{RETURN}").values()) == {1.5, 2.5}


def test_cells_with_the_same_names_are_not_mixed(launch, store, play, seen):
    first = play(1.0, seed=0)
    play(9.0, seed=0, cell="87654321")
    play(5.0, seed=0, method="redo", cell="aaaaaaaa")
    update_studies(store, [first])
    found = {run.info.run_name: run for run in aggregates(seen, launch)}
    assert set(found) == {
        "snp · ppo · toy · 12345678 (1 seed)", "snp · ppo · toy · 87654321 (1 seed)", "redo · ppo · toy (1 seed)",
    }  # fmt: skip
    assert points(store, found["redo · ppo · toy (1 seed)"], "iqm/summary/final_return") == {STEPS: 6.0}


def test_seeds_that_are_only_in_mlflow_are_not_thrown_away(launch, store, play, seen):
    first = play(1.0, seed=0)
    gone = play(3.0, seed=1)
    update_studies(store, [first])
    (gone / "status.json").write_text('{"state": "running"}')  # as a copy of half the study would look
    assert "the aggregate" not in update_studies(store, [])
    assert "MLflow's aggregate has seeds 1, which are not finished" in update_studies(store, [first])
    (run,) = aggregates(seen, launch)
    assert run.data.params["seeds"] == "2"


def test_runs_of_another_store_do_not_count(launch, store, play, seen):
    first = play(1.0, seed=0)
    play(5.0, seed=1, send=False)
    assert update_studies(store, [first]) == ""
    (run,) = aggregates(seen, launch)
    assert run.data.params["seeds"] == "1"


def test_a_broken_record_is_told_and_the_others_are_compared(launch, store, play, seen):
    bad = play(1.0, seed=0)
    play(5.0, seed=0, method="redo", cell="aaaaaaaa")
    text = (bad / "metrics.jsonl").read_text()
    (bad / "metrics.jsonl").write_text("x" + text[1:])
    assert "line 1 of" in update_studies(store, [bad])
    (run,) = aggregates(seen, launch)
    assert run.data.params["method"] == "redo"


def test_a_deadline_is_kept(launch, store, play, seen):
    run_dir = play(1.0)
    assert StudyComparison(store, run_dir.parents[1]).update(deadline=-1.0) == "the time was up"
    assert aggregates(seen, launch) == []


def test_the_pages_stay_fast_however_much_is_recorded(launch, store, play, seen):
    """Counted in the store: at most 40 keys and `summary/*` of a run, 2,000 points a key, 40 keys of an aggregate."""
    run_dir = play(1.0, metrics=60, lines=4100, every=20, log_lines=4100)
    update_studies(store, [run_dir, play(2.0, metrics=60, every=20, seed=1)])
    for run in (*seen(launch).runs, *aggregates(seen, launch)):
        metrics = run.data.metrics
        assert len([key for key in metrics if not key.startswith("summary/")]) <= 40
        for key in metrics:
            assert len(store.client.get_metric_history(run.info.run_id, key)) <= 2000
    (run,) = aggregates(seen, launch)
    kinds = Counter(key.split("/")[0] for key in run.data.metrics)
    assert kinds["mean"] == kinds["iqm"] == kinds["ci_low"] == kinds["ci_high"] == 9
    assert "plasticity/m7" in run.data.tags["mlflow.note.content"]


def test_saved_views_say_what_to_show(launch, store, play):
    run_dir = play(1.0, metrics=2)
    update_studies(store, [run_dir])
    tags = store.client.get_experiment(store.experiment_id).tags
    links = view_links(store.experiment_id, tags)
    assert list(links) == ["Methods compared", "Seeds, grouped by method"]
    states = []
    for link in links.values():
        key = link.split("viewStateShareKey=")[1].split("&")[0]
        content = json.loads(tags[f"mlflow.sharedViewState.{key}"])
        packed = content["state"].removeprefix("deflate;")
        states.append(json.loads(zlib.decompress(base64.b64decode(packed))))
    methods, seeds = states
    assert methods["searchFilter"] == "tags.kind = 'aggregate' and tags.study = 'grid'"
    assert methods["orderByKey"] == "metrics.`iqm/summary/final_return`"
    assert methods["compareRunCharts"][0]["selectedMetricKeys"] == [f"iqm/{RETURN}"]  # one seed: no interval
    assert seeds["groupBy"]["groupByKeys"] == [{"mode": "param", "groupByData": "method"}]
    play(2.0, metrics=2, seed=1)
    update_studies(store, [run_dir])
    changed = store.client.get_experiment(store.experiment_id).tags
    assert set(changed) == set(tags)
    assert changed != tags  # with an interval now


def test_nothing_finished_makes_a_parent_that_runs(launch, store, play, seen, attached):
    run_dir = play(1.0, state="interrupted")
    assert update_studies(store, [run_dir]) == ""
    assert aggregates(seen, launch) == []
    assert attached == []
    assert store.client.get_run(store.parents.of("grid")).info.status == "RUNNING"
    assert Aggregates(store, "grid").tags("12345678") == {}
