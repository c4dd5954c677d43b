"""The loop: order and number of events, what is measured, and that watching changes nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from plasticine.core.learner import Learner
from plasticine.core.method import Method
from plasticine.core.noise import Streams, derive_seed
from plasticine.core.scores import final_return, mean_return, summarise
from plasticine.core.tracker import Episode, NullTracker
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.build import build
from plasticine.networks.catalog import mlp
from tests.core.runs import config, parts, tensors, trainer


class Memory(NullTracker):
    """Keeps the record in lists."""

    def __init__(self):
        self.lines, self.events, self.finished = [], [], []

    def log(self, scalars, env_steps):
        self.lines.append((env_steps, dict(scalars)))

    def event(self, kind, env_steps, facts):
        self.events.append((kind, env_steps, dict(facts)))

    def episodes(self, finished):
        self.finished += finished


class Recorder(Method):
    """Writes down every call."""

    def __init__(self, **common):
        super().__init__(**common)
        self.calls = []

    def edit_network(self, net):
        self.calls.append(f"edit_network {net.name}")
        return net

    def edit_optimizer(self, optimizer):
        self.calls.append("edit_optimizer")
        return optimizer

    def init(self, params, anatomy):
        self.calls.append("init")
        return {}

    def loss_term(self, params, slot):
        self.calls.append("loss")
        return torch.zeros(())

    def wrap_grad(self, grad_fn, params, slot):
        def wrapped(batch):
            self.calls.append("grad")
            return grad_fn(batch)

        return wrapped

    def after_step(self, params, slot, generator):
        self.calls.append("step")

    def intervene(self, op):
        self.calls.append(f"{op.event}@{op.counters.iteration}")
        return {}


EVENTS = [{"on": e} for e in ("run_start", "task_start", "task_switch", "task_end")]


def build_learner(p, methods):
    cfg = config()
    options = {k: v for k, v in cfg["network"].items() if k != "_target_"}
    fresh = parts()
    return Learner.build(
        agent=fresh.learner.agent,
        methods=methods,
        env=p.level.spec(),
        body=mlp(**options),
        build_network=build,
        merge_anatomies=Anatomy.merge,
        streams=Streams(0),
        device=torch.device("cpu"),
    ), fresh


def run_with(methods):
    p = parts()
    learner, fresh = build_learner(p, methods)
    fresh.collector.agent = learner.agent
    measurement = type(fresh.measurement)(learner, {}, every=1, probe_size=8)
    t = trainer(fresh._replace(learner=learner, measurement=measurement), tracker=Memory())
    t.fit()
    return t


def test_every_hook_is_called_in_order_and_number():
    m = Recorder(name="m", scope=["*"], when=[*EVENTS, {"every": 2}])
    t = run_with((m,))
    plan = t.plan
    assert plan.task_iterations == (4, 4, 4)
    expected = ["edit_network actor", "edit_network critic", "edit_optimizer", "init", "run_start@0"]
    iteration = 0
    for task in range(3):
        if task:
            expected.append(f"task_switch@{iteration}")
        expected.append(f"task_start@{iteration}")
        for _ in range(4):
            expected += ["grad", "loss", "step"] * 4
            iteration += 1
            if iteration % 2 == 0:
                expected.append(f"iteration@{iteration}")
        expected.append(f"task_end@{iteration}")
    assert m.calls == expected


def test_a_watching_method_equals_no_method_bit_for_bit():
    bare, watched = run_with(()), run_with((Recorder(name="m", scope=["*"], when=EVENTS),))
    a, b = tensors(bare), tensors(watched)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert bare.tracker.finished == watched.tracker.finished
    assert [(s, m["loss/value_loss"]) for s, m in bare.tracker.lines[:-1]] == [
        (s, m["loss/value_loss"]) for s, m in watched.tracker.lines[:-1]
    ]


def test_vanilla_equals_a_learner_without_method_support():
    bare = run_with(())
    p = parts("metrics=none")
    t = trainer(p, tracker=Memory())
    t.fit()
    a, b = tensors(bare), tensors(t)
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_measuring_changes_nothing():
    """With and without metrics: same parameters, same random streams, same episodes, same global state."""
    runs = {}
    for metrics in ("core", "none"):
        torch.manual_seed(1)
        np.random.seed(1)
        random.seed(1)
        overrides = ("metrics.every=1",) if metrics == "core" else ()
        t = trainer(parts(f"metrics={metrics}", *overrides), tracker=Memory())
        t.fit()
        streams = {k: v for k, v in t.learner.streams.state().items() if k != "metrics"}
        state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        runs[metrics] = (tensors(t), streams, t.tracker.finished, state)
    (a, sa, fa, ga), (b, sb, fb, gb) = runs["core"], runs["none"]
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert sa.keys() == sb.keys()
    assert all(torch.equal(sa[k], sb[k]) for k in sa)
    assert fa == fb
    assert torch.equal(ga[0], gb[0])
    assert ga[1:] == gb[1:]


def test_measurements_come_when_due_and_cover_every_network():
    t = trainer(parts(), tracker=Memory())
    t.fit()
    measured = [i for i, (_, m) in enumerate(t.tracker.lines[:12], 1) if "plasticity/srank" in m]
    assert measured == [1, 3, 4, 6, 8, 9, 12]  # first, every third, last of each task
    line = t.tracker.lines[0][1]
    for metric in ("rdu", "srank", "stable_rank", "effective_rank", "feature_norm", "weight_difference"):
        both = [line[f"plasticity/{metric}/{net}"] for net in ("actor", "critic")]
        assert line[f"plasticity/{metric}"] == pytest.approx(sum(both) / 2)
    assert line["plasticity/gradient_norm"] > 0
    assert "plasticity/policy_entropy" in line
    assert "loss/policy_entropy" not in line


def test_weight_difference_is_measured_from_the_start_of_the_update():
    t = trainer(parts("metrics.every=1"), tracker=Memory())
    t._stop = _Looks(t)
    t.fit()
    (_, second), before, after = t.tracker.lines[1], t._stop.seen[0], t._stop.seen[1]
    keys = [k for k in before if k.startswith("actor/") and not k.endswith("log_std")]
    squares = sum(float((after[k].double() - before[k].double()).square().sum()) for k in keys)
    expected = (squares / sum(before[k].numel() for k in keys)) ** 0.5
    assert second["plasticity/weight_difference/actor"] == pytest.approx(expected, rel=1e-4)


class _Looks:
    """Remembers the parameters at the end of the first two iterations, then stops."""

    def __init__(self, t):
        self.params, self.seen = t.learner.state.params, []

    def is_set(self):
        self.seen.append({k: v.detach().clone() for k, v in self.params.items()})
        return len(self.seen) == 2


def test_switches_are_recorded_with_what_the_simulator_says():
    t = trainer(parts(), tracker=Memory())
    t.fit()
    starts = [(step, f["index"], f["name"]) for kind, step, f in t.tracker.events if kind == "task_start"]
    assert [s[:2] for s in starts] == [(0, 0), (256, 1), (512, 2)]
    assert [s[2] for s in starts] == [task.name for task in t.level.tasks()]
    assert [m["task/index"] for _, m in t.tracker.lines[:-1]] == [0.0] * 4 + [1.0] * 4 + [2.0] * 4


def test_summary_closes_the_record():
    t = trainer(parts(), tracker=Memory())
    t.fit()
    step, last = t.tracker.lines[-1]
    assert step == 768
    assert set(last) == {
        "summary/final_return",
        "summary/mean_task_final",
        "summary/mean_return",
        "summary/env_steps_per_s",
    }
    assert last["summary/mean_return"] == pytest.approx(mean_return(t.tracker.finished))


def test_scores_on_a_hand_made_record():
    e = [Episode(10, 0, 1.0, 10), Episode(20, 0, 3.0, 10), Episode(95, 0, 5.0, 30), Episode(150, 1, 7.0, 50)]
    assert final_return(e[:3], 0, 100) == 5.0
    assert final_return(e[:2], 0, 100) == 3.0  # none ended in the last tenth: the last one counts
    assert mean_return(e[:2]) == 2.0
    s = summarise(e, [(0, 100), (100, 200)])
    assert s["final_return"] == 7.0
    assert s["mean_task_final"] == 6.0
    assert s["mean_return"] == pytest.approx((10 * 1 + 10 * 3 + 30 * 5 + 50 * 7) / 100)
    assert np.isnan(final_return([], 0, 1))


def test_seeds_differ_by_purpose_and_position():
    seeds = {derive_seed(s, "env", i) for s in range(20) for i in range(20)}
    assert len(seeds) == 400
    assert all(0 <= s < 2**63 for s in seeds)
    assert derive_seed(1, "a") == derive_seed(1, "a") != derive_seed(1, "b")


def test_same_seed_same_run_and_other_seed_another():
    def final(seed):
        t = trainer(parts(f"seed={seed}"), seed=seed)
        t.fit()
        return t.learner.state.params["actor/body.0.weight"].detach().clone()

    assert torch.equal(final(1), final(1))
    assert not torch.equal(final(1), final(2))
