from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: Small and quick, whatever the defaults are; nothing is sent to MLflow.
QUICK = [
    "budget=smoke", "metrics=none", "tracker=none", "agent.num_steps=64", "agent.num_minibatches=1", "agent.epochs=1",
    "network.hidden=[8]", "env.num_envs=4", "env.num_tasks=2", "env.steps_per_task=512",
]  # fmt: skip


class Launcher:
    """Runs plasticine-run as a process in a folder of its own, with the level of `faulty.py` at hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        self.yaml = folder / "yaml"
        (self.yaml / "env").mkdir(parents=True)
        lines = (ROOT / "conf" / "env" / "classic.yaml").read_text(encoding="utf-8")
        faulty = lines.replace("plasticine.envs.classic.Classic", "tests.launch.faulty.Faulty")
        (self.yaml / "env" / "faulty.yaml").write_text(faulty + "\nfault: none\nwhile_exists: ''\n")
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str) -> subprocess.Popen[str]:
        command = [
            sys.executable,
            "-m",
            "plasticine.cli.run",
            "env=faulty",
            *QUICK,
            f"--config-dir={self.yaml}",
            *words,
        ]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        process = subprocess.Popen(
            command, cwd=self.folder, env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._started.append(process)
        return process

    def __call__(self, *words: str) -> tuple[int, str, str]:
        return self.wait(self.start(*words))

    def wait(self, process: subprocess.Popen[str], timeout: float = 120) -> tuple[int, str, str]:
        out, err = process.communicate(timeout=timeout)
        return process.returncode, out, err

    def runs(self) -> dict[str, Path]:
        """Folders of all runs by ``<fault>/<seed>``."""
        found = {}
        for path in self.folder.glob("runs/*/*/seed=*"):
            card = json.loads((path / "run.json").read_text())
            found[f"{card['params']['env.fault']}/{card['seed']}"] = path
        return found

    def states(self) -> dict[str, str]:
        return {name: status(path)["state"] for name, path in self.runs().items()}

    def wait_for(self, state: str, count: int = 1, steps: int = 0, timeout: float = 90) -> list[Path]:
        """Wait until `count` runs are in `state` and have made `steps` env steps; return their folders."""
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            found = []
            for path in self.folder.glob("runs/*/*/seed=*"):
                now = status(path)
                if now.get("state") == state and (now.get("env_steps") or 0) >= steps:
                    found.append(path)
            if len(found) >= count:
                return found
            time.sleep(0.05)
        raise AssertionError(f"no {count} runs got {state} with {steps} steps in {timeout} s")

    def wait_for_log(self, run: Path, text: str, timeout: float = 90) -> None:
        """Wait until a run has printed `text`."""
        end = time.monotonic() + timeout
        while not (run / "log.txt").exists() or text not in (run / "log.txt").read_text():
            assert time.monotonic() < end, f"{run} does not print {text!r}"
            time.sleep(0.05)

    def end(self) -> None:
        for process in self._started:
            for child in children(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            if process.poll() is None:
                process.kill()
                process.wait()


def status(path: Path) -> dict:
    try:
        return json.loads((path / "status.json").read_text())
    except FileNotFoundError:
        return {}


def children(pid: int) -> list[int]:
    """Processes started by `pid` that are alive."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] != "Z":
                    found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture
def launcher(tmp_path):
    made = Launcher(tmp_path)
    yield made
    made.end()
