"""What becomes of a launch when runs go wrong."""

import json
import os

from tests.launch.conftest import status


def test_failed_and_killed_runs_do_not_touch_the_others_and_are_continued_later(launcher):
    switch = launcher.folder.parent / "broken"
    switch.touch()
    line = [
        "-m",
        "env.fault=raise,kill,print",
        "seed=0-1",
        f"env.while_exists={switch}",
        "launcher.workers=2",
    ]
    code, out, _ = launcher(*line)
    assert code == 1
    assert launcher.states() == {
        "raise/0": "failed", "raise/1": "failed", "kill/0": "failed", "kill/1": "failed",
        "print/0": "finished", "print/1": "finished",
    }  # fmt: skip
    runs = launcher.runs()
    assert "RuntimeError: the simulator broke" in (runs["raise/1"] / "error.txt").read_text()
    assert status(runs["raise/0"])["error"] == "RuntimeError: the simulator broke"
    assert "killed by signal 9 (out of memory?)" in status(runs["kill/0"])["error"]
    assert "entering the second task" in (runs["kill/0"] / "error.txt").read_text()
    assert out.count("FAIL ") == 4
    assert str(runs["raise/0"] / "error.txt") in out
    assert 'raise RuntimeError("the simulator broke")' in out  # the end of the traceback itself
    log = (runs["print/0"] / "log.txt").read_text()
    assert "on stdout" in log
    assert "on stderr" in log
    assert "on stdout" not in out

    switch.unlink()
    first = (
        os.stat(runs["print/0"] / "metrics.jsonl") if (runs["print/0"] / "metrics.jsonl").exists() else None
    )
    code, out, err = launcher(*line)
    assert code == 0, out + err
    assert "2 of 6 run(s) already finished" in out
    assert set(launcher.states().values()) == {"finished"}
    assert out.count("start ") == 4
    assert first is None or os.stat(runs["print/0"] / "metrics.jsonl").st_mtime == first.st_mtime
    resumed = json.loads((runs["raise/0"] / "provenance.json").read_text())["resumed"]
    assert len(resumed) == 1


def test_native_crashes_leave_a_trace_in_the_log(launcher):
    code, out, _ = launcher("-m", "env.fault=segv,exit", "launcher.workers=1")
    assert code == 1
    runs = launcher.runs()
    assert "killed by signal 11 (SIGSEGV)" in out
    assert "its process ended with exit code 3" in out
    assert "Segmentation fault" in (runs["segv/0"] / "log.txt").read_text()
    assert launcher.states() == {"segv/0": "failed", "exit/0": "failed"}


def test_a_single_run_that_fails(launcher):
    code, out, err = launcher("env.fault=raise")
    assert code == 1
    assert "the simulator broke" in out
    assert launcher.states() == {"raise/0": "failed"}
    code, out, err = launcher("env.fault=print")
    assert code == 0, err
    assert "on stdout" in out  # a single run prints where it was started: breakpoint() works
    code, out, err = launcher("env.fault=print")
    assert code == 0, err
    assert "1 of 1 run(s) already finished" in out


def test_the_debug_launcher_stays_in_one_process(launcher):
    code, _, _ = launcher("-m", "env.fault=none,raise", "seed=0-1", "launcher=debug")
    assert code == 1
    assert launcher.states() == {
        "none/0": "finished",
        "none/1": "finished",
        "raise/0": "failed",
        "raise/1": "failed",
    }
    pids = {status(path)["pid"] for path in launcher.runs().values()}
    assert len(pids) == 1


def test_mistakes_found_by_the_preflight_leave_nothing_behind(launcher):
    for line in (["-m", "env.num_envs=4,0", "seed=0-1"], ["env.domain=cartpol"], ["runs_dir=/dev/null/runs"]):
        code, out, err = launcher(*line, "tracker=mlflow")
        assert code == 2, out + err
        assert "Traceback" not in out + err
        assert err.count("\n") == 2
        assert list(launcher.folder.iterdir()) == []


def test_two_launches_do_not_share_a_run(launcher):
    line = ["-m", "seed=0", "env.fault=hang"]
    first = launcher.start(*line)
    launcher.wait_for("running")
    code, out, _ = launcher(*line)
    assert code == 0
    assert "another launch is running it" in out
    assert first.poll() is None
