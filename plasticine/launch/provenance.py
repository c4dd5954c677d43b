"""Where a run came from: the command, the code, the packages, the machine."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import plasticine
from plasticine.launch.cores import usable_cores

__all__ = ["Provenance", "gather", "moved_here"]

#: Packages that can change numbers.
_PACKAGES = (
    "plasticine", "torch", "numpy", "gymnasium", "mujoco", "dm-control", "ale-py", "procgen", "procgen-mirror",
    "envpool", "craftax", "jax", "hydra-core", "omegaconf", "mlflow",
)  # fmt: skip
_DIFF_LIMIT = 4_000_000


class Provenance(NamedTuple):
    """Facts for provenance.json, and the uncommitted changes for git.diff (empty if there are none)."""

    facts: dict[str, Any]
    diff: str


def gather(command: Sequence[str], launch_dir: Path) -> Provenance:
    """Collect what is needed to do a launch again. Takes tens of milliseconds; imports nothing numerical."""
    sources = {"launch_dir": launch_dir, "plasticine": Path(plasticine.__file__).parent}
    repositories: dict[str, Any] = {}
    diffs: dict[str, str] = {}
    for name, folder in sources.items():
        root = _git(folder, "rev-parse", "--show-toplevel")
        if root is None:
            repositories[name] = None
            continue
        revision = _git(folder, "rev-parse", "HEAD")
        diff = diffs.get(root)
        if diff is None:
            diff = diffs[root] = _git(Path(root), "diff", "HEAD") or ""
        repositories[name] = {"root": root, "revision": revision, "dirty": bool(diff)}
    text = "".join(f"# repository {root}\n{diff}\n" for root, diff in diffs.items() if diff)
    facts = {
        "time": _now(),
        "command": shlex.join(command),
        "launch_dir": str(launch_dir),
        "git": repositories,
        "diff_sha1": hashlib.sha1(text.encode()).hexdigest() if text else None,
        "diff_cut": len(text) > _DIFF_LIMIT,
        "packages": _packages(),
        "python": sys.version.split()[0],
        "host": socket.gethostname(),
        "hardware": _hardware(),
    }
    return Provenance(facts, text[:_DIFF_LIMIT])


def moved_here(facts: Mapping[str, Any], job: str | None) -> dict[str, Any]:
    """Return the facts of a launch for a run that its cluster carries out on this machine, in job `job`."""
    here = {"time": _now(), "host": socket.gethostname(), "hardware": _hardware(), "packages": _packages()}
    return {**facts, "submitted": {"time": facts["time"], "host": facts["host"]}, **here, "slurm_job": job}


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _git(folder: Path, *arguments: str) -> str | None:
    """Return the output of a git command, None if git or the repository is not there."""
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True, timeout=20, check=False, env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )  # fmt: skip
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else None


def _packages() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # optional, not installed
    return found


def _hardware() -> dict[str, Any]:
    model = None
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        model = next(
            (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None
        )
    except OSError:
        pass  # not Linux
    memory = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "machine": platform.machine(),
        "system": platform.platform(),
        "cpu": model,
        "usable_cores": usable_cores(),
        "memory_bytes": memory,
    }
