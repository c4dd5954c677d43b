"""A run that was stopped, or whose machine died, ends exactly as one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from plasticine.errors import UserError
from tests.core.runs import StopAfter, config, recorded, series, tensors

METHODS = ("vanilla", "[redo,snp,trac]", "plasticity_injection")


def _same(a, b):
    assert a.keys() == b.keys()
    wrong = [k for k in a if not torch.equal(a[k], b[k])]
    assert not wrong, wrong[:5]


def _env(name):
    if name == "classic":
        return ()
    return (
        "env=continual_dmc",
        "env.domain=quadruped",
        "env.tasks=[walk,run]",
        "env.cycles=1",
        "env.num_envs=1",
        "env.steps_per_task=192",
        "agent.num_steps=48",
        "env.shift=task",
    )


@pytest.mark.parametrize("env", ["classic", "continual_dmc"])
@pytest.mark.parametrize("method", METHODS)
def test_stopped_and_resumed_equals_uninterrupted(tmp_path, env, method):
    cfg = configure_for(env, method)
    whole = recorded(tmp_path / "whole", cfg)
    part = recorded(tmp_path / "parts", cfg, stop=StopAfter(1))
    assert part.counters.iteration == 2
    again = recorded(tmp_path / "parts", cfg, stop=StopAfter(2))
    assert again.counters.iteration > part.counters.iteration
    last = recorded(tmp_path / "parts", cfg)
    assert last.counters == whole.counters
    _same(tensors(whole), tensors(last))
    assert series(tmp_path / "whole") == series(tmp_path / "parts")


def configure_for(env, method):
    from plasticine.api import configure
    from tests.core.runs import TINY

    if env == "classic":
        return config(f"method={method}")
    shared = [o for o in TINY if not o.startswith("env")]
    return configure(*shared, *_env(env), f"method={method}")


def test_periodic_checkpoints_change_nothing(tmp_path):
    cfg = config()
    whole = recorded(tmp_path / "whole", cfg)
    often = recorded(tmp_path / "often", cfg, save_every=0.0)
    _same(tensors(whole), tensors(often))
    assert series(tmp_path / "whole") == series(tmp_path / "often")
    assert len(list((tmp_path / "often" / "checkpoints").glob("*.ckpt"))) == 2


def test_truncated_checkpoint_falls_back_to_the_one_before(tmp_path):
    cfg = config()
    recorded(tmp_path / "whole", cfg)
    recorded(tmp_path / "run", cfg, stop=StopAfter(4), save_every=0.0)
    newest = sorted((tmp_path / "run" / "checkpoints").glob("*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.warns(UserWarning, match="checksum does not match"):
        recorded(tmp_path / "run", cfg)
    assert series(tmp_path / "whole") == series(tmp_path / "run")


def test_checkpoint_of_another_network_is_refused(tmp_path):
    recorded(tmp_path, config(), stop=StopAfter(2))
    with pytest.raises(UserError, match="does not fit this learner"):
        recorded(tmp_path, config("network.hidden=[8,8]"))


def test_finished_run_is_left_alone(tmp_path):
    cfg = config()
    recorded(tmp_path, cfg)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    recorded(tmp_path, cfg)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


_VICTIM = """
import json, sys
from pathlib import Path
from tests.core.runs import recorded
recorded(Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text()), save_every=0.0)
"""


@pytest.mark.parametrize("env", ["classic", "continual_dmc"])
def test_killed_process_resumes_exactly(tmp_path, env):
    """SIGKILL at several moments, among them while a checkpoint is being written."""
    cfg = configure_for(env, "redo")
    if env == "classic":
        cfg["env"]["steps_per_task"] = 2560
    (tmp_path / "config.json").write_text(json.dumps(cfg))
    recorded(tmp_path / "whole", cfg)
    folder = tmp_path / "killed"
    seen = -1
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(folder), str(tmp_path / "config.json")], cwd=os.getcwd()
        )
        while child.poll() is None:
            steps = [int(p.stem) for p in (folder / "checkpoints").glob("*.ckpt")]
            if steps and max(steps) > seen:
                seen = max(steps)
                break
            time.sleep(0.001)
        os.kill(child.pid, signal.SIGKILL) if child.poll() is None else None
        child.wait()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        recorded(folder, cfg)
    assert series(tmp_path / "whole") == series(folder)
