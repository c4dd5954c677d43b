"""`plasticine doctor`: each known problem is found and comes with its repair."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from plasticine.cli import doctor
from plasticine.cli.main import main
from plasticine.doctor import machine, packages
from plasticine.doctor.check import Check
from plasticine.doctor.packages import CONFLICTS, PYTHON, REQUIRED, check_packages
from plasticine.doctor.store import check_store

GOOD = {
    "torch": "2.13.0+cpu",
    "numpy": "1.26.4",
    "hydra-core": "1.3.8",
    "omegaconf": "2.3.1",
    "gymnasium": "1.4.0",
    "mlflow": "3.17.2",
    "matplotlib": "3.11.2",
    "pillow": "13.0.0",
    "pyarrow": "25.0.1",
    "rich": "15.0.0",
    "scipy": "1.17.1",
    "submitit": "1.5.4",
    "dm-control": "1.0.50",
    "mujoco": "3.17.0",
    "ale-py": "0.12.1",
    "procgen-mirror": "0.10.7",
    "jax": "0.7.1",
    "craftax": "1.6.1",
    "pandas": "3.0.6",
    "pygame": "2.6.1",
}


def problems(versions: dict[str, str], python: str = "3.11.7") -> list[Check]:
    return [c for c in check_packages(versions, python) if c.severity in ("warning", "error")]


def test_a_good_installation_has_no_problem():
    checks = check_packages(GOOD, "3.12.1")
    assert {c.severity for c in checks} == {"ok"}
    assert {"python", "torch", "procgen-mirror", "craftax"} <= {c.name for c in checks}


@pytest.mark.parametrize(
    ("change", "found", "fix"),
    [
        ({"mujoco": "4.0.0"}, "mujoco 4.0.0 with dm-control 1.0.50", "mujoco>=3.17,<4"),
        ({"mujoco-core": "4.0.0"}, "mujoco 3.17.0 with mujoco-core 4.0.0", "new virtual environment"),
        ({"mujoco-studio": "4.0.0"}, "mujoco 3.17.0 with mujoco-studio 4.0.0", "new virtual environment"),
        ({"numpy": "2.5.5"}, "numpy 2.5.5 with procgen-mirror 0.10.7", "numpy<2"),
        ({"numpy": "2.5.5", "procgen": "0.10.7"}, "numpy 2.5.5 with procgen 0.10.7", "numpy<2"),
        ({"omegaconf": "2.4.0"}, "omegaconf 2.4.0 with hydra-core 1.3.8", "omegaconf>=2.3,<2.4"),
        ({"pygame-ce": "2.5.0"}, "pygame 2.6.1 with pygame-ce 2.5.0", "pip uninstall -y pygame pygame-ce"),
        ({"rliable": "1.2.0"}, "pandas 3.0.6 with rliable 1.2.0", "pandas<3"),
    ],
)
def test_each_known_conflict(change, found, fix):
    conflicts = [c for c in problems({**GOOD, **change}) if c.name == "conflict" and found in c.found]
    assert len(conflicts) == 1
    assert fix in conflicts[0].fix
    assert conflicts[0].severity == ("warning" if "rliable" in change else "error")


def test_every_conflict_of_the_table_is_tried_above():
    assert len(CONFLICTS) == 8
    assert all(c.fix and c.why for c in CONFLICTS)


def test_the_new_mujoco_alone_and_rliable_with_an_older_pandas_are_fine():
    alone = {k: v for k, v in GOOD.items() if k != "dm-control"}
    assert problems({**alone, "mujoco": "4.0.0", "mujoco-core": "4.0.0"}) == []
    assert problems({**GOOD, "pandas": "2.3.0", "rliable": "1.2.0"}) == []


def test_missing_and_old_packages():
    (missing,) = problems({k: v for k, v in GOOD.items() if k != "mlflow"})
    assert missing == Check("mlflow", "error", "not installed", 'pip install "mlflow>=3.13,<4"')
    (old,) = problems({**GOOD, "torch": "1.13.1"})
    assert "needs >=2.4" in old.found
    (python,) = problems(GOOD, "3.13.0")
    assert python.name == "python"


def test_optional_packages_are_told_with_their_command():
    checks = check_packages({k: v for k, v in GOOD.items() if k in REQUIRED}, "3.11.7")
    told = {c.name: c.fix for c in checks if c.severity == "info"}
    assert set(told) == {"dm-control", "mujoco", "ale-py", "procgen-mirror", "jax", "craftax"}
    assert all(fix.startswith("pip install") for fix in told.values())


def test_the_ranges_are_those_of_the_package():
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    declared = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    assert {name: SpecifierSet(text) for name, text in REQUIRED.items()} == declared
    assert SpecifierSet(project["requires-python"]) == SpecifierSet(PYTHON)


def test_names_of_installed_packages_are_normalised():
    found = packages.installed_packages()
    assert found["hydra-core"].startswith("1.3")
    assert all(name == name.lower() and "_" not in name for name in found)


@pytest.mark.parametrize(("kind", "severity"), [("nfs4", "warning"), ("lustre", "warning"), ("ext4", "ok")])
def test_network_file_systems_are_warned_about(tmp_path, kind, severity):
    shared = tmp_path / "scratch space"
    (shared / "me").mkdir(parents=True)
    point = str(shared).replace(" ", r"\040")
    table = f"1 0 0:1 / / rw - ext4 /dev/a rw\n2 1 0:2 / {point} rw shared:1 - {kind} server:/x rw\n"
    mounts = tmp_path / "mountinfo"
    mounts.write_text(table)
    check = machine.check_file_system(shared / "me", mounts)
    assert (check.severity, kind in check.found) == (severity, True)
    assert ("plasticine sync" in check.fix) == (severity == "warning")
    assert machine.check_file_system(tmp_path, mounts).severity == "ok"


def test_limits_of_the_cgroup(tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text("150000 100000\n")
    (tmp_path / "memory.max").write_text(str(2**30))
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    cpu = machine.check_cpu(tmp_path)
    assert "cgroup limit 1.5" in cpu.found
    assert "OMP_NUM_THREADS=3" in cpu.found
    memory = machine.check_memory(tmp_path)
    assert (memory.severity, memory.found) == ("warning", "1.0 GiB")
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert "cgroup" not in machine.check_cpu(tmp_path).found
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 8388608 kB\nMemFree: 1 kB\n")
    assert machine.check_memory(tmp_path, meminfo).found == "8.0 GiB"


def test_a_runs_folder_that_cannot_be_written(tmp_path, monkeypatch):
    assert machine.check_folder(tmp_path / "a" / "b").severity == "ok"
    assert not (tmp_path / "a").exists()

    def refuse(dir: Path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(machine.tempfile, "NamedTemporaryFile", refuse)
    check = machine.check_folder(tmp_path)
    assert check.severity == "error"
    assert "Permission denied" in check.found


def test_the_store_is_really_tried(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    assert check_store().severity == "ok"


def test_a_broken_mlflow_is_an_error_with_its_last_words(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'Traceback' >&2; echo 'ImportError: no mlflow' >&2; exit 1\n")
    python.chmod(0o755)
    check = check_store(str(python))
    assert (check.severity, check.found) == ("error", "ImportError: no mlflow")
    assert "tracker=local" in check.fix


def test_gpu_or_none_is_no_problem():
    assert machine.check_gpu().severity in ("ok", "info")


@pytest.mark.parametrize("bad", [False, True])
def test_exit_code_and_json(monkeypatch, capsys, bad):
    checks = [Check("a", "ok", "1"), Check("b", "info", "2", "do")]
    checks += [Check("c", "error", "broken [thing]", "pip install 'x>1'")] if bad else []
    monkeypatch.setattr(doctor, "diagnose", lambda _: checks)
    assert main(["doctor"]) == int(bad)
    out = capsys.readouterr().out
    assert ("broken [thing]" in out) == bad
    assert ("fix: pip install 'x>1'" in out) == bad
    assert main(["doctor", "--json"]) == int(bad)
    content = json.loads(capsys.readouterr().out)
    assert content["ok"] == (not bad)
    assert content["checks"][1] == {"name": "b", "severity": "info", "found": "2", "fix": "do"}


def test_every_check_is_made(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "check_store", lambda: Check("MLflow store", "ok", ""))
    names = [check.name for check in doctor.diagnose(tmp_path)]
    for name in (
        "python",
        "torch",
        "MLflow store",
        "runs folder",
        "file system",
        "processors",
        "memory",
        "GPU",
    ):
        assert name in names
