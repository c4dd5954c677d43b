"""One run into a real SQLite store, in this process."""

from __future__ import annotations

import json
import math
import shutil

import pytest

from plasticine.errors import UserError
from plasticine.tracking.follower import RunFollower
from plasticine.tracking.local import LocalLog
from plasticine.tracking.state import ForwardState
from plasticine.tracking.store import Store, open_store, resolve_uri

FOREVER = math.inf


@pytest.fixture
def store(launch) -> Store:
    uri = resolve_uri(None, launch)
    return open_store(uri, "grid", launch)


def test_a_run_from_start_to_end(launch, store, make_run, write_lines, seen):
    run_dir = make_run(launch)
    follower = RunFollower(run_dir)
    assert follower.push(store, FOREVER) == (0, False, "")  # nothing there: nothing in MLflow
    assert seen(launch).runs == []
    log = LocalLog(run_dir)
    log.rewind({})
    follower.push(store, FOREVER)  # visible from its first moment
    shown = seen(launch)
    assert shown.run.info.status == "RUNNING"
    assert shown.run.info.run_name == "snp s0 · ppo · toy"
    identity = {"study": "grid", "level": "shift", "env": "toy", "method": "snp", "agent": "ppo", "seed": "0"}
    identity |= {"cell": "12345678", "budget": "smoke", "kind": "seed"}
    assert identity.items() <= shown.run.data.params.items()
    assert {"agent.lr": "0.001", "env.tasks_0_": "null"}.items() <= shown.run.data.params.items()
    tags = {**identity, "plasticine.cell": "12345678", "plasticine.key": "grid/12345678/seed=0"}
    assert {**tags, "plasticine.run_dir": str(run_dir)}.items() <= shown.run.data.tags.items()
    assert json.loads(shown.artifact("run.json"))["cell"] == "12345678"

    write_lines(run_dir, range(10), log)
    log.log({"loss/value": 7.0}, 10)
    log.event("task_start", 10, {"index": 1, "name": "b"})
    log.log({"loss/value": float("nan")}, 11)
    log.log({"loss/value": 8.0}, 12)
    assert follower.push(store, FOREVER).points == 20
    assert [s for s, _ in shown.history("loss/value")] == list(range(10))  # the committed prefix only
    assert follower.push(store, FOREVER).points == 0

    log.log({"summary/auc": 3.5}, 12)
    log.close("finished")
    result = follower.push(store, FOREVER)
    assert (result.points, result.pending) == (4, False)  # 7.0, health/nonfinite, 8.0, summary/auc
    assert shown.history("loss/value")[-2:] == [(10, 7.0), (12, 8.0)]
    assert shown.history("summary/auc") == [(12, 3.5)]
    assert shown.history("health/nonfinite") == [(11, 1.0)]
    assert shown.run.info.status == "FINISHED"
    assert shown.run.info.end_time == ForwardState.load(run_dir).time
    assert shown.run.data.tags["plasticine.switches"] == "10"
    events = json.loads(shown.artifact("events.json"))["events"]
    assert [(e["env_steps"], e["kind"]) for e in events] == [(10, "task_start"), (11, "nonfinite")]
    assert shown.artifact("metrics.jsonl") == (run_dir / "metrics.jsonl").read_text()
    assert shown.artifact("log.txt") == "hello\n"


