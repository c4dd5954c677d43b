"""``plasticine ui`` without a browser: which store, which port, what it warns of, how it ends."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import urllib.request
from pathlib import Path

import pytest

from plasticine.cli import ui as command
from plasticine.cli.main import main
from plasticine.errors import UserError
from plasticine.tracking.server import UiServer, free_port
from plasticine.tracking.store import open_store, resolve_uri
from tests.ui.conftest import PATIENCE, read_links, start_ui, wait_for


@pytest.fixture
def store(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    open_store(resolve_uri(None, tmp_path), "grid", tmp_path)
    return tmp_path


def processes_of(group: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                text = (entry / "cmdline").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "mlflow" in text and fields[0] != "Z" and str(group) in (fields[1], fields[2]):
                found.append(int(entry.name))
    return found


def test_it_takes_a_free_port_opens_a_relative_store_and_leaves_nothing(grid, tmp_path):
    shutil.copy(grid / "mlflow.db", tmp_path / "copy.db")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_ui(tmp_path, "--uri", "sqlite:///copy.db", "--port", str(port))
        address, links = read_links(process)
    assert int(address.rsplit(":", 1)[1]) > port
    assert address.startswith("http://127.0.0.1:")
    assert set(links) == {"Methods compared", "Seeds, grouped by method"}
    with urllib.request.urlopen(f"{address}/health", timeout=PATIENCE) as answer:
        assert answer.status == 200
    children = processes_of(process.pid)
    assert children
    telemetry = [Path(f"/proc/{pid}/environ").read_text() for pid in children]
    assert all("MLFLOW_DISABLE_TELEMETRY=true" in text for text in telemetry)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert out.endswith("stopped\n")
    assert "Traceback" not in err
    wait_for(lambda: not processes_of(process.pid) and not any(Path(f"/proc/{p}").exists() for p in children))


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
    open_store(resolve_uri(None, elsewhere), "grid", elsewhere)
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
