"""What compose.yaml starts, from Debian's packages: an MLflow server on PostgreSQL, and a sweep against it."""

from __future__ import annotations

import contextlib
import os

import pytest

from tests.docker.postgres import Postgres, programs
from tests.docker.test_files import composed
from tests.launch.conftest import Launcher
from tests.slurm.mlflow_server import MlflowServer
from tests.slurm.store_count import count


def demand() -> None:
    """Skip where PostgreSQL is missing; with REQUIRE_POSTGRES=1, which CI sets, fail."""
    if programs() is None:
        reason = "PostgreSQL is not installed here (apt-get install postgresql)"
        if os.environ.get("REQUIRE_POSTGRES") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def postgres():
    demand()
    made = Postgres()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def server(postgres, tmp_path):
    """The server with the options of compose.yaml; only addresses and paths are those of this machine."""
    service = composed()["services"]["mlflow"]
    assert service["entrypoint"] == ["mlflow", "server"]
    here = {
        "@db:5432/": f"@127.0.0.1:{postgres.port}/", "/data/artifacts": f"{tmp_path}/server/artifacts",
    }  # fmt: skip
    options = [word for word in service["command"] if not word.startswith(("--host", "--port"))]
    assert len(options) == len(service["command"]) - 2
    for there, local in here.items():
        assert sum(there in word for word in options) == 1
        options = [word.replace(there, local) for word in options]
    variables = {**service["environment"], "PGPASSWORD": postgres.password}
    made = MlflowServer(tmp_path / "server", variables=variables)
    port = f"127.0.0.1:{made.port}"
    made.options = [word.replace("127.0.0.1:5000", port) for word in options]
    made.start()
    yield made
    made.kill()


@pytest.fixture
def launcher(tmp_path):
    made = Launcher(tmp_path)
    yield made
    made.end()


def test_a_missing_postgresql_skips_here_and_fails_in_ci(monkeypatch):
    monkeypatch.setattr("tests.docker.test_postgres.programs", lambda: None)
    monkeypatch.delenv("REQUIRE_POSTGRES", raising=False)
    with pytest.raises(pytest.skip.Exception, match="not installed"):
        demand()
    monkeypatch.setenv("REQUIRE_POSTGRES", "1")
    with pytest.raises(pytest.fail.Exception, match="not installed"):
        demand()


def test_a_sweep_arrives_in_postgresql_complete(postgres, server, launcher):
    import psycopg2

    server.wait()
    code, out, err = launcher(
        "-m", "seed=0-2", "tracker=mlflow", f"tracker.uri={server.uri}", "tracker.per_network=true",
        "tracker.max_keys=1000", "metrics=core", "metrics.every=1", "metrics.probe_size=32",
        "launcher.workers=2", "tracker.finish_timeout=120",
    )  # fmt: skip
    assert code == 0, out + err
    where = {"host": "127.0.0.1", "port": postgres.port, "user": "mlflow", "dbname": "mlflow"}
    with pytest.raises(psycopg2.OperationalError, match="password"):
        psycopg2.connect(**where, password="guessed")
    with contextlib.closing(psycopg2.connect(**where, password=postgres.password)) as connection:
        total = count(launcher.folder / "runs", connection, server.artifacts)
    assert total.wrong == []
    assert (total.runs, total.missing, total.doubled, total.artifacts) == (3, 0, 0, 18)
    assert total.found == total.expected > 300
    assert postgres.password not in " ".join(server.command)
