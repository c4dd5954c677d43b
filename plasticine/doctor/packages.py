"""Packages: what is needed, what is optional, and which ones do not work together."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from packaging.specifiers import SpecifierSet

from plasticine.doctor.check import Check, Severity

__all__ = ["CONFLICTS", "OPTIONAL", "PYTHON", "REQUIRED", "Conflict", "check_packages", "installed_packages"]

PYTHON = ">=3.10,<3.13"

#: The same ranges as in pyproject.toml; a test compares them.
REQUIRED = {
    "torch": ">=2.4",
    "numpy": ">=1.24,<2",
    "hydra-core": ">=1.3.5,<1.4",
    "omegaconf": ">=2.3,<2.4",
    "gymnasium": ">=1.1,<2",
    "mlflow": ">=3.13,<4",
    "matplotlib": ">=3.8",
    "pandas": ">=2",
    "pillow": ">=10",
    "pyarrow": ">=14",
    "rich": ">=13",
    "scipy": ">=1.11",
    "submitit": ">=1.5.4,<1.6",
}


class Optional(NamedTuple):
    """A package for one purpose: distribution names that provide it, what for, how to install it."""

    names: tuple[str, ...]
    purpose: str
    install: str


_DMC = 'pip install "dm-control>=1.0.50" "mujoco>=3.17,<4"'
OPTIONAL = (
    Optional(("dm-control",), "DeepMind Control levels", _DMC),
    Optional(("mujoco",), "DeepMind Control levels", _DMC),
    Optional(("ale-py",), "Atari levels", 'pip install "ale-py>=0.11"'),
    Optional(("procgen", "procgen-mirror"), "Procgen levels", 'pip install "procgen-mirror>=0.10.7"'),
    Optional(("jax",), "Craftax levels", 'pip install "craftax>=1.6.1"'),
    Optional(("craftax",), "Craftax levels", 'pip install "craftax>=1.6.1"'),
)


class Conflict(NamedTuple):
    """Packages that break each other when all of them are installed in these versions (empty: any)."""

    packages: Mapping[str, str]
    why: str
    fix: str
    severity: Severity = "error"


_CLEAN = "in a new virtual environment: "
CONFLICTS = (
    Conflict(
        {"mujoco": ">=4", "dm-control": ""},
        "dm-control 1.0 does not import with MuJoCo 4",
        _CLEAN + _DMC,
    ),
    Conflict(
        {"mujoco": "<4", "mujoco-core": ""},
        "mujoco-core was left behind by MuJoCo 4 and owns files of this MuJoCo",
        _CLEAN + _DMC,
    ),
    Conflict(
        {"mujoco": "<4", "mujoco-studio": ""},
        "mujoco-studio was left behind by MuJoCo 4 and owns files of this MuJoCo",
        _CLEAN + _DMC,
    ),
    Conflict({"numpy": ">=2", "procgen": ""}, "procgen needs NumPy 1", 'pip install "numpy<2"'),
    Conflict({"numpy": ">=2", "procgen-mirror": ""}, "procgen-mirror needs NumPy 1", 'pip install "numpy<2"'),
    Conflict(
        {"omegaconf": ">=2.4", "hydra-core": "<1.4"},
        "Hydra 1.3 needs OmegaConf 2.3",
        'pip install "omegaconf>=2.3,<2.4"',
    ),
    Conflict(
        {"pygame": "", "pygame-ce": ""},
        "both install the module pygame over each other",
        "pip uninstall -y pygame pygame-ce && pip install pygame",
    ),
    Conflict(
        {"pandas": ">=3", "rliable": ""},
        "rliable does not import with pandas 3 (Plasticine does not need it)",
        "pip uninstall -y rliable, or use it in an environment of its own with pandas<3",
        "warning",
    ),
)


def installed_packages() -> dict[str, str]:
    """Return the version of every installed distribution by its normalised name."""
    found = ((d.metadata["Name"], d.version) for d in importlib.metadata.distributions())
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found if name}


def check_packages(versions: Mapping[str, str], python: str) -> list[Check]:
    """Check versions against the tables of this module.

    Args:
        versions: Version by normalised distribution name, e.g. from `installed_packages`.
        python: Version of Python, e.g. ``3.11.7``.
    """
    checks = [_check_python(python)]
    checks += [_check_required(name, wanted, versions.get(name)) for name, wanted in REQUIRED.items()]
    checks += [_check_optional(package, versions) for package in OPTIONAL]
    checks += _conflicts(CONFLICTS, versions)
    return checks


def _check_python(python: str) -> Check:
    if _within(python, PYTHON):
        return Check("python", "ok", python)
    return Check(
        "python", "error", f"{python}; needs {PYTHON}", "make a virtual environment with Python 3.11"
    )


def _check_required(name: str, wanted: str, version: str | None) -> Check:
    fix = f'pip install "{name}{wanted}"'
    if version is None:
        return Check(name, "error", "not installed", fix)
    if not _within(version, wanted):
        return Check(name, "error", f"{version}; needs {wanted}", fix)
    return Check(name, "ok", version)


def _check_optional(package: Optional, versions: Mapping[str, str]) -> Check:
    for name in package.names:
        if name in versions:
            return Check(name, "ok", versions[name])
    return Check(package.names[-1], "info", f"not installed; only for {package.purpose}", package.install)


def _conflicts(table: Iterable[Conflict], versions: Mapping[str, str]) -> list[Check]:
    found = []
    for conflict in table:
        if all(name in versions and _within(versions[name], s) for name, s in conflict.packages.items()):
            names = " with ".join(f"{name} {versions[name]}" for name in conflict.packages)
            found.append(Check("conflict", conflict.severity, f"{names}: {conflict.why}", conflict.fix))
    return found


def _within(version: str, wanted: str) -> bool:
    return SpecifierSet(wanted).contains(version, prereleases=True)
