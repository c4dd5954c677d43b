"""Measuring changes nothing: a run with all metrics is the run without any, to the last bit."""

from __future__ import annotations

import functools

import pytest
import torch

from plasticine.api import configure
from plasticine.core.metric import Metric
from plasticine.testing import tiny_config
from plasticine.testing.runs import Recording, record
from tests.core.learnt import AGENTS

#: Small enough to be taken at every other iteration.
_CHEAPER = {"samples": 4, "steps": 3, "targets": 1, "batch_size": 8, "max_steps": 20, "every": 2}


@functools.cache
def sets() -> dict[str, dict]:
    found = {name: configure("env=classic", f"metrics={name}")["metrics"]["set"] for name in ("core", "full")}
    for node in found["full"].values():
        node |= {k: v for k, v in _CHEAPER.items() if k in node}
    return {"none": {}, **found}


@functools.cache
def run(agent: str, metrics: str) -> Recording:
    config = tiny_config({}, **AGENTS[agent])
    config["metrics"] |= {"every": 2, "probe_size": 16, "set": sets()[metrics]}
    return record(config)


def plainly(value):
    """The same in lists and numbers, to be compared as a whole."""
    if isinstance(value, dict):
        return {k: plainly(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plainly(v) for v in value]
    return repr(value.tolist()) if hasattr(value, "tolist") else repr(value)


def differing(a: Recording, b: Recording) -> list[str]:
    """Names of what differs in a single bit after some iteration."""
    return [
        f"{name} after iteration {i + 1}"
        for i, (mine, theirs) in enumerate(zip(a.iterations, b.iterations, strict=True))
        for name in mine.keys() | theirs.keys()
        if not torch.equal(mine[name], theirs[name])
    ]


@pytest.mark.parametrize("metrics", ["core", "full"])
@pytest.mark.parametrize("agent", AGENTS)
def test_training_is_the_same_bit_for_bit(agent, metrics):
    plain, measured = run(agent, "none"), run(agent, metrics)
    assert not differing(plain, measured)
    assert not measured.moved, "a tensor was replaced, or moved in memory"
    assert not measured.draws, "a process-wide random generator was used"
    learners = [r.trainer.learner for r in (plain, measured)]
    streams = [learner.streams.state() for learner in learners]
    assert set(streams[1]) - set(streams[0]) <= {"metrics"}
    assert all(
        torch.equal(value, streams[1][name]) for name, value in streams[0].items() if name != "metrics"
    )
    assert [p.grad for p in learners[1].state.params.values()] == [None] * len(learners[1].state.params)
    assert all(p.requires_grad for p in learners[1].state.params.values())
    worlds = [plainly(r.trainer.collector.state(simulator=True)) for r in (plain, measured)]
    assert worlds[0] == worlds[1], "the environment went another way"
    memories = [plainly([learner.agent.state(), learner.agent.experience()]) for learner in learners]
    assert memories[0] == memories[1]
    assert learners[1].recent is None


def test_the_comparison_would_notice(monkeypatch):
    """Guard of the guard: a metric that draws from the wrong stream, or touches a weight, is found."""

    class Clumsy(Metric):
        def compute(self, probe):
            learner_params = probe.nets[0].params
            next(iter(learner_params.values())).view(-1)[0] += 1e-6
            return {}

    from plasticine import compose

    build = compose.build_object
    monkeypatch.setattr(
        compose,
        "build_object",
        lambda node, base, key, **more: Clumsy() if node == "clumsy" else build(node, base, key, **more),
    )
    config = tiny_config({})
    config["metrics"] |= {"every": 2, "probe_size": 16, "set": {"clumsy": "clumsy"}}
    assert differing(run("ppo", "none"), record(config))
