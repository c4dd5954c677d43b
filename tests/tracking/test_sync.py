"""`plasticine sync`, and the command it is part of."""

from __future__ import annotations

import importlib
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from plasticine.cli.main import COMMANDS, main
from plasticine.tracking.local import LocalLog


@pytest.fixture
def cwd(launch, monkeypatch) -> Path:
    monkeypatch.chdir(launch)
    monkeypatch.setenv("COLUMNS", "200")
    return launch


def unreachable() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"


def test_what_a_launch_without_a_server_left_behind_is_sent_later(cwd, make_run, write_lines, seen, capsys):
    uri = unreachable()
    for seed in range(2):
        write_lines(make_run(cwd, seed, uri=uri), range(5)).close("finished")
    assert main(["sync"]) == 1
    out = capsys.readouterr().out
    assert "2 runs pending" in out
    assert "refused" in out
    assert uri in out
    assert main(["sync", "--uri", f"sqlite:///{cwd}/mlflow.db"]) == 0
    out = capsys.readouterr().out
    assert "seed=1  10" in out
    assert "2 runs, 20 points sent, 0 runs pending" in out
    assert {run.info.status for run in seen(cwd).runs} == {"FINISHED"}
    assert main(["sync", "runs/grid"]) == 0  # it knows where they went
    assert "2 runs, 0 points sent, 0 runs pending" in capsys.readouterr().out
    assert len(seen(cwd).runs) == 2


def test_one_study_only_and_runs_without_a_record(cwd, make_run, write_lines, seen, capsys):
    write_lines(make_run(cwd, 0), range(5)).close("finished")
    make_run(cwd, 1, kind="none")
    other = cwd / "runs" / "second"
    shutil.copytree(cwd / "runs" / "grid", other)
    for path in other.glob("*/*/*"):
        if path.suffix in (".json", ".yaml"):
            path.write_text(path.read_text().replace("grid", "second"))
    assert main(["sync", "--study", "second"]) == 0
    assert "1 runs, 10 points sent" in capsys.readouterr().out
    assert seen(cwd).experiment is None
    assert seen(cwd, "second").run.data.params["study"] == "second"


def test_a_run_that_failed_before_it_recorded_anything_is_shown(cwd, make_run, seen):
    run_dir = make_run(cwd)
    (run_dir / "error.txt").write_text("Traceback")
    LocalLog(run_dir).close("failed")
    assert main(["sync"]) == 0
    assert seen(cwd).run.info.status == "FAILED"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sink"], "did you mean 'sync'"),
        (["sync", "nowhere"], "nowhere is not a folder"),
        (["sync", "."], "no run in"),
        (["sync", "--uri", "./mlruns"], "file store"),
    ],
)
def test_mistakes_are_told_without_a_traceback(cwd, make_run, capsys, arguments, message):
    if "--uri" in arguments:
        make_run(cwd)
    if arguments == ["sync", "."]:
        arguments = ["sync", str(cwd / "mlartifacts")]
        (cwd / "mlartifacts").mkdir()
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_help_imports_no_subcommand(capsys):
    script = "import sys; from plasticine.cli.main import main; main(['--help']); "
    script += "assert not {'mlflow', 'torch', 'rich', 'numpy'} & set(sys.modules)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "sync" in done.stdout
    assert main([]) == 0
    assert main(["--version"]) == 0


def test_every_command_is_there():
    for command in COMMANDS.values():
        module = importlib.import_module(command.module)
        assert callable(module.configure)
        assert callable(module.run)
