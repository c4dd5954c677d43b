"""Many runs, several runs in a job, jobs that are cancelled or lost, and code that is edited meanwhile."""

from __future__ import annotations

import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.launch.conftest import status
from tests.slurm.conftest import MAX_ARRAY_SIZE
from tests.slurm.test_launch import SLURM, queued, slurm_states, wait_until

HELD = ["+launcher.sbatch.hold=true", "launcher.detach=true"]


def command(launcher, *words: str) -> str:
    """Print of `plasticine ...`, which must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", "plasticine.cli.main", *words], cwd=launcher.folder, text=True, timeout=120,
        capture_output=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def watch_size(process: subprocess.Popen[str], sizes: list[int]) -> None:
    """Append the peak resident size of a process while it lives."""
    while process.poll() is None:
        text = Path(f"/proc/{process.pid}/status").read_text()
        sizes += [int(kB) for kB in re.findall(r"VmHWM:\s+(\d+) kB", text)]
        time.sleep(0.05)


def test_a_thousand_runs_are_submitted_seen_and_cancelled(slurm, launcher):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = launcher.start("-m", "seed=0-999", "launcher.max_parallel=7", *SLURM, *HELD)
    sizes = [0]  # kB, the highest so far
    threading.Thread(target=watch_size, args=(process, sizes), daemon=True).start()
    code, out, err = launcher.wait(process)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert code == 0, out + err
    assert used.ru_utime - before.ru_utime < 60
    assert 1e4 < max(sizes) < 1e6
    text = slurm.client(["scontrol", "-o", "show", "job"])
    arrays = re.findall(r"ArrayTaskId=0-(\d+)%(\d+) ", text)
    assert len(arrays) == -(-1000 // MAX_ARRAY_SIZE)
    assert sum(int(last) + 1 for last, _ in arrays) == 1000
    assert sum(int(limit) for _, limit in arrays) == 7
    assert len(queued(slurm)) == 1000
    assert command(launcher, "status").startswith("default: 1000 queued")
    assert "cancelled 1000 run(s) in 1000 job(s)" in command(launcher, "cancel", "default")
    assert queued(slurm) == []
    assert command(launcher, "status").startswith("default: 1000 missing")


def test_packed_runs_take_the_code_of_the_submission_and_nothing_else_from_its_shell(
    slurm, launcher, tmp_path, monkeypatch
):
    lab = tmp_path / "lab" / "mylab"
    lab.mkdir(parents=True)
    code = "from tests.launch.faulty import Faulty\n\n\nclass Lab(Faulty):\n    pass\n"
    (lab / "__init__.py").write_text("")
    (lab / "level.py").write_text(code)
    yaml = (launcher.yaml / "env" / "faulty.yaml").read_text()
    (launcher.yaml / "env" / "lab.yaml").write_text(
        yaml.replace("tests.launch.faulty.Faulty", "mylab.level.Lab")
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lab"))
    for name in ("TMPDIR", "SLURM_CPU_BIND", "SBATCH_PARTITION", "TRITON_CACHE_DIR", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.setenv("OF_THE_USER", "kept")
    line = ["-m", "seed=0-2", "env=lab", "env.fault=print,kill", "launcher.retries=0", *SLURM,
            "launcher.runs_per_job=6", "launcher.parallel_per_job=2",
            f"launcher.setup=['env > {tmp_path}/env']"]  # fmt: skip
    result, out, err = launcher(*line, *HELD)
    assert result == 0, out + err
    assert "6 run(s) in 1 job(s)" in out
    (lab / "level.py").write_text(f"raise RuntimeError('edited')\n{code}")

    process = launcher.start(*line)
    (task,) = queued(slurm)
    slurm.client(["scontrol", "release", task])
    result, out, err = launcher.wait(process)
    assert result == 1, out + err
    assert "attached to 6 run(s)" in out
    assert launcher.states() == {
        **{f"print/{seed}": "finished" for seed in range(3)}, **{f"kill/{seed}": "failed" for seed in range(3)}
    }  # fmt: skip
    assert "killed by signal 9" in out
    assert slurm_states(slurm)[task] == "FAILED"
    runs = launcher.runs()
    assert {status(path)["slurm_job"] for path in runs.values()} == {task}
    assert len({status(path)["pid"] for path in runs.values()}) >= 2
    seen = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines() if "=" in line)
    assert seen["OF_THE_USER"] == "kept"
    assert str(tmp_path) not in [seen.get(name) for name in ("TMPDIR", "SLURM_CPU_BIND", "TRITON_CACHE_DIR")]
    assert seen["SLURM_CPUS_PER_TASK"] == "2"  # as many as run at the same time
    assert "/.launches/" not in seen["PYTHONPATH"]  # set after the user's own lines


def test_cancelled_jobs_are_over_and_ctrl_c_leaves_the_others_alone(slurm, launcher):
    line = [
        "-m",
        "seed=0-1",
        "env.steps_per_task=4000000",
        "launcher.max_parallel=1",
        "launcher.check=false",
        *SLURM,
    ]
    process = launcher.start(*line)
    (first,) = launcher.wait_for("running", steps=1)
    job = status(first)["slurm_job"]
    slurm.client(["scancel", job])
    launcher.wait_for("interrupted")
    wait_until(lambda: job not in queued(slurm), "the cancelled job leaves the queue")
    launcher.wait_for("running")  # the next one
    process.send_signal(signal.SIGINT)
    code, out, err = launcher.wait(process, timeout=30)
    assert code == 130, out + err
    assert "detached: 1 run(s) go on" in out
    assert len(queued(slurm)) == 1
    assert "Restarts=0 " in slurm.client(["scontrol", "-o", "show", "job", job])

    process = launcher.start(*line, "launcher.on_interrupt=cancel", "launcher.max_parallel=2")
    wait_until(lambda: len(queued(slurm)) == 2, "the cancelled run is submitted again")
    launcher.wait_for("running", count=2)
    process.send_signal(signal.SIGINT)
    code, out, err = launcher.wait(process, timeout=30)
    assert code == 130, out + err
    assert "cancelled: 2 run(s)" in out
    wait_until(lambda: not queued(slurm), "nothing is left in the queue")
    assert command(launcher, "status").startswith("default: 2 interrupted")


def test_a_job_that_dies_whole_is_queued_again_and_one_that_never_runs_is_told(slurm, launcher):
    switch = launcher.folder.parent / "wait"
    switch.touch()
    process = launcher.start(
        "seed=0", "env.fault=wait", f"env.while_exists={switch}", "tracker=local", *SLURM
    )
    (run,) = launcher.wait_for("running")
    launcher.wait_for_log(run, "entering the second task")
    job, worker = status(run)["slurm_job"], status(run)["pid"]
    parent = int(Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[1])
    os.kill(parent, signal.SIGKILL)
    wait_until(lambda: "Restarts=1 " in slurm.client(["scontrol", "-o", "show", "job", job]), "a restart", 20)
    switch.unlink()
    code, out, err = launcher.wait(process)
    assert code == 0, out + err
    assert launcher.states() == {"wait/0": "finished"}

    code, out, err = launcher("seed=1", "launcher.retries=1", "launcher.setup=['echo no module; exit 7']",
                              "launcher.check=false", *SLURM)  # fmt: skip
    assert code == 1
    assert out.count("again   ") == 1  # perhaps the node's fault: once more, elsewhere
    found = re.search(r"FAIL .*ended without it \(FAILED, exit code 7:0\); what it said: (\S+)", out)
    assert found, out + err
    assert "no module" in Path(found.group(1)).read_text()
    (error,) = launcher.folder.glob("runs/*/*/seed=1/error.txt")
    assert "no module" in error.read_text()
    assert "1 failed" in command(launcher, "status")


def test_a_dry_run_prints_and_writes_nothing(slurm, launcher):
    line = [
        "-m",
        "seed=0-449",
        "launcher.dry_run=true",
        "launcher.check=false",
        "launcher.max_parallel=2",
        *SLURM,
    ]
    code, out, err = launcher(*line, "launcher.partition=debug", "launcher.cpus=2")
    assert code == 0, out + err
    assert "450 run(s) to submit" in out
    assert (
        "array of 150 job(s), at most 1 at a time, after array 1" in out
    )  # three arrays, two of them at once
    assert "at most 75.0 core hours" in out  # 450 jobs x 5 minutes x 2 cores
    assert "#SBATCH --partition=debug" in out
    assert list(launcher.folder.iterdir()) == []
    assert queued(slurm) == []

    code, out, err = launcher("-m", "seed=0-1", "env.num_envs=0", *SLURM)
    assert code == 2, out + err
    code, out, err = launcher("seed=0", "launcher.check=false", *SLURM, "launcher.partition=none")
    assert code == 1
    assert "SLURM refuses the jobs" in err
    assert "invalid partition" in err
    assert queued(slurm) == []
