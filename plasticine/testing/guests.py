"""What every agent and every metric must keep, checked on tiny runs."""

from __future__ import annotations

import copy
import functools
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from plasticine.compose import assemble_parts, build_object
from plasticine.core.measure import Measurement
from plasticine.core.metric import Layers, Metric, Probe
from plasticine.core.returns import Rehearsal
from plasticine.testing.contract import _check_finite, _check_ownership, _differing
from plasticine.testing.runs import Recording, clones, global_random_states, record, tiny_config

__all__ = ["check_agent", "check_metric"]

_ACTIONS = 64


def check_agent(config: Mapping[str, Any]) -> None:
    """Check that an agent keeps the contract, in whole runs of a configuration that lasts seconds.

    It trains every tensor and everything stays finite; no tensor is replaced or moves in memory; slow copies and
    memory share nothing with what is trained; the random numbers of the process are left alone; the same seed gives
    the same bits and another one does not; an interrupted run continues bit by bit (if the level can); asking it for
    actions from outside changes nothing.

    Args:
        config: Plain and complete, e.g. from `plasticine.configure`; at least two iterations long.

    Raises:
        AssertionError: The contract is broken; the message says how.
        UserError: The configuration cannot work.
    """
    tiny = copy.deepcopy(dict(config))
    where = str(tiny["agent"]["_target_"])
    run = record(tiny)
    length = len(run.iterations)
    assert length > 1, f"{where}: make the run longer than one iteration"
    _check_finite(run, where)
    assert not run.moved, f"{where}: {run.moved[0]} was replaced or moved in memory: write in place"
    assert not run.draws, f"{where}: a process-wide random generator was used: draw from `streams`"
    _check_ownership(run, where)
    trained = {k for before, after in run.learnt for k in _differing(before, after)}
    still = set(run.params) - trained
    assert not still, f"{where}: {sorted(still)[0]} is never trained"
    _check_same(run, record(tiny), where, "with the same seed")
    other = record({**tiny, "seed": tiny["seed"] + 1})
    assert _differing(run.params, other.params), f"{where}: another seed gives the same run"
    if run.trainer.level.exact_state:
        with tempfile.TemporaryDirectory() as folder:
            record(tiny, folder=Path(folder), stop_after=length // 2)
            rest = record(tiny, folder=Path(folder))
        _check_same(run, rest, where, "after an interruption: keep what it needs in `state` or `experience`")
    _check_choose(run, where)


def _check_same(run: Recording, again: Recording, where: str, when: str) -> None:
    different = _differing(run.iterations[-1], again.iterations[-1])
    assert not different, f"{where}: {different[0]} differs {when}"
    streams = (r.trainer.learner.streams.state() for r in (run, again))
    different = _differing(*streams)
    assert not different, f"{where}: the random stream {different[0]!r} differs {when}"


def _check_choose(run: Recording, where: str) -> None:
    trainer = run.trainer
    spec, learner = trainer.collector.spec, trainer.learner
    obs = np.repeat(trainer.collector.obs[:1], _ACTIONS, axis=0)

    def look() -> tuple[dict[str, torch.Tensor], list[bytes]]:
        return clones(learner.state.tensors() | learner.streams.state()), global_random_states()

    before = look()
    answers = [
        learner.agent.choose(obs, greedy=greedy, generator=torch.Generator().manual_seed(seed)).copy()
        for greedy, seed in ((True, 0), (True, 1), (False, 0), (False, 0))
    ]
    after = look()
    assert not _differing(before[0], after[0]), (
        f"{where}: `choose` changes {_differing(before[0], after[0])[0]}"
    )
    assert before[1] == after[1], f"{where}: `choose` uses a process-wide random generator"
    shape = (_ACTIONS,) if spec.action.kind == "discrete" else (_ACTIONS, spec.action.n)
    for actions in answers:
        assert actions.shape == shape, f"{where}: `choose` returns {actions.shape} instead of {shape}"
    greedy, again, random, repeated = answers
    assert np.array_equal(greedy, again), f"{where}: the greedy action is random"
    assert (greedy == greedy[0]).all(), f"{where}: equal observations have different greedy actions"
    assert np.array_equal(random, repeated), f"{where}: `choose` draws from another source than its generator"


class _Spy(Metric):
    """Keeps the probe."""

    needs_batch = True
    probe: Probe

    def compute(self, probe: Probe) -> dict[str, float]:
        self.probe = probe
        return {}


def check_metric(metric: Mapping[str, Any]) -> None:
    """Check that a metric keeps the contract, with PPO's and C51's networks, of vectors and of images.

    It returns numbers by the names of networks (or ``""``), the same ones when it is asked again; it changes no
    tensor, random stream or gradient mode; and of networks that have blown up it returns NaN or a number, but
    raises nothing.

    Args:
        metric: ``{_target_: package.module.Class, **arguments}``.

    Raises:
        AssertionError: The contract is broken; the message says how.
        UserError: The metric cannot be built.
    """
    where = str(metric["_target_"])
    found: set[str] = set()
    for options in ({}, {"agent_name": "c51"}, {"shared": True, "network_name": "nature_cnn"}):
        parts = assemble_parts(tiny_config({}, **options))
        learner, collector = parts.learner, parts.collector
        measured = build_object(metric, Metric, "metric")
        spy = _Spy()
        watch = Measurement(learner, {"spy": spy}, every=1, probe_size=32)
        collector.enter(parts.level.enter(parts.level.tasks()[0], 0), 0, switch=False)
        watch.anchor("update")
        for _ in range(learner.agent.collects_per_iteration):
            collector.collect(learner.agent.collect_steps)
            learner.agent.prepare(collector.obs)
            learner.learn(0.0)
        numbers = {**learner.flush(), **learner.agent.statistics()}
        rehearsal = Rehearsal(parts.level, learner.agent, collector)
        rehearse = functools.partial(rehearsal.play, parts.level.tasks()[0], 0)
        watch.take(numbers, iteration=1, env_steps=0, task_end=True, rehearse=rehearse)
        before = clones(learner.state.tensors() | learner.streams.state()), global_random_states()
        (values, layers), again = (_computed(measured, spy.probe) for _ in range(2))
        after = clones(learner.state.tensors() | learner.streams.state()), global_random_states()
        changed = _differing(before[0], after[0])
        assert not changed, f"{where}: changes {changed[0]}"
        assert before[1] == after[1], f"{where}: a process-wide random generator was used"
        assert repr((values, layers)) == repr(again), f"{where}: the same probe gives other values"
        nets = {key.partition("/")[0] for key in (*values, *layers)}
        unknown = nets - learner.networks.keys() - {""}
        assert not unknown, f"{where}: {sorted(unknown)[0]!r} is not the name of a network"
        every = [*values.values(), *(v for of_net in layers.values() for v in of_net.values())]
        assert all(type(v) is float for v in every), f"{where}: values must be plain floats"
        found |= {k for k, v in values.items() if math.isfinite(v)}
        _blow_up(spy.probe)
        _computed(measured, spy.probe)
    assert found, f"{where}: finds no finite number anywhere"


def _computed(metric: Metric, probe: Probe) -> tuple[dict[str, float], Layers]:
    with torch.no_grad():
        values = metric.compute(probe), metric.layers(probe)
        assert not torch.is_grad_enabled(), f"{type(metric).__name__} switches gradients on"
    return values


@torch.no_grad()
def _blow_up(probe: Probe) -> None:
    """Break every number that is not computed again, and forget what was computed from them before."""
    for name in ("gradients", "second_moments"):
        vars(probe).pop(name, None)
    for net in probe.nets:
        for part in (net, *net.sites):
            for name in ("singular_values", "activity", "extremes"):
                vars(part).pop(name, None)
        for tensor in (net.features, *net.params.values(), *net.outputs.values()):
            tensor.fill_(math.nan)
        for site in net.sites:
            site.pre.fill_(math.nan)
            site.post.fill_(math.inf)
