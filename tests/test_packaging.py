"""The wheel alone is enough: built, installed into an empty environment, and run from an empty folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
GROUPS = ("conf", "launchers", "sweeps")


def quiet(*command: object, cwd: Path, **env: str) -> str:
    """Run a command that must succeed; return what it printed."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**kept, **env},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shipped() -> list[Path]:
    """Return the files below the YAML folders that git tracks or would track."""
    listed = quiet("git", "ls-files", "--cached", "--others", "--exclude-standard", *GROUPS, cwd=ROOT)
    return [Path(line) for line in listed.splitlines() if (ROOT / line).is_file()]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel of the working tree."""
    folder = tmp_path_factory.mktemp("wheel")
    quiet(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    (found,) = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bin folder of an environment in which the wheel is installed and the checkout is not."""
    env = tmp_path_factory.mktemp("env")
    quiet(sys.executable, "-m", "venv", "--without-pip", env, cwd=env)
    python = env / "bin" / "python"
    quiet(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=env
    )
    # Heavy dependencies are borrowed. A .pth line only adds a folder: the .pth files in it, such as that of the
    # editable installation, are not read.
    site = quiet(python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])", cwd=env).strip()
    Path(site, "borrowed.pth").write_text(f"{Path(numpy.__file__).parent.parent}\n", encoding="utf-8")
    return env / "bin"


def test_every_yaml_file_is_in_the_wheel(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    expected = {f"plasticine/_data/{path.as_posix()}" for path in shipped() if path.suffix == ".yaml"}
    assert len(expected) > 15
    packed = {name for name in names if name.endswith(".yaml")}
    assert packed == expected  # nothing is missing, and nobody's conf/local/*.yaml came along


def test_the_wheel_is_typed_and_licensed_and_has_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert "plasticine/py.typed" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert not [
        name for name in names if name.split("/")[0] not in ("plasticine",) and ".dist-info/" not in name
    ]


def test_private_yaml_is_left_out_of_the_wheel(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    quiet("git", "clone", "--quiet", "--shared", ROOT, copy, cwd=tmp_path)
    (copy / "pyproject.toml").write_bytes((ROOT / "pyproject.toml").read_bytes())
    (copy / "conf" / "local").mkdir(exist_ok=True)
    (copy / "conf" / "local" / "default.yaml").write_text("study: private\n", encoding="utf-8")
    quiet(
        sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, copy, cwd=tmp_path
    )
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "plasticine/_data/conf/run.yaml" in names
    assert "plasticine/_data/conf/local/default.yaml" not in names


def test_an_installed_wheel_runs_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    where = quiet(
        installed / "python", "-c", "import plasticine; print(plasticine.__file__)", cwd=tmp_path
    ).strip()
    assert Path(where).is_relative_to(installed.parent)
    quiet(
        installed / "plasticine-run", "env=classic", "budget=smoke", "tracker=local", "seed=3",
        cwd=tmp_path, OMP_NUM_THREADS="1",
    )  # fmt: skip
    (run_dir,) = tmp_path.glob("runs/default/vanilla.ppo.classic_cartpole-*/seed=3")
    status = json.loads((run_dir / "status.json").read_text(encoding="utf-8"))
    assert status["state"] == "finished"
    assert status["env_steps"] == status["total_env_steps"] > 0
    lines = [
        json.loads(line) for line in (run_dir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert any("train/episodic_return" in line.get("m", {}) for line in lines)
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}  # nothing else is left behind


def test_an_installed_wheel_helps(installed: Path, tmp_path: Path) -> None:
    text = quiet(installed / "plasticine-run", "--help", cwd=tmp_path)
    for path in shipped():
        if path.suffix == ".yaml" and path.parts[0] == "conf" and path.parts[1] == "method":
            assert path.stem in text
    assert "doctor" in quiet(installed / "plasticine", "--help", cwd=tmp_path)


# -- pinned versions -----------------------------------------------------------------------------------------
def pins(python: str) -> dict[str, str]:
    """Return ``{normalised name: version}`` of constraints.txt for a Python version."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            requirement = Requirement(line)  # refuses options, paths and editable lines
            assert requirement.url is None, line
            (exact,) = requirement.specifier
            assert exact.operator == "==", line
            if requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
                found[canonicalize_name(requirement.name)] = exact.version
    return found


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_every_requirement_is_pinned_within_its_range(python: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pinned = pins(python)
    extras = project["optional-dependencies"]
    for line in [*project["dependencies"], *extras["dmc"], *extras["dev"]]:
        requirement = Requirement(line)
        version = pinned[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{line} against {version}"
