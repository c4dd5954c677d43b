"""``plasticine ui`` without a browser: which store, which port, what it warns of, how it ends."""

from __future__ import annotations

import os
import shutil
import socket
import urllib.request
from pathlib import Path

import pytest

from plasticine.cli import ui as command
from plasticine.cli.main import main
from plasticine.errors import UserError
from plasticine.tracking.server import UiServer, free_port
from plasticine.tracking.store import open_store, resolve_uri
from tests.ui.conftest import PATIENCE, processes_of


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    open_store(resolve_uri(None, folder), "grid", folder)
    return folder / "mlflow.db"


@pytest.fixture
def store(tmp_path, template, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    shutil.copy(template, tmp_path)
    return tmp_path


def test_it_serves_this_machine_only_and_sends_no_telemetry(ui):
    assert ui.address.startswith("http://127.0.0.1:")
    assert set(ui.links) == {"Methods compared", "Seeds, grouped by method"}
    with urllib.request.urlopen(f"{ui.address}/health", timeout=PATIENCE) as answer:
        assert answer.status == 200
    servers = processes_of(ui.process.pid)
    assert servers
    for pid in servers:
        assert "MLFLOW_DISABLE_TELEMETRY=true" in Path(f"/proc/{pid}/environ").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "there is no MLflow store"),
        (["--uri", "sqlite:///nowhere.db"], "there is no MLflow store"),
        (["--uri", "./mlruns"], "file store"),
    ],
)
def test_without_a_store_it_says_so(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["ui", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_an_unknown_study_is_told(store, capsys):
    assert main(["ui", "--study", "gird"]) == 2
    assert "did you mean 'grid'" in capsys.readouterr().err


def test_a_port_range_that_is_taken_and_an_address_of_another_machine(monkeypatch):
    monkeypatch.setattr("plasticine.tracking.server._PORTS", 1)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="are all taken"):
            free_port("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match="no address of this machine"):
        free_port("192.0.2.1", 5000)


def test_other_machines_are_let_in_only_with_a_warning(store, monkeypatch, capsys):
    asked = []

    class Server(UiServer):
        def running(self):
            asked.append((self.host, self.allowed_hosts))
            raise KeyboardInterrupt

    monkeypatch.setattr(command, "UiServer", Server)
    assert main(["ui"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["ui", "--host", "0.0.0.0"]) == 0
    error = capsys.readouterr().err
    for part in ("no password", "ssh -L", "--allowed-hosts", "basic-auth", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        assert part in error
    assert main(["ui", "--host", "0.0.0.0", "--allowed-hosts", "box,box:5000"]) == 0
    assert "To allow names" not in capsys.readouterr().err
    assert asked == [("127.0.0.1", None), ("0.0.0.0", None), ("0.0.0.0", "box,box:5000")]


def test_the_store_is_the_one_the_runs_went_to(store, monkeypatch, capsys):
    elsewhere = store / "elsewhere"
    elsewhere.mkdir()
    shutil.copy(store / "mlflow.db", elsewhere)
    for seed, uri in enumerate((f"sqlite:///{store}/mlflow.db", f"sqlite:///{elsewhere}/mlflow.db")):
        run = store / "runs" / "grid" / "cell" / f"seed={seed}"
        run.mkdir(parents=True)
        (run / "run.json").write_text('{"study": "grid"}')
        (run / "mlflow.json").write_text(f'{{"uri": "{uri}"}}')
        os.utime(run / "mlflow.json", (1000 + seed, 1000 + seed))
    monkeypatch.setattr(UiServer, "running", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    assert main(["ui"]) == 0
    out = capsys.readouterr().out
    assert f"store: sqlite:///{elsewhere}/mlflow.db" in out
    assert f"other stores of these runs: sqlite:///{store}/mlflow.db" in out


def test_a_server_that_does_not_start_says_why(store):
    (store / "broken.db").write_text("this is no database")
    server = UiServer(f"sqlite:///{store}/broken.db", "127.0.0.1", free_port("127.0.0.1", 5700))
    with pytest.raises(UserError, match="does not start"), server.running():
        pass


def test_of_a_server_only_the_links_are_printed(capsys, monkeypatch):
    class Experiment:
        experiment_id, name, tags, last_update_time = "7", "grid", {}, 1

    class Client:
        def search_experiments(self, max_results):
            return [Experiment()]

    monkeypatch.setattr(command, "connect", lambda uri: Client())
    assert main(["ui", "--uri", "http://box:5000/"]) == 0
    assert "http://box:5000/#/experiments/7/runs?compareRunsMode=CHART" in capsys.readouterr().out
