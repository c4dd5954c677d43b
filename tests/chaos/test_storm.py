"""A short storm, and the proof that its counting would notice. The long one is `make chaos`."""

from __future__ import annotations

import contextlib
import json
import os
import random
import sqlite3
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.chaos.faults import KINDS
from tests.chaos.storm import ROOT, plan
from tests.slurm.cluster import missing_programs
from tests.slurm.conftest import demand
from tests.slurm.store_count import ARTIFACTS, count, series


def test_a_sweep_comes_through_a_storm_as_if_nothing_had_happened():
    demand(missing_programs())
    done = subprocess.run(
        [
            sys.executable, "-m", "tests.chaos.storm", "--runs", "4", "--faults", "8", "--seed", "139",
            "--steps", "8192", "--pause", "0.3", "1.5", "--minutes", "6",
        ],
        cwd=ROOT, text=True, capture_output=True, timeout=500, check=False,
    )  # fmt: skip
    said = done.stdout + done.stderr
    print(said)
    assert done.returncode == 0, said
    assert "faults injected: 8" in said
    assert "every record is that of an undisturbed run" in said
    assert "(0 missing, 0 doubled)" in said


def test_plans_can_be_repeated_and_are_even():
    kinds = list(KINDS)
    assert plan(7, 72, kinds, (1, 2)) == plan(7, 72, kinds, (1, 2)) != plan(8, 72, kinds, (1, 2))
    assert set(Counter(kind for _, kind in plan(random.random(), 72, kinds, (1, 2))).values()) == {6}
    assert len(plan(1, 8, kinds, (1, 2))) == 8
    assert all(1 <= pause <= 2 for pause, _ in plan(1, 72, kinds, (1, 2)))


@pytest.fixture
def stored(tmp_path):
    """A run folder and a store that agree."""
    folder = tmp_path / "runs" / "study" / "cell" / "seed=0"
    folder.mkdir(parents=True)
    names = {name: name[0] for name in ("study", "level", "env", "method", "agent", "cell")}
    card = {**names, "seed": 0, "params": {"agent.lr": 0.1}, "tags": {"budget": "smoke"}}
    (folder / "run.json").write_text(json.dumps(card))
    lines = [{"t": 5 + step, "s": step, "m": {"a": step / 3, "b/c": 1.0}} for step in range(4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    home = tmp_path / "artifacts" / "1" / "id" / "artifacts"
    home.mkdir(parents=True)
    for name in ARTIFACTS:
        (home / name).write_text((folder / name).read_text() if name == "metrics.jsonl" else "{}")
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as db:
        db.execute("create table runs (run_uuid, status)")
        db.execute("create table tags (run_uuid, key, value)")
        db.execute("create table params (run_uuid, key, value)")
        db.execute('create table metrics (run_uuid, key, "timestamp", step, value)')
        db.execute("insert into runs values ('id', 'FINISHED')")
        db.execute("insert into tags values ('id', 'plasticine.run_dir', ?)", [str(folder)])
        for key, value in {
            **names,
            "seed": "0",
            "agent.lr": "0.1",
            "budget": "smoke",
            "kind": "seed",
        }.items():
            db.execute("insert into params values ('id', ?, ?)", [key, value])
        for line in lines:
            for key, value in line["m"].items():
                db.execute(
                    "insert into metrics values ('id', ?, ?, ?, ?)", [key, line["t"], line["s"], value]
                )
        db.commit()
    return folder


def counted(folder: Path, change: str = "", *values: object):
    root = folder.parents[3]
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as db:
        if change:
            db.execute(change, values)
        return count(root / "runs", db, root / "artifacts")


def test_counting_finds_nothing_where_nothing_is_wrong(stored):
    total = counted(stored)
    assert total.wrong == []
    assert (total.runs, total.expected, total.found, total.missing, total.doubled) == (1, 8, 8, 0, 0)
    assert (total.params, total.artifacts) == (10, 6)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("delete from metrics where key = 'a' and step = 2", "1 missing, 0 strange, 0 doubled"),
        ("insert into metrics select * from metrics where key = 'a' and step = 2", "0 missing, 1 strange, 1 doubled"),
        ("insert into metrics values ('id', 'a', 99, 2, 7.0)", "0 missing, 1 strange, 1 doubled"),
        ("update metrics set value = 0.33 where key = 'a' and step = 1", "1 missing, 1 strange, 0 doubled"),
        ("update metrics set \"timestamp\" = 0 where step = 1", "2 missing, 2 strange, 0 doubled"),
        ("delete from params where key = 'agent.lr'", "param agent.lr is None"),
        ("update params set value = '1' where key = 'seed'", "param seed is '1'"),
        ("insert into params values ('id', 'other', '1')", "11 params instead of 10"),
        ("update runs set status = 'RUNNING'", "is RUNNING in the store"),
        ("delete from tags", "is 0 runs of the store"),
        ("insert into tags select 'second', key, value from tags", "is 2 runs of the store"),
    ],
)  # fmt: skip
def test_counting_notices(stored, change, told):
    assert any(told in line for line in counted(stored, change).wrong)


def test_counting_notices_files_that_are_missing_or_others(stored):
    home = stored.parents[3] / "artifacts" / "1" / "id" / "artifacts"
    (home / "metrics.jsonl").write_text("")
    (home / "log.txt").unlink()
    wrong = counted(stored).wrong
    assert [line.rpartition(": ")[2] for line in wrong] == [
        "artifact metrics.jsonl is not the record", "artifact log.txt is missing"
    ]  # fmt: skip


def test_a_record_is_compared_without_times_and_speeds_only(stored):
    path = stored / "metrics.jsonl"
    first = series(stored)
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace('"t": 6', '"t": 600').replace('"m": {', '"m": {"speed/env_steps_per_s": 3, ')
    resume = '{"t": 7, "s": 1, "event": "resume", "facts": {}}'
    path.write_text("\n".join([*lines[:2], resume, *lines[2:]]) + "\n")
    assert series(stored) == first
    path.write_text("\n".join([*lines[:2], lines[2].replace("0.66", "0.67"), *lines[3:]]) + "\n")
    assert series(stored) != first


def test_what_is_not_possible_here_is_an_error_in_ci(tmp_path):
    demand(missing_programs())
    code = (
        "import sys, tests.chaos.faults as f; f._LIBRARY = '/nowhere/*.so'; "
        "from tests.chaos.storm import main; sys.exit(main(['--runs', '2', '--faults', '1']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env={**os.environ, "REQUIRE_SLURM": "1"}, text=True,
        capture_output=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "not possible here: clock" in done.stderr
