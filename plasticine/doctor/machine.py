"""The machine: processors, memory, file system, graphics card."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from plasticine.doctor.check import Check

__all__ = ["check_cpu", "check_file_system", "check_folder", "check_gpu", "check_memory"]

#: File systems on which SQLite's locks are not reliable.
_SHARED = {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "fuse.sshfs", "afs", "9p"}
_GIB = 2**30


def check_folder(runs_dir: Path) -> Check:
    """Check that runs can be written to `runs_dir`, or to where it would be made."""
    folder = runs_dir.absolute()
    while not folder.exists():
        folder = folder.parent
    try:
        with tempfile.NamedTemporaryFile(dir=folder):
            pass
    except OSError as error:
        fix = "change its permissions, or start from another folder, or give runs_dir=<folder>"
        return Check("runs folder", "error", f"cannot write to {folder}: {error.strerror}", fix)
    return Check("runs folder", "ok", str(runs_dir.absolute()))


def check_file_system(folder: Path, mountinfo: Path = Path("/proc/self/mountinfo")) -> Check:
    """Warn if `folder`, where ``mlflow.db`` would be, is on a network file system.

    Args:
        folder: Folder of the launch.
        mountinfo: Table of mounts in the format of proc(5); systems without one are not checked.
    """
    if not mountinfo.exists():
        return Check("file system", "info", "unknown on this system")
    kind, longest = "unknown", -1
    resolved = folder.resolve()
    for line in mountinfo.read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = Path(left.split()[4].encode().decode("unicode_escape"))
        if resolved.is_relative_to(point) and len(point.parts) >= longest:
            kind, longest = right.split()[0], len(point.parts)
    if kind in _SHARED:
        return Check(
            "file system",
            "warning",
            f"{resolved} is on {kind}: SQLite can lose data when several machines write",
            "tracker.uri=sqlite:////<local disk>/mlflow.db or =http://<server>; or tracker=local and "
            "`plasticine sync` on one machine afterwards",
        )
    return Check("file system", "ok", kind)


def check_cpu(cgroup: Path = Path("/sys/fs/cgroup")) -> Check:
    """Report processors of the machine, those this process may use, and the limit of its cgroup."""
    total = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total
    quota = _cpu_quota(cgroup)
    parts = [f"{total} in the machine", f"{usable} usable"]
    if quota is not None:
        parts.append(f"cgroup limit {quota:.3g}")
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None:
        parts.append(f"OMP_NUM_THREADS={threads}")
    return Check("processors", "ok", ", ".join(parts))


def check_memory(
    cgroup: Path = Path("/sys/fs/cgroup"), meminfo: Path = Path("/proc/meminfo"), needed: int = 2 * _GIB
) -> Check:
    """Report the memory this process may use; warn below `needed` bytes."""
    limits = []
    if meminfo.exists():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        limits.append(int(rows["MemTotal"].split()[0]) * 1024)
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        path = cgroup / name
        if path.exists() and path.read_text().strip().isdigit():
            limits.append(int(path.read_text()))
    if not limits:
        return Check("memory", "info", "unknown on this system")
    found = f"{min(limits) / _GIB:.1f} GiB"
    if min(limits) < needed:
        fix = "one run needs about 1 GiB: use launcher.workers=1, or ask for more memory"
        return Check("memory", "warning", found, fix)
    return Check("memory", "ok", found)


def check_gpu() -> Check:
    """Report CUDA devices as PyTorch sees them; none is no problem."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return Check("torch import", "error", str(error), 'pip install --force-reinstall "torch>=2.4"')
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return Check("GPU", "ok", ", ".join(names))
    built = torch.version.cuda
    reason = f"none seen (PyTorch for CUDA {built})" if built else "none (PyTorch for CPU)"
    return Check("GPU", "info", reason)


def _cpu_quota(cgroup: Path) -> float | None:
    path = cgroup / "cpu.max"
    if path.exists():
        quota, period = path.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    old = [cgroup / "cpu" / name for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")]
    if all(p.exists() for p in old):
        limit, per = (int(p.read_text()) for p in old)
        return limit / per if limit > 0 else None
    return None
