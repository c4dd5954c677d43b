"""How much of this machine the runs of a launch may use."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from typing import Any

from plasticine.core.cores import SHARE, usable_cores
from plasticine.errors import UserError

__all__ = ["gpu_names", "pool_size", "usable_cores", "worker_environment"]


def gpu_names() -> list[str]:
    """Return what CUDA_VISIBLE_DEVICES may hold here, without importing torch: the variable, or all devices."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [name.strip() for name in visible.split(",") if name.strip()]
    return [str(index) for index in range(_installed_gpus())]


@functools.cache
def _installed_gpus() -> int:
    if shutil.which("nvidia-smi") is None:
        return 0
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout
    return sum(line.startswith("GPU ") for line in listing.splitlines())


def pool_size(config: dict[str, Any], runs: int) -> int:
    """Return how many runs go in parallel.

    Args:
        config: Plain configuration of (any) one run; ``launcher.workers`` is a number or ``auto``.
        runs: Number of runs there are.

    Raises:
        UserError: ``launcher.workers`` is neither ``auto`` nor a positive integer, or there is no CUDA device.
    """
    wanted = config["launcher"]["workers"]
    threads = max(1, int(config["compute"]["threads"]))
    if wanted == "auto":
        size = usable_cores() // threads
        if str(config["compute"]["device"]).startswith("cuda"):
            devices = len(gpu_names())
            if devices == 0:
                raise UserError("compute.device=cuda, but no CUDA device is visible", "use compute=cpu")
            size = min(size, devices * int(config["launcher"]["runs_per_gpu"]))
    elif isinstance(wanted, int) and not isinstance(wanted, bool) and wanted > 0:
        size = wanted
    else:
        raise UserError(f"launcher.workers={wanted!r} is not a number of processes", "use auto, or 1, 2, ...")
    return max(1, min(size, runs))


def worker_environment(compute: dict[str, Any], index: int, processes: int = 1) -> dict[str, str]:
    """Return the variables a process needs before it imports anything numerical.

    Args:
        compute: The ``compute`` section of the run's configuration.
        index: Number of the worker; workers take the visible devices in turn.
        processes: Workers there are. If several, each is told its share of the cores.
    """
    threads = str(int(compute["threads"]))
    found = {"MLFLOW_DISABLE_TELEMETRY": "true", "PYTHONUNBUFFERED": "1"}
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        found[name] = threads
    if processes > 1:
        found[SHARE] = str(max(int(threads), usable_cores() // processes))
    if compute["device"] == "cuda":
        names = gpu_names()
        if names:
            found["CUDA_VISIBLE_DEVICES"] = names[index % len(names)]
    return found
