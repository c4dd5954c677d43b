"""What ``docs/add_*.md`` tell works as it stands there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.outsider.pages import PAGES, commands, shell, write_files


def test_there_is_a_page_for_every_kind_of_part(tmp_path):
    files = {str(p.relative_to(tmp_path)) for p in write_files(tmp_path)}
    assert {p.name for p in PAGES} == {
        "add_a_method.md",
        "add_a_metric.md",
        "add_an_agent.md",
        "add_an_env.md",
    }
    for kind, folder in (
        ("method",) * 2,
        ("metric", "metrics"),
        ("agent",) * 2,
        ("env",) * 2,
        ("network",) * 2,
    ):
        assert f"my_{kind}.py" in files
        assert f"my_conf/{folder}/my_{folder}.yaml" in files


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "add_a_method.md"], ids=lambda p: p.stem)
def test_commands_of_the_page_work(page: Path, tmp_path: Path) -> None:
    write_files(tmp_path)
    lines = commands(page)
    assert len(lines) >= 2
    assert "pytest" in lines[-1]
    for line in lines:
        done = shell(line, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    states = [json.loads(p.read_text())["state"] for p in tmp_path.glob("runs/*/*/*/status.json")]
    assert states == ["finished"] * (len(lines) - 1)


def test_the_metric_is_recorded_beside_those_there_are(tmp_path: Path) -> None:
    write_files(tmp_path)
    line = next(c for c in commands(next(p for p in PAGES if p.stem == "add_a_metric")) if "metrics=" in c)
    assert shell(f"{line} env.steps_per_task=512 agent.num_steps=32", tmp_path).returncode == 0
    (folder,) = tmp_path.glob("runs/*/*/*")
    rows = [json.loads(row) for row in (folder / "metrics.jsonl").read_text().splitlines()]
    logged = {k for row in rows for k in row.get("m", {})}
    assert {f"plasticity/near_zero{end}" for end in ("", "/actor", "/critic")} <= logged
    assert "plasticity/rdu" in logged
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["metrics"]["set"]["near_zero"]["below"] == 1e-3
