"""The run of a study that all its runs are shown under."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

from plasticine.tracking.follower import RunFollower
from plasticine.tracking.parent import PARENT_TAG, Parents
from plasticine.tracking.state import ForwardState
from plasticine.tracking.store import open_store, resolve_uri

OPEN = """
import sys
from pathlib import Path
from plasticine.tracking.store import open_store, resolve_uri
folder = Path(sys.argv[1])
print(open_store(resolve_uri(None, folder), "grid", folder).parents.of("grid"))
"""


def test_runs_of_a_study_share_one_parent_whoever_sends_them(launch, make_run, write_lines, seen):
    store = open_store(resolve_uri(None, launch), "grid", launch)
    for seed in range(2):
        write_lines(make_run(launch, seed), range(3)).close("finished")
        RunFollower(launch / f"runs/grid/snp.ppo.toy-12345678/seed={seed}").push(
            open_store(resolve_uri(None, launch), "grid", launch), math.inf
        )
    (parent,) = seen(launch).kind("study")
    assert parent.info.run_name == "study grid"
    assert parent.data.params == {"study": "grid"}
    assert {run.data.tags[PARENT_TAG] for run in seen(launch).runs} == {parent.info.run_id}
    assert store.parents.of("grid") == parent.info.run_id
    assert store.parents.of("another") != parent.info.run_id


def test_processes_that_need_it_at_once_make_it_once(launch, seen):
    open_store(resolve_uri(None, launch), "grid", launch)
    running = [
        subprocess.Popen([sys.executable, "-c", OPEN, launch], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    found = {process.communicate(timeout=120)[0].strip() for process in running}
    assert found == {run.info.run_id for run in seen(launch).kind("study")}
    assert len(found) == 1


def test_of_two_machines_the_first_one_wins(launch, seen, tmp_path, monkeypatch):
    """No lock is common to them: the second looks before the first has made it, and makes its own."""
    store = open_store(resolve_uri(None, launch), "grid", launch)
    other = Parents(store.client, store.experiment_id, tmp_path / "other.lock")
    look, first = Parents._oldest, []

    def late(self, study):
        if self is other and len(first) < 2:
            first.append(store.parents.of(study))
            return None
        return look(self, study)

    monkeypatch.setattr(Parents, "_oldest", late)
    assert other.of("grid") == first[0]
    assert [run.info.run_id for run in seen(launch).kind("study")] == [first[0]]


def test_a_run_sent_before_there_were_parents_gets_one(launch, make_run, write_lines, seen):
    run_dir: Path = make_run(launch)
    write_lines(run_dir, range(3)).close("finished")
    store = open_store(resolve_uri(None, launch), "grid", launch)
    RunFollower(run_dir).push(store, math.inf)
    state = ForwardState.load(run_dir)
    store.client.delete_tag(state.run_id, PARENT_TAG)
    state.parent = None
    state.save(run_dir)
    RunFollower(run_dir).push(store, math.inf)
    assert seen(launch).run.data.tags[PARENT_TAG] == store.parents.of("grid")
    assert ForwardState.load(run_dir).parent == store.parents.of("grid")
