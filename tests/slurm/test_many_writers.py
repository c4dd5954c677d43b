"""Many runs at once into one MLflow store: nothing missing, nothing twice, whatever becomes of the store meanwhile.

What is in the store is counted by SQL against the run folders, see `store_count`. The short forms are part of the
default tests; two hundred runs, the same way: ``pytest -m slow tests/slurm/test_many_writers.py``.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm.mlflow_server import MlflowServer
from tests.slurm.store_count import count
from tests.slurm.test_launch import SLURM, wait_until

MANY = pytest.mark.parametrize("runs", [12, pytest.param(200, marks=pytest.mark.slow)])
#: Everything goes to MLflow, so that everything can be counted.
ALL = [
    "metrics=core", "metrics.every=2", "metrics.probe_size=32", "tracker=mlflow", "tracker.per_network=true",
    "tracker.max_keys=1000", "launcher.check=false", "launcher.parallel_per_job=2", "launcher.mem=1G",
]  # fmt: skip
#: Run by Python itself at the start of every process of a job: writes down what it opens and connects to.
WITNESS = """
import os, sys

fd = os.open({path!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)


def witness(event, args):
    if event == "import":
        if args[0].partition(".")[0] in ("mlflow", "sqlalchemy"):
            os.write(fd, f"import {{args[0]}}\\n".encode())
    elif event in ("open", "sqlite3.connect", "socket.connect"):
        os.write(fd, f"{{event}} {{args[-1] if event == 'socket.connect' else args[0]}}\\n".encode())


sys.addaudithook(witness)
"""


@pytest.fixture
def server(tmp_path):
    made = MlflowServer(tmp_path / "server")
    made.start()
    yield made
    made.kill()


def finished(launcher) -> int:
    texts = [path.read_text() for path in launcher.folder.glob("runs/*/*/seed=*/status.json")]
    return sum('"state": "finished"' in text for text in texts)


def sync(launcher, *words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "plasticine.cli.main", "sync", "runs", *words], cwd=launcher.folder, text=True,
        capture_output=True, timeout=1800, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_complete(launcher, runs: int, database: Path, artifacts: Path) -> None:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        total = count(launcher.folder / "runs", connection, artifacts)
    print(total)
    assert total.wrong == []
    assert (total.runs, total.missing, total.doubled) == (runs, 0, 0)
    assert total.found == total.expected > 100 * runs
    assert total.artifacts == 6 * runs
    assert total.params > 50 * runs


@MANY
def test_a_sqlite_store_is_written_by_one_process_and_never_opened_by_a_job(slurm, launcher, tmp_path, runs):
    (tmp_path / "witness").mkdir()
    seen = tmp_path / "seen"
    (tmp_path / "witness" / "sitecustomize.py").write_text(WITNESS.format(path=str(seen)))
    setup = f"launcher.setup=['export PYTHONPATH={tmp_path}/witness:$PYTHONPATH']"
    process = launcher.start(
        "-m", f"seed=0-{runs - 1}", *SLURM, *ALL, f"launcher.runs_per_job={runs // 4}", setup
    )
    code, out, err = launcher.wait(process, timeout=1500)
    assert code == 0, out + err
    assert_complete(launcher, runs, launcher.folder / "mlflow.db", launcher.folder / "mlartifacts")
    # One process imports. Jobs write files of their runs, so a file system without safe locks cannot harm the store.
    lines = seen.read_text().splitlines()
    assert sum(line.endswith("/metrics.jsonl") for line in lines) >= runs  # the witness was there
    assert [line for line in lines if "mlflow.db" in line or "mlartifacts" in line] == []
    assert {line.partition(" ")[0] for line in lines} == {"open"}  # no database, no connection, no MLflow


@MANY
def test_a_server_that_is_killed_in_the_middle_stops_nothing_and_has_everything_afterwards(
    slurm, launcher, server, runs
):
    server.wait()
    process = launcher.start(
        "-m", f"seed=0-{runs - 1}", *SLURM, *ALL, f"launcher.runs_per_job={runs // 4}",
        f"tracker.uri={server.uri}",
    )  # fmt: skip

    def points() -> int:
        with contextlib.closing(sqlite3.connect(server.database, timeout=30)) as connection:
            return connection.execute("select count(*) from metrics").fetchone()[0]

    wait_until(lambda: points() > 0, "the first points arrive", 120)
    server.kill()
    before = finished(launcher)
    assert before < runs, "it was over before the server could be killed"
    wait_until(lambda: finished(launcher) == runs, "training goes on without the server", 1200)
    assert points() < runs * 100
    server.start()
    server.wait()
    code, out, err = launcher.wait(process, timeout=600)
    assert code == 0, out + err
    sync(launcher)  # what the command did not wait for
    assert_complete(launcher, runs, server.database, server.artifacts)


def test_runs_of_nodes_that_reach_no_server_are_sent_later(slurm, launcher, server):
    nowhere = "tracker.uri=http://127.0.0.1:9"  # discard: nobody listens
    line = ["-m", "seed=0-3", *SLURM, *ALL, "launcher.runs_per_job=4", nowhere]
    code, out, err = launcher(*line, "launcher.detach=true")
    assert code == 0, out + err
    wait_until(lambda: finished(launcher) == 4, "the runs finish offline", 120)
    server.wait()
    assert "4 run" in sync(launcher, "--uri", server.uri)
    sync(launcher, "--uri", server.uri)  # again: nothing comes twice
    assert_complete(launcher, 4, server.database, server.artifacts)
