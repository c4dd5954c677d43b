"""How many processor cores this process may use, and how many of them belong to one run."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SHARE", "run_cores", "usable_cores"]

#: Environment variable by which a pool of parallel runs tells each run its share of the cores.
SHARE = "PLASTICINE_CORES"


def usable_cores(cgroup_root: Path = Path("/sys/fs/cgroup")) -> int:
    """Return the cores this process may use: its affinity mask, cut by the quota of its control group."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for quota in _quotas(cgroup_root) if quota > 0]
    return max(1, min([allowed, *(int(quota) for quota in quotas)]))


def run_cores() -> int:
    """Return the cores of the run in this process: its share in a pool of runs, else all usable ones."""
    share = os.environ.get(SHARE, "")
    return int(share) if share.isdecimal() and int(share) > 0 else usable_cores()


def _quotas(root: Path) -> list[float]:
    """Return the CPU quotas (in cores) of this process's control groups, version 2 then version 1."""
    found = []
    folder = root
    try:
        own = Path("/proc/self/cgroup").read_text(encoding="ascii").strip().splitlines()[-1].split(":", 2)[2]
        folder = root / own.lstrip("/")
    except (OSError, IndexError):
        pass  # not Linux, or no control groups: the root alone is looked at
    for path in (folder, *folder.parents):
        try:
            quota, period = (path / "cpu.max").read_text(encoding="ascii").split()
            if quota != "max":
                found.append(float(quota) / float(period))
        except (OSError, ValueError):
            pass  # this level sets no quota
        if path == root:
            break
    try:
        quota = (root / "cpu/cpu.cfs_quota_us").read_text(encoding="ascii")
        period = (root / "cpu/cpu.cfs_period_us").read_text(encoding="ascii")
        found.append(float(quota) / float(period))
    except (OSError, ValueError):
        pass  # version 2 only
    return found
