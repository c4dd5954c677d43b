"""A private SLURM of one node on loopback: no systemd, no control groups, nothing of the machine's own touched.

    python tests/slurm/cluster.py up /tmp/slurm       prints the line to eval: export SLURM_CONF=...
    python tests/slurm/cluster.py down /tmp/slurm

Needs the programs of Debian's packages slurmctld, slurmd, slurm-client and munge. Runs as root or as any user;
its jobs then run as that user. It offers more processors than the machine may have, so that parallel jobs can be
seen on a small one.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel")
_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
_START = 20.0  # seconds for the node to become idle

_CONF = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# A requeued job waits until the credential of its last start has expired: 120 s if nothing is said.
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
{listen}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.log
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,default_queue_depth=1000,sched_interval=1
# An epilog, even an empty one, makes the end of each job start the next at once.
Epilog=/bin/true
ReturnToService=2
SlurmdParameters=config_overrides
EnforcePartLimits=ALL
KillWait=5
MinJobAge=3600
MaxJobCount=20000
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=4000 State=UNKNOWN
PartitionName=debug Nodes={host} Default=YES MaxTime=INFINITE DefaultTime=10 State=UP
"""


def missing_programs() -> list[str]:
    """Programs of SLURM and munge that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name, path=_PATH) is None]


class Cluster:
    """One cluster in one folder.

    Args:
        folder: Short (a unix socket's path has at most 108 bytes); writable by nobody else.
        cpus: Processors the node claims to have.
        options: Lines of slurm.conf to add, e.g. ``{"MaxArraySize": "101"}``.
    """

    def __init__(self, folder: Path, cpus: int = 4, options: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.cpus = cpus
        self.options = dict(options or {})

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def up(self) -> None:
        """Start the daemons and wait for the node.

        Raises:
            RuntimeError: It does not come up; the message has the ends of the logs.
        """
        for name in ("state", "spool", "log", "munge"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            (self.folder / name).chmod(0o755)  # munged refuses folders that others may write
        self.folder.chmod(0o755)
        key = self.folder / "munge" / "key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(256))
        munge = self.folder / "munge"
        self._daemon(
            "munged", f"--key-file={key}", f"--socket={munge}/socket", f"--pid-file={self.folder}/munged.pid",
            f"--log-file={munge}/log", f"--seed-file={munge}/seed", "--num-threads=2",
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(self._conf(), encoding="utf-8")
        self._daemon("slurmctld", "-f", f"{self.folder}/slurm.conf")
        self._daemon("slurmd", "-f", f"{self.folder}/slurm.conf")
        end = time.monotonic() + _START
        while self.client(["sinfo", "-h", "-o", "%T"], timeout=2) != "idle":
            if time.monotonic() > end:
                logs = [path.read_text(errors="replace")[-2000:] for path in (self.folder / "log").iterdir()]
                self.down()
                raise RuntimeError("\n".join(["the cluster did not come up", *logs]))
            time.sleep(0.05)

    def down(self) -> None:
        """End jobs and daemons; only processes whose numbers the daemons of this folder wrote down."""
        self.client(["scancel", "--full", "--signal=KILL", "-u", _user()], timeout=5)
        self.client(["scancel", "-u", _user()], timeout=5)
        end = time.monotonic() + 8
        while self.client(["squeue", "-h"], timeout=2) and time.monotonic() < end:
            time.sleep(0.1)
        for name, patience in (("slurmd", 3.0), ("slurmctld", 0.5), ("munged", 3.0)):
            self._stop(self.folder / f"{name}.pid", patience)

    def lose_node(self) -> int:
        """End the node as a power failure does: its daemon and all that its jobs started; return how many."""
        killed = _kill([pid for pid in _processes() if self._on_node(pid)])
        self.client(["scontrol", "update", f"NodeName={_host()}", "State=DOWN", "Reason=lost"])
        return killed

    def start_node(self) -> None:
        """Bring the node back."""
        self._daemon("slurmd", "-f", f"{self.folder}/slurm.conf")

    def stop_controller(self) -> None:
        """End the controller in good order; clients hang until it is back."""
        self._stop(self.folder / "slurmctld.pid", 15.0)

    def start_controller(self) -> None:
        """Bring the controller back: it reads the jobs it knew of."""
        self._daemon("slurmctld", "-f", f"{self.folder}/slurm.conf")

    def client(self, command: Sequence[str], timeout: float = 10) -> str:
        """Return what a client program prints; nothing if it fails or hangs (no controller: they hang)."""
        try:
            done = subprocess.run(
                command, env={**os.environ, "PATH": _PATH, **self.environment}, timeout=timeout,
                stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return ""
        return done.stdout.strip()

    def _on_node(self, pid: int) -> bool:
        """Whether a process belongs to this cluster's node: a daemon of it, or a part of a job."""
        try:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            name = Path(f"/proc/{pid}/comm").read_text().strip()
        except OSError:
            return False  # over, or of somebody else
        ours = f"SLURM_CONF={self.folder}/slurm.conf".encode() in variables
        in_job = any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)
        return ours and (in_job or name in ("slurmd", "slurmstepd"))

    def _daemon(self, *command: str) -> None:
        # To a file: a pipe would be held open by the daemon for ever.
        with open(self.folder / "log" / "start.log", "a", encoding="utf-8") as log:
            done = subprocess.run(
                command, env={**os.environ, "PATH": _PATH, **self.environment},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=30, check=False,
            )  # fmt: skip
        if done.returncode:
            tail = (self.folder / "log" / "start.log").read_text(errors="replace")[-2000:]
            self.down()
            raise RuntimeError(f"{command[0]} did not start:\n{tail}")

    def _conf(self) -> str:
        host = _host()
        port = _free_ports(2)
        # To listen on loopback alone, the host's own name must resolve to it; else slurmctld refuses to start.
        try:
            local = socket.gethostbyname(host).startswith("127.")
        except OSError:
            local = False
        text = _CONF.format(
            host=host, port=port, node_port=port + 1, user=_user(), folder=self.folder, cpus=self.cpus,
            listen="CommunicationParameters=NoInAddrAny,NoCtldInAddrAny" if local else "",
        )  # fmt: skip
        return text + "".join(f"{key}={value}\n" for key, value in self.options.items())

    @staticmethod
    def _stop(pid_file: Path, patience: float) -> None:
        """TERM, then KILL (the controller takes seconds to save a state that nobody will read)."""
        try:
            pid = int(pid_file.read_text())
            os.kill(pid, signal.SIGTERM)
        except (FileNotFoundError, ValueError, ProcessLookupError):
            return
        end = time.monotonic() + patience
        with contextlib.suppress(ProcessLookupError):
            while time.monotonic() < end:
                os.kill(pid, 0)
                time.sleep(0.05)
            os.kill(pid, signal.SIGKILL)


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _kill(processes: Sequence[int]) -> int:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(processes)


def _host() -> str:
    return socket.gethostname().partition(".")[0]


def _user() -> str:
    import pwd

    return pwd.getpwuid(os.getuid()).pw_name


def _free_ports(count: int) -> int:
    """The first of some consecutive free ports."""
    for base in range(20000 + os.getpid() % 20000, 60000, 7):
        with contextlib.ExitStack() as stack:
            try:
                for port in range(base, base + count):
                    stack.enter_context(socket.socket()).bind(("", port))
            except OSError:
                continue
            return base
    raise RuntimeError("no free ports")


def main() -> int:
    """Start or stop a cluster by hand."""
    if len(sys.argv) != 3 or sys.argv[1] not in ("up", "down"):
        print(__doc__, file=sys.stderr)
        return 2
    missing = missing_programs()
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 1
    cluster = Cluster(Path(sys.argv[2]).absolute())
    if sys.argv[1] == "down":
        cluster.down()
        return 0
    cluster.up()
    print(f"export SLURM_CONF={cluster.environment['SLURM_CONF']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
