"""What can happen to a sweep on a cluster, done to a real one: each fault strikes, and says whether it did."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from tests.slurm.cluster import Cluster
from tests.slurm.mlflow_server import MlflowServer

#: In words, in the order in which they are told.
KINDS = {
    "term": "TERM to a job, as a preemption sends it",
    "usr2": "USR2 to a job, as SLURM sends it ahead of the time limit",
    "kill": "kill -9 of the process of a run",
    "oom": "kill -9 of the main process of a job",
    "scancel": "scancel of a job",
    "requeue": "scontrol requeue of a job",
    "node": "loss of the node with all its jobs, and its return",
    "controller": "restart of SLURM's controller",
    "submitter": "kill -9 of the command that is attached",
    "server": "kill -9 of the MLflow server, and its return",
    "disk": "the disk of the run folders is full for a while",
    "clock": "the clock of the jobs jumps by up to two days, either way",
}
_LIBRARY = "/usr/lib/*/faketime/libfaketime.so.1"


class Disk:
    """A small file system of its own for the run folders.

    Args:
        folder: Where it is mounted.
        size: In MB.
    """

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}m,mode=755", "chaos", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self.mounted = done.returncode == 0

    def fill(self) -> bool:
        """Take what is free, to the last byte."""
        if not self.mounted:
            return False
        with open(self.folder / ".filler", "wb", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                with contextlib.suppress(OSError):
                    while True:
                        file.write(bytes(size))
        return shutil.disk_usage(self.folder).free == 0

    def free(self) -> None:
        """Give it back."""
        (self.folder / ".filler").unlink(missing_ok=True)

    def unmount(self) -> None:
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False)


class Clock:
    """The wall clock that jobs see; the monotonic one is left alone, as it is when a real clock is set.

    Args:
        folder: For the file that holds the offset.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "clock"
        self.library = next(Path("/").glob(_LIBRARY[1:]), None)
        self.set(0)

    def set(self, seconds: int) -> None:
        """Shift it against the true time."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.replace(self.file)

    @staticmethod
    def forget() -> None:
        """Remove the shared memory that the library leaves behind for processes that are killed."""
        for path in Path("/dev/shm").glob("*faketime_s*_*"):
            if not Path("/proc", path.name.rpartition("_")[2]).exists():
                path.unlink(missing_ok=True)

    @property
    def variables(self) -> dict[str, str]:
        """What a process needs to see it."""
        return {
            "LD_PRELOAD": str(self.library), "FAKETIME_TIMESTAMP_FILE": str(self.file), "NO_FAKE_STAT": "1",
            "FAKETIME_CACHE_DURATION": "1", "DONT_FAKE_MONOTONIC": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip


class Faults:
    """All of them, and what they need to strike.

    Args:
        runs_dir: Folder of the runs.
        cluster, server, disk, clock: What can fail.
        submitter: Returns the process id of the command that is attached, None if there is none.
    """

    def __init__(
        self, runs_dir: Path, cluster: Cluster, server: MlflowServer, disk: Disk, clock: Clock,
        submitter: Callable[[], int | None],
    ) -> None:  # fmt: skip
        self.struck: Counter[str] = Counter()
        self._runs_dir = runs_dir
        self._cluster = cluster
        self._server = server
        self._disk = disk
        self._clock = clock
        self._submitter = submitter
        self._mends: list[tuple[float, str, Callable[[], object]]] = []
        self._kinds: dict[str, Callable[[random.Random], bool]] = {
            "term": self._term, "usr2": self._usr2, "kill": self._kill, "oom": self._oom,
            "scancel": self._scancel, "requeue": self._requeue, "node": self._node,
            "controller": self._controller, "submitter": self._attached, "server": self._store,
            "disk": self._full, "clock": self._jump,
        }  # fmt: skip

    def possible(self) -> list[str]:
        """Kinds that this machine allows."""
        left_out = {"disk": not self._disk.mounted, "clock": self._clock.library is None}
        return [kind for kind in KINDS if not left_out.get(kind, False)]

    def strike(self, kind: str, chance: random.Random) -> bool:
        """Let a fault happen; returns whether there was something for it to hit."""
        if self._pending(kind):
            return False  # it is still going on
        hit = self._kinds[kind](chance)
        self.struck[kind] += hit
        return hit

    def mend(self, everything: bool = False) -> None:
        """Bring back what has been away for long enough."""
        for item in list(self._mends):
            if everything or time.monotonic() >= item[0]:
                self._mends.remove(item)
                item[2]()

    def running(self) -> list[dict]:
        """Runs that a process of a job is at, in the order of their folders; what their status.json says."""
        found = []
        for path in sorted(self._runs_dir.glob("*/*/seed=*/status.json")):
            with contextlib.suppress(OSError, ValueError):
                status = json.loads(path.read_text())
                if status["state"] == "running" and status["slurm_job"] and _parent(status["pid"]):
                    found.append(status)
        return found

    def _later(self, kind: str, seconds: float, mend: Callable[[], object]) -> None:
        self._mends.append((time.monotonic() + seconds, kind, mend))

    def _pending(self, kind: str) -> bool:
        """Whether a fault of this kind has still to be mended."""
        return any(waiting == kind for _, waiting, _ in self._mends)

    def _victim(self, chance: random.Random) -> dict | None:
        running = self.running()
        return chance.choice(running) if running else None

    def _client(self, chance: random.Random, *words: str) -> bool:
        run = self._victim(chance)
        if run is not None:
            self._cluster.client([*words, run["slurm_job"]])
        return run is not None

    # -- one method for each kind ------------------------------------------------------------------------------
    def _term(self, chance: random.Random) -> bool:
        return self._client(chance, "scancel", "--signal=TERM")

    def _usr2(self, chance: random.Random) -> bool:
        return self._client(chance, "scancel", "--signal=USR2")

    def _scancel(self, chance: random.Random) -> bool:
        return self._client(chance, "scancel")

    def _requeue(self, chance: random.Random) -> bool:
        return self._client(chance, "scontrol", "requeue")

    def _kill(self, chance: random.Random) -> bool:
        run = self._victim(chance)
        return run is not None and _end(run["pid"])

    def _oom(self, chance: random.Random) -> bool:
        run = self._victim(chance)
        return run is not None and _end(_parent(run["pid"]))

    def _node(self, chance: random.Random) -> bool:
        if not self.running() or self._pending("controller"):
            return False  # a controller that is away would not hear of the loss, and count on the jobs for minutes
        self._cluster.lose_node()
        self._later("node", chance.uniform(0.5, 3), self._cluster.start_node)
        return True

    def _controller(self, chance: random.Random) -> bool:
        if self._pending("node"):
            return False
        self._cluster.stop_controller()
        self._later("controller", chance.uniform(0, 3), self._cluster.start_controller)
        return True

    def _attached(self, chance: random.Random) -> bool:
        return _end(self._submitter())

    def _store(self, chance: random.Random) -> bool:
        self._server.kill()
        self._later("server", chance.uniform(1, 6), self._server.start)
        return True

    def _full(self, chance: random.Random) -> bool:
        if not self.running():
            return False
        full = self._disk.fill()
        self._later("disk", chance.uniform(1, 4), self._disk.free)
        return full

    def _jump(self, chance: random.Random) -> bool:
        if not self.running():
            return False
        self._clock.set(chance.randint(-2 * 86400, 2 * 86400))
        return True


def _parent(pid: int) -> int | None:
    """Parent of a living process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[1]) if fields[0] != "Z" else None


def _end(pid: int | None) -> bool:
    if pid is None or pid <= 1:
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
