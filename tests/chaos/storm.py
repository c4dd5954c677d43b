"""A sweep on a real SLURM of one node, through a storm of faults, against the same sweep in calm weather.

    python -m tests.chaos.storm                       what `make chaos` does
    python -m tests.chaos.storm --runs 4 --faults 8   a short one
    python -m tests.chaos.storm --seed 7              the same faults in the same order

The same command is given again and again until every run is finished. Then each run's record must be that of the
undisturbed run, bit for bit, and the MLflow store must hold each of its points once. Exit code 0 if that is so.

Needs SLURM (see tests/slurm/cluster.py); to fill a disk it must be allowed to mount one (root), and to set a clock
libfaketime must be there. What is not possible is left out, and told; with REQUIRE_SLURM=1 a missing library is an
error.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.chaos.faults import KINDS, Clock, Disk, Faults
from tests.slurm.cluster import Cluster, missing_programs
from tests.slurm.mlflow_server import MlflowServer
from tests.slurm.store_count import StoreCount, count, local_points, run_folders, series

ROOT = Path(__file__).resolve().parents[2]
_METHODS = ("vanilla", "snp_hard")
_DISK = 96  # MB
_MORE = 4  # runs to add if the sweep is over before the faults are


@dataclass(frozen=True)
class Size:
    """How large a storm is.

    Attributes:
        runs: At least; more if they are finished before all faults have struck. Even.
        faults: Exactly.
        steps: Env steps of each of the three tasks of a run.
        pause: Seconds between two faults, at least and at most.
        seconds: After which it is given up.
    """

    runs: int
    faults: int
    steps: int
    pause: tuple[float, float]
    seconds: float


def sweep(runs: int, steps: int) -> list[str]:
    """The words of the command for so many runs."""
    return [
        "-m", f"method={','.join(_METHODS)}", f"seed=0-{runs // len(_METHODS) - 1}", "env=classic",
        "budget=smoke", f"env.steps_per_task={steps}", "env.num_tasks=3", "env.num_envs=4",
        "agent.num_steps=128", "agent.num_minibatches=4", "agent.epochs=4", "network.hidden=[32,32]",
        "metrics.every=20", "metrics.probe_size=64", "evaluation.every=null", "checkpoint.seconds=0.5",
        "tracker=mlflow", "tracker.per_network=true", "tracker.max_keys=1000", "study=chaos",
    ]  # fmt: skip


def plan(seed: int, faults: int, kinds: list[str], pause: tuple[float, float]) -> list[tuple[float, str]]:
    """Every kind as often as the others, in random order, each after a random pause."""
    chance = random.Random(seed)
    chosen: list[str] = []
    while len(chosen) < faults:
        chosen += chance.sample(kinds, len(kinds))
    chosen = chosen[:faults]
    chance.shuffle(chosen)
    return [(chance.uniform(*pause), kind) for kind in chosen]


class Storm:
    """One sweep with everything around it.

    Args:
        folder: Empty; short, as sockets are made in it.
        seed: Of the faults.
        size: How much of everything.
    """

    def __init__(self, folder: Path, seed: int, size: Size) -> None:
        self.folder, self.seed, self.size = folder, seed, size
        self.runs = size.runs
        self.launches = 0
        self.work, self.calm = folder / "work", folder / "calm"
        self.calm.mkdir(parents=True)
        self.disk = Disk(self.work / "runs", _DISK)
        self.clock = Clock(folder)
        self.cluster = Cluster(folder / "slurm")
        self.server = MlflowServer(folder / "server")
        self._submitter: subprocess.Popen[bytes] | None = None
        self.faults = Faults(
            self.work / "runs", self.cluster, self.server, self.disk, self.clock, self._attached
        )

    def rage(self) -> None:
        """Give the command again and again, with faults in between, until all runs are finished."""
        self.cluster.up()
        self.server.start()
        chance = random.Random(self.seed)
        left = plan(self.seed, self.size.faults, self.faults.possible(), self.size.pause)
        end, due = time.monotonic() + self.size.seconds, time.monotonic()
        while True:
            self.faults.mend()
            self._launch_again()
            now = time.monotonic()
            if left and now >= due:
                pause, kind = left[0]
                if self.faults.strike(kind, chance):
                    self._tell(f"{kind}: {KINDS[kind]}; {len(left) - 1} to come")
                    left.pop(0)
                    due = time.monotonic() + pause
            done = self._finished()
            if done == self.runs and left:
                self.runs += _MORE  # the same command, with more seeds
                self._tell(f"all runs are finished but {len(left)} faults are left: now {self.runs} runs")
            elif done == self.runs and self._attached() is None:
                break
            if now > end:
                raise RuntimeError(f"{done} of {self.runs} runs are finished after {self.size.seconds:.0f} s")
            time.sleep(0.1)
        self.faults.mend(everything=True)
        self.server.wait()
        self._command(["plasticine.cli.main", "sync", "runs", "--uri", self.server.uri], self.work)

    def compare(self) -> StoreCount:
        """Run the sweep undisturbed, on this machine and without MLflow, and compare."""
        words = [*sweep(self.runs, self.size.steps), "tracker=local", "launcher=local"]
        self._command(["plasticine.cli.run", *words], self.calm)
        with contextlib.closing(sqlite3.connect(self.server.database)) as connection:
            total = count(self.work / "runs", connection, self.server.artifacts)
        undisturbed = {path.relative_to(self.calm / "runs"): path for path in run_folders(self.calm / "runs")}
        there = {path.relative_to(self.work / "runs"): path for path in run_folders(self.work / "runs")}
        if set(undisturbed) != set(there) or len(there) != self.runs:
            total.wrong.append(f"{len(there)} runs, {len(undisturbed)} undisturbed, {self.runs} asked for")
        for name in sorted(set(undisturbed) & set(there)):
            if series(undisturbed[name]) != series(there[name]):
                total.wrong.append(f"{name}: the record is not that of the undisturbed run")
        calm = sum(len(local_points(path)) for path in undisturbed.values())
        if calm != total.expected:
            total.wrong.append(f"{calm} points in calm weather, {total.expected} in the storm")
        return total

    def traces(self) -> str:
        """What the records themselves say of the storm, as evidence that it was one."""
        resumes = jumps = 0
        for path in run_folders(self.work / "runs"):
            lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
            resumes += sum(line.get("event") == "resume" for line in lines)
            jumps += sum(after["t"] - before["t"] > 3_600_000 for before, after in pairwise(lines))
        return f"runs went on from a checkpoint {resumes} times, their clocks jumped forward {jumps} times"

    def end(self, keep: bool = False) -> None:
        """Leave no process, no mount behind.

        Args:
            keep: Copy the run folders off the small disk before that.
        """
        if self._submitter is not None and self._submitter.poll() is None:
            self._submitter.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._submitter.wait(timeout=30)
            self._submitter.kill()
        self.faults.mend(everything=True)
        self.server.kill()
        self.cluster.down()
        if keep and self.disk.mounted:
            shutil.copytree(self.disk.folder, self.folder / "runs", dirs_exist_ok=True)
        self.disk.unmount()
        self.clock.forget()

    # -- inside ----------------------------------------------------------------------------------------------
    def _attached(self) -> int | None:
        alive = self._submitter is not None and self._submitter.poll() is None
        return self._submitter.pid if self._submitter and alive else None

    def _launch_again(self) -> None:
        if self._attached() is not None or (self.launches and self._finished() == self.runs):
            return
        python = sys.executable
        if self.clock.library is not None:
            variables = " ".join(f"{key}={value}" for key, value in self.clock.variables.items())
            python = f"env {variables} {sys.executable}"
        words = [
            *sweep(self.runs, self.size.steps), f"tracker.uri={self.server.uri}", "launcher=slurm",
            "launcher.mem=500M", "launcher.time=00:20:00", "launcher.poll_seconds=0.5", "launcher.retries=2",
            f"launcher.python='{python}'",
        ]  # fmt: skip
        self.launches += 1
        with open(self.folder / "submitter.log", "ab") as log:
            log.write(f"\n== launch {self.launches}\n".encode())
            log.flush()
            self._submitter = subprocess.Popen(
                [sys.executable, "-m", "plasticine.cli.run", *words], cwd=self.work, env=self._environment(),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _command(self, words: list[str], folder: Path) -> None:
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=folder, env=self._environment(), check=False,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{words[0]} {words[1]} ends with {done.returncode}:\n{done.stdout[-3000:]}")

    def _environment(self) -> dict[str, str]:
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return {
            **inherited,
            **self.cluster.environment,
            "PYTHONPATH": path,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }

    def _finished(self) -> int:
        texts = (path.read_text() for path in self.work.glob("runs/chaos/*/seed=*/status.json"))
        return sum('"state": "finished"' in text for text in texts)

    def _tell(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')}  {self._finished():3d}/{self.runs} finished  {text}", flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="A sweep through a storm of faults.")
    parser.add_argument("--runs", type=int, default=20, help="at least so many (default: 20)")
    parser.add_argument("--faults", type=int, default=72, help="exactly so many (default: 72)")
    parser.add_argument("--seed", type=int, default=None, help="of the faults (default: drawn, and printed)")
    parser.add_argument("--steps", type=int, default=65536, help="env steps of each of a run's three tasks")
    parser.add_argument("--pause", type=float, nargs=2, default=(1.0, 5.0), help="seconds between two faults")
    parser.add_argument("--minutes", type=float, default=60.0, help="after which it is given up")
    parser.add_argument("--keep", action="store_true", help="leave the folder there")
    options = parser.parse_args(arguments)
    missing = missing_programs()
    if missing:
        print(f"not installed: {', '.join(missing)}", file=sys.stderr)
        return 2
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    folder = Path(tempfile.mkdtemp(prefix="chaos."))
    folder.chmod(0o755)  # munged insists
    size = Size(options.runs, options.faults, options.steps, tuple(options.pause), 60 * options.minutes)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through the finally below
    storm = Storm(folder, seed, size)
    print(f"seed {seed}, {size.runs} runs, {size.faults} faults, in {folder}", flush=True)
    left_out = sorted(set(KINDS) - set(storm.faults.possible()))
    if left_out:
        print(f"not possible here: {', '.join(left_out)}", file=sys.stderr)
        # A library can be installed; the right to mount a file system is not the project's to give.
        if os.environ.get("REQUIRE_SLURM") == "1" and "clock" in left_out:
            storm.disk.unmount()
            shutil.rmtree(folder)
            return 2
    good = False
    try:
        storm.rage()
        total = storm.compare()
        print(report(storm, total), flush=True)
        good = not total.wrong
    finally:
        storm.end(keep=not good or options.keep)
        if good and not options.keep:
            shutil.rmtree(folder)
        else:
            print(f"everything is in {folder}", file=sys.stderr)
    return 0 if good else 1


def report(storm: Storm, total: StoreCount) -> str:
    """The counts, and what is wrong."""
    struck = storm.faults.struck
    kinds = ", ".join(f"{struck[kind]} {kind}" for kind in KINDS if struck[kind])
    return "\n".join([
        f"faults injected: {struck.total()} ({kinds})",
        f"launches of the same command: {storm.launches}; {storm.traces()}",
        f"runs: {storm.runs} finished, each compared with an undisturbed one",
        f"points expected: {total.expected}",
        f"points found:    {total.found} in MLflow ({total.missing} missing, {total.doubled} doubled)",
        f"params: {total.params}, artifacts: {total.artifacts}",
        *(total.wrong[:20] if total.wrong else ["every record is that of an undisturbed run"]),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