@pytest.mark.parametrize(
    ("outcome", "status"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED")]
)
def test_outcomes_and_the_way_back(launch, store, make_run, write_lines, seen, outcome, status):
    run_dir = make_run(launch)
    log = write_lines(run_dir, range(5))
    mark = log.mark()
    (run_dir / "error.txt").write_text("Traceback")
    log.log({"loss/value": 1.0}, 5)
    log.close(outcome)
    RunFollower(run_dir).push(store, FOREVER)
    shown = seen(launch)
    assert shown.run.info.status == status
    names = {a.path for a in shown.client.list_artifacts(shown.run.info.run_id)}
    assert ("error.txt" in names) == (outcome == "failed")

    again = LocalLog(run_dir)
    again.rewind(mark)  # step 5 was committed by close and is undone
    follower = RunFollower(run_dir)
    follower.push(store, FOREVER)
    assert shown.run.info.status == "RUNNING"
    write_lines(run_dir, range(5, 9), again)
    again.close("finished")
    follower.push(store, FOREVER)
    assert shown.run.info.status == "FINISHED"
    assert [s for s, _ in shown.history("loss/value")] == list(range(9))  # step 5 once


def test_the_same_lines_twice_make_no_second_points(launch, store, make_run, write_lines, seen):
    """Killed after MLflow took the points and before that was noted."""
    run_dir = make_run(launch, max_points=50, log_lines=300)
    log = write_lines(run_dir, range(100))
    RunFollower(run_dir).push(store, FOREVER)
    before = (run_dir / "mlflow.json").read_text()
    write_lines(run_dir, range(100, 300), log)
    log.close("finished")
    RunFollower(run_dir).push(store, FOREVER)
    history = seen(launch).history("loss/value")
    assert 40 <= len(history) <= 50
    (run_dir / "mlflow.json").write_text(before)
    RunFollower(run_dir).push(store, FOREVER)
    assert seen(launch).history("loss/value") == history
    assert [s for s, _ in history] == sorted({s for s, _ in history})
    assert history[-1][0] == 299


def test_killed_between_making_the_run_and_noting_it(launch, store, make_run, write_lines, seen, monkeypatch):
    run_dir = make_run(launch)
    write_lines(run_dir, range(3))
    save = ForwardState.save

    def killed(self, folder):
        if self.run_id is not None:
            raise KeyboardInterrupt
        save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(ForwardState, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFollower(run_dir).push(store, FOREVER)
    assert ForwardState.load(run_dir).run_id is None
    RunFollower(run_dir).push(store, FOREVER)
    assert len(seen(launch).runs) == 1
    assert seen(launch).run.data.params["method"] == "snp"


def test_a_run_made_afresh_is_another_mlflow_run(launch, store, make_run, write_lines, seen):
    run_dir = make_run(launch)
    write_lines(run_dir, range(3))
    RunFollower(run_dir).push(store, FOREVER)
    shutil.rmtree(run_dir)
    write_lines(make_run(launch), range(4))
    RunFollower(run_dir).push(store, FOREVER)
    assert len(seen(launch).runs) == 2


def test_a_deleted_store_is_filled_again(launch, store, make_run, write_lines, seen, template):
    run_dir = make_run(launch)
    write_lines(run_dir, range(3)).close("finished")
    RunFollower(run_dir).push(store, FOREVER)
    other = launch / "other"
    other.mkdir()
    shutil.copy(template, other / "mlflow.db")
    uri = resolve_uri(None, other)
    new = open_store(uri, "grid", other)
    RunFollower(run_dir).push(new._replace(uri=store.uri), FOREVER)  # same name, another content
    assert [s for s, _ in seen(other).history("loss/value")] == [0, 1, 2]
    assert seen(other).run.info.status == "FINISHED"


def test_a_run_deleted_in_mlflow_is_not_made_again(launch, store, make_run, write_lines):
    run_dir = make_run(launch)
    log = write_lines(run_dir, range(3))
    RunFollower(run_dir).push(store, FOREVER)
    store.client.delete_run(ForwardState.load(run_dir).run_id)
    write_lines(run_dir, range(3, 5), log)
    with pytest.raises(UserError, match="mlflow runs restore"):
        RunFollower(run_dir).push(store, FOREVER)


def test_a_run_killed_from_outside_takes_its_outcome_from_its_status(
    launch, store, make_run, write_lines, seen
):
    run_dir = make_run(launch)
    write_lines(run_dir, range(3))
    (run_dir / "status.json").write_text('{"state": "running"}')
    follower = RunFollower(run_dir)
    follower.push(store, FOREVER, final=True)
    assert seen(launch).run.info.status == "RUNNING"
    (run_dir / "status.json").write_text('{"state": "failed"}')
    follower.push(store, FOREVER)
    assert seen(launch).run.info.status == "RUNNING"  # may still be started again by the launcher
    follower.push(store, FOREVER, final=True)
    assert seen(launch).run.info.status == "FAILED"


def test_events_sent_by_another_process_are_kept(launch, store, make_run, write_lines, seen):
    run_dir = make_run(launch)
    log = LocalLog(run_dir)
    log.event("task_start", 0, {"index": 0})
    log.event("task_start", 0, {"index": 1})
    write_lines(run_dir, range(3), log)
    RunFollower(run_dir).push(store, FOREVER)
    log.close("finished")  # adds an outcome, no line
    RunFollower(run_dir).push(store, FOREVER)
    assert len(json.loads(seen(launch).artifact("events.json"))["events"]) == 2
    assert seen(launch).run.data.tags["plasticine.switches"] == "0"


def test_artifacts_that_cannot_be_stored_do_not_hold_the_metrics(launch, store, make_run, write_lines, seen):
    run_dir = make_run(launch)
    write_lines(run_dir, range(3)).close("finished")
    root = launch / "mlartifacts" / "grid"
    shutil.rmtree(root)
    root.write_text("not a folder")
    result = RunFollower(run_dir).push(store, FOREVER)
    assert result.pending
    assert result.reason.startswith("artifacts:")
    assert len(seen(launch).history("loss/value")) == 3
    assert seen(launch).run.info.status == "FINISHED"
    root.unlink()
    assert RunFollower(run_dir).push(store, FOREVER) == (0, False, "")
    assert seen(launch).artifact("log.txt") == "hello\n"
    assert json.loads(seen(launch).artifact("run.json"))["seed"] == 0


def test_too_many_keys_are_told(launch, store, make_run, seen):
    run_dir = make_run(launch, max_keys=3)
    log = LocalLog(run_dir)
    log.log({f"loss/{i}": 1.0 for i in range(5)} | {"plasticity/rank/actor": 1.0, "summary/x": 1.0}, 1)
    log.close("finished")
    RunFollower(run_dir).push(store, FOREVER)
    assert set(seen(launch).run.data.metrics) == {"loss/0", "loss/1", "loss/2", "summary/x"}
    assert (
        seen(launch).run.data.tags["plasticine.keys_left_out"] == "2 over tracker.max_keys=3: loss/3, loss/4"
    )


def test_long_values_and_many_parameters_fit(launch, store, make_run, write_lines, seen):
    run_dir = make_run(launch, params={f"p{i}": i for i in range(250)} | {"long": "x" * 7000})
    write_lines(run_dir, range(1))
    RunFollower(run_dir).push(store, FOREVER)
    params = seen(launch).run.data.params
    assert len(params) == 250 + 1 + 2 + 9
    assert len(params["long"]) == 6000


def test_many_lines_go_in_batches_and_a_deadline_is_kept(launch, store, make_run, write_lines, seen):
    run_dir = make_run(launch, log_lines=1500)
    write_lines(run_dir, range(1500))
    follower = RunFollower(run_dir)
    first = follower.push(store, deadline=-1.0)
    assert first.pending
    assert first.points == 902
    assert follower.push(store, FOREVER) == (3000 - 902, False, "")
    assert [s for s, _ in seen(launch).history("loss/value")] == list(range(1500))
