"""What an environment has to tell about its episodes reaches the log, and changes nothing else."""

from __future__ import annotations

import torch

from plasticine.envs.classic_vec import ClassicVecEnv
from tests.core.runs import parts, tensors, trainer
from tests.core.test_trainer import Memory


def run():
    t = trainer(parts(), tracker=Memory())
    t.fit()
    return t


def test_extras_are_logged_once_per_iteration_and_change_nothing_else(monkeypatch):
    plain = run()
    calls = []

    def extras(self):
        calls.append(len(calls))
        return {"depth": float(calls[-1])} if calls[-1] % 2 else {}

    monkeypatch.setattr(ClassicVecEnv, "episode_extras", extras)
    told = run()
    assert len(calls) == told.plan.iterations == 12
    depths = [line.pop("train/depth", None) for _, line in told.tracker.lines]
    assert depths[:12] == [None, 1.0, None, 3.0, None, 5.0, None, 7.0, None, 9.0, None, 11.0]
    assert depths[12:] == [None]  # the line of the summary
    assert [set(line) for _, line in plain.tracker.lines] == [set(line) for _, line in told.tracker.lines]
    assert plain.tracker.finished == told.tracker.finished
    a, b = tensors(plain), tensors(told)
    assert all(torch.equal(a[k], b[k]) for k in a)
