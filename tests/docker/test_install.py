"""The steps of cpu.Dockerfile as plain commands in an empty environment: it takes minutes, and 3 GB for a while."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.docker.dockerfile import Stage, read
from tests.docker.test_files import ROOT, composed

_UID = 1000


def _ordinary() -> dict[str, Any]:
    """What makes subprocess start a program as an ordinary user."""
    return {"user": _UID, "group": _UID, "extra_groups": []} if os.getuid() == 0 else {}


def interpreter() -> str:
    """A Python that an ordinary user may start: one below /root is not."""
    for python in (str(Path(sys.executable).resolve()), "/usr/bin/python3"):
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            subprocess.run([python, "-c", "import ensurepip"], check=True, cwd="/", **_ordinary())
            return python
    raise RuntimeError("no Python here can be started by an ordinary user")


class Machine:
    """A folder that plays the container's file system, and a virtual environment that plays its Python.

    Args:
        folder: Empty, and such that any user may look into it.
        arguments: Values for ARG instructions.
    """

    def __init__(self, folder: Path, arguments: dict[str, str]) -> None:
        self.folder = folder
        self.arguments = arguments
        self.variables: dict[str, str] = {}
        self.place = "/"
        self.done: list[str] = []
        subprocess.run([interpreter(), "-m", "venv", str(folder / "venv")], check=True)

    def build(self, stage: Stage) -> None:
        """Carry out its steps."""
        for step in stage.steps:
            if step.name == "ARG":
                name, _, value = step.text.partition("=")
                self.variables[name] = self.arguments.get(name, value)
            elif step.name == "ENV":
                self.variables.update(word.split("=", 1) for word in step.words)
            elif step.name == "WORKDIR":
                self.place = step.text
                self.here(step.text).mkdir(parents=True, exist_ok=True)
            elif step.name == "COPY":
                self._copy(step.words)
            elif step.name == "RUN":
                self._run(step.text)

    def here(self, path: str) -> Path:
        """Where a path of the container is."""
        return self.folder / path.lstrip("/") if path.startswith("/") else self.here(self.place) / path

    def start(self, words: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the working folder, as the image's user if we may."""
        return subprocess.run(
            [str(self.folder / "venv" / "bin" / words[0]), *words[1:]], cwd=self.here(self.place), text=True,
            env={**self._environment(), **variables}, capture_output=True, timeout=300, check=False,
            **_ordinary(),
        )  # fmt: skip

    def _copy(self, words: list[str]) -> None:
        target = self.here(words[-1])
        for name in words[:-1]:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "local"))
            else:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copy(source, target)

    def _run(self, text: str) -> None:
        if "apt-get install" in text:
            packages = text.partition("--no-install-recommends ")[2].partition(" && ")[0].split()
            assert packages
            if shutil.which("apt-get"):  # they exist; whether they are installed here is not our business
                subprocess.run(
                    ["apt-get", "install", "--simulate", *packages], check=True, capture_output=True
                )
            self.done.append("apt-get")
            return
        if text.startswith("useradd"):
            for name in re.findall(r" (/\w+)", text.partition("install -d")[2]):
                self.here(name).mkdir(exist_ok=True)
                if os.getuid() == 0:
                    os.chown(self.here(name), _UID, _UID)
            self.done.append("useradd")
            return
        line = re.sub(r"(?<![\w/])/opt/", f"{self.folder}/opt/", text)
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=self.here(self.place), env=self._environment(),
            text=True, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        self.done.append(line.split()[0])

    def _environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if k.startswith(("PIP_", "SSL_", "HTTP", "LANG"))}
        path = f"{self.folder}/venv/bin:/usr/bin:/bin"
        return {**kept, "HOME": str(self.folder / "home"), **self.variables, "PATH": path}


@pytest.fixture(scope="module")
def machine():
    folder = Path(tempfile.mkdtemp(prefix="image."))
    folder.chmod(0o755)
    try:
        made = Machine(folder, {"DEBIAN_SNAPSHOT": "", "TORCH_INDEX": ""})
        made.build(read(ROOT / "docker" / "cpu.Dockerfile")[0])
        yield made
    finally:
        shutil.rmtree(folder)


@pytest.mark.slow
def test_every_step_is_carried_out_and_every_entry_point_starts(machine):
    stage = read(ROOT / "docker" / "cpu.Dockerfile")[0]
    assert machine.done == ["sh", "apt-get", "pip", "pip", "useradd"]
    assert machine.place == "/workspace"
    entry = stage.last("ENTRYPOINT").words
    shown = machine.start([*entry, *stage.last("CMD").words])
    assert shown.returncode == 0, shown.stderr
    assert "method" in shown.stdout
    health = stage.last("HEALTHCHECK").text.partition("CMD ")[2]
    assert machine.start(json.loads(health)).returncode == 0

    services = composed()["services"]
    words = [word for word in services["worker"]["command"] if not word.startswith("tracker.uri")]
    done = machine.start([*entry, *words])
    assert done.returncode == 0, done.stdout + done.stderr
    (status,) = machine.here("/workspace").glob("runs/*/*/*/status.json")
    assert json.loads(status.read_text())["state"] == "finished"
    assert (machine.here("/workspace") / "mlflow.db").exists()
    assert os.getuid() != 0 or status.stat().st_uid == _UID  # an ordinary user can do it
    for env in ("continual_dmc", "continual_ale", "continual_procgen", "open_craftax"):
        done = machine.start([*entry, f"env={env}", "--cfg", "job"])
        assert done.returncode == 0, done.stderr
    code = "import dm_control, ale_py, craftax, psycopg2; from procgen import ProcgenGym3Env"
    assert machine.start(["python", "-c", code]).returncode == 0
    server = machine.start([*services["mlflow"]["entrypoint"], "--help"])
    for option in (word.partition("=")[0] for word in services["mlflow"]["command"]):
        assert f"{option} " in server.stdout, option
