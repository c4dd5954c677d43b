"""Ctrl-C, termination, and the death of the parent."""

import os
import signal
import time

import pytest

from tests.launch.conftest import alive, children, status

LONG = "env.steps_per_task=4000000"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_the_first_signal_saves_and_the_same_command_continues(launcher, number):
    line = ["-m", "seed=0-2", LONG, "launcher.workers=2"]
    process = launcher.start(*line)
    launcher.wait_for("running", count=2, steps=1)
    process.send_signal(number)
    code, out, err = launcher.wait(process, timeout=30)
    assert code == 130, out + err
    assert "2 run(s) save at their next safe point" in out
    assert "3 run(s) not finished; the same command continues them" in out
    assert "Traceback" not in out + err
    saved = {path: status(path)["env_steps"] for path in launcher.wait_for("interrupted", count=2)}
    assert all(list((path / "checkpoints").iterdir()) for path in saved)

    if number == signal.SIGINT:
        process = launcher.start(*line)
        time.sleep(1)
        running = launcher.wait_for("running", count=2, steps=max(saved.values()) + 1)
        assert set(running) == set(saved)
        process.send_signal(number)
        code, out, err = launcher.wait(process, timeout=30)
        assert code == 130, out + err
        assert all(status(path)["env_steps"] > steps for path, steps in saved.items())


def test_a_single_run_stops_in_order(launcher):
    process = launcher.start(LONG)
    (run,) = launcher.wait_for("running", steps=1)
    process.send_signal(signal.SIGINT)
    code, out, err = launcher.wait(process, timeout=30)
    assert code == 130, out + err
    assert "the same command continues it" in out
    assert status(run)["state"] == "interrupted"
    assert list((run / "checkpoints").iterdir())


def test_the_second_signal_kills_what_does_not_stop(launcher):
    process = launcher.start("-m", "seed=0-1", "env.fault=hang", "launcher.workers=2")
    for run in launcher.wait_for("running", count=2):
        launcher.wait_for_log(run, "entering the second task")
    workers = children(process.pid)
    assert len(workers) == 2
    process.send_signal(signal.SIGINT)
    time.sleep(1.5)
    assert process.poll() is None  # it waits for the runs to save
    process.send_signal(signal.SIGINT)
    code, out, err = launcher.wait(process, timeout=20)
    assert code == 130, out + err
    assert set(launcher.states().values()) == {"interrupted"}
    assert not any(alive(pid) for pid in workers)


def test_workers_save_and_end_when_their_parent_is_killed(launcher):
    process = launcher.start("-m", "seed=0-1", LONG, "launcher.workers=2")
    launcher.wait_for("running", count=2, steps=1)
    workers = children(process.pid)
    assert len(workers) == 2
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    end = time.monotonic() + 10
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end, "workers outlive their parent"
        time.sleep(0.05)
    assert set(launcher.states().values()) == {"interrupted"}


def test_a_worker_killed_from_outside_costs_one_run_only(launcher):
    process = launcher.start("-m", "seed=0-2", "env.steps_per_task=200000", "launcher.workers=2")
    first, _ = launcher.wait_for("running", count=2, steps=1)
    victim = status(first)["pid"]
    assert victim in children(process.pid)
    os.kill(victim, signal.SIGKILL)
    code, out, err = launcher.wait(process)
    assert code == 1, out + err
    assert "killed by signal 9 (out of memory?)" in out
    assert sorted(launcher.states().values()) == ["failed", "finished", "finished"]
    assert status(first)["state"] == "failed"


def test_a_signal_before_the_first_run_ends_at_once(launcher):
    process = launcher.start("-m", "seed=0-1", "launcher.workers=2")
    end = time.monotonic() + 60
    while len(children(process.pid)) < 2:
        assert time.monotonic() < end
        time.sleep(0.02)
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    code, out, err = launcher.wait(process)
    assert code == 130, out + err
    assert "Traceback" not in out + err
    assert list(launcher.folder.iterdir()) == []
    end = time.monotonic() + 10
    while any(alive(pid) for pid in workers):
        assert time.monotonic() < end, "workers outlive the launch"
        time.sleep(0.05)
