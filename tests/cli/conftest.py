from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from plasticine.cell import run_dir
from plasticine.cli.run import main
from plasticine.launch import session

#: Two methods and a network of another package, so that these tests do not depend on which ones we ship.
OUTSIDE = {
    "method/squeeze.yaml": "squeeze: {_target_: outside.squeeze.Squeeze, amount: 0.5, every: 3, mode: 0-9}\n",
    "method/stretch.yaml": "stretch: {_target_: outside.stretch.Stretch, amount: 2.0}\n",
    "network/seeded.yaml": "_target_: plasticine.networks.catalog.mlp\nhidden: [8]\nsalt: ${seed}\n",
    "sweep/theirs.yaml": (
        "# @package _global_\n"
        "study: grid\n"
        "hydra: {mode: MULTIRUN, sweeper: {params: {method: 'vanilla,[squeeze,stretch]', seed: 0-2}}}\n"
    ),
}


class Result(NamedTuple):
    code: int
    out: str
    err: str
    configs: list[dict[str, Any]]
    several: bool | None
    dirs: list[Path]


class CommandLineRunner:
    """Runs the command line in this process in an empty folder; launching only notes what was to be run."""

    def __init__(
        self, folder: Path, outside: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
    ) -> None:
        self.folder = folder
        self.outside = outside
        self._capsys = capsys
        self._seen: list[tuple[list[dict[str, Any]], bool]] = []
        monkeypatch.chdir(folder)
        monkeypatch.setattr(session, "launch", self._launch)

    def _launch(
        self, configs: list[dict[str, Any]], launch_dir: Path, command: list[str], several: bool
    ) -> int:
        self._seen.append((configs, several))
        return 0

    def __call__(self, line: str, config_dir: bool = True) -> Result:
        self._seen.clear()
        code = main([*line.split(), *([f"--config-dir={self.outside}"] if config_dir else [])])
        captured = self._capsys.readouterr()
        assert list(self.folder.iterdir()) == [], "the command line left something behind"
        configs = [config for seen, _ in self._seen for config in seen]
        several = self._seen[0][1] if self._seen else None
        return Result(
            code, captured.out, captured.err, configs, several, [run_dir(c, self.folder) for c in configs]
        )


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    folder, outside = tmp_path / "empty", tmp_path / "outside"
    folder.mkdir()
    for name, text in OUTSIDE.items():
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_text(text)
    return CommandLineRunner(folder, outside, capsys, monkeypatch)
