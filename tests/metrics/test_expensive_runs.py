"""The expensive metrics on every agent and network: what they report, and that nobody notices them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.compose import build_object
from plasticine.core.metric import Metric
from plasticine.errors import UserError
from plasticine.testing import check_metric, tiny_config
from plasticine.testing.runs import global_random_states
from tests.core.runs import StopAfter, recorded, series
from tests.metrics.experiments import EXPENSIVE, RUNS, probe_of, run

FURTHER = {
    "grad_cov": ("cosine", "negative", "zero"),
    "entk_rank": ("srank", "log_condition"),
    "capacity_probe": ("fresh", "gap"),
    "overestimation": ("value", "return"),
}
VALUES = {"ppo": ["critic"], "td3": ["critic.0", "critic.1"]}


def everything(t):
    """All that training depends on, apart from the metrics' own random stream."""
    streams = {k: v for k, v in t.learner.streams.state().items() if k != "metrics"}
    collector = t.collector.state(simulator=False)
    return {k: v.clone() for k, v in t.learner.state.tensors().items()}, streams, repr(collector)


SLOW = ("ppo-nature", "c51-impala")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in RUNS])
def test_values_for_every_network_and_the_run_is_the_same(name):
    before = global_random_states()
    watched, lines = run(name, EXPENSIVE)
    assert global_random_states() == before
    last = lines[-2]  # the very last line is the summary
    nets = list(watched.learner.networks)
    for metric in EXPENSIVE:
        measured = nets
        if metric == "overestimation":
            measured = VALUES.get(name.split("-")[0], nets)
            if name == "ppo-nature":
                measured = ["critic"]
            elif name.startswith("ppo-"):
                measured = ["shared"]
        for key in (metric, *(f"{metric}_{further}" for further in FURTHER.get(metric, ()))):
            values = [last[f"plasticity/{key}/{net}"] for net in measured]
            assert all(math.isfinite(v) for v in values), key
            assert last[f"plasticity/{key}"] == pytest.approx(np.mean(values))
            assert not [k for k in last if k.startswith(f"plasticity/{key}/") and k.split("/")[2] not in nets]

    quiet, _ = run(name, {})
    for with_metrics, without in zip(everything(watched)[:2], everything(quiet)[:2], strict=True):
        assert with_metrics.keys() == without.keys()
        assert all(torch.equal(with_metrics[k], without[k]) for k in without)
    assert everything(watched)[2] == everything(quiet)[2]


def test_each_keeps_its_own_time():
    """3 tasks of 3 iterations: counted over the run, and at the end of each task."""
    nodes = {"grad_cov": {**EXPENSIVE["grad_cov"], "every": 4}, "capacity_probe": EXPENSIVE["capacity_probe"]}
    _, lines = run("ppo", nodes)
    iterations = [line for line in lines if "task/index" in line]
    measured = {m: [i + 1 for i, x in enumerate(iterations) if f"plasticity/{m}" in x] for m in nodes}
    assert measured == {"grad_cov": [1, 3, 4, 6, 8, 9], "capacity_probe": [3, 6, 9]}


@pytest.mark.parametrize("metric", EXPENSIVE)
def test_broken_weights_give_nan_for_their_network_only(metric):
    t, probe = probe_of("ppo")
    measure = build_object({**EXPENSIVE[metric], "every": 1}, Metric, metric)
    broken = "critic" if metric == "overestimation" else "actor"
    with torch.no_grad():
        t.learner.state.params[f"{broken}/body.0.weight"].fill_(math.nan)
        values = measure.compute(probe)
    assert values
    for key, value in values.items():
        net, _, further = key.partition("/")
        assert math.isfinite(value) == (net != broken or further == "fresh"), key


@pytest.mark.parametrize("metric", EXPENSIVE)
def test_contract(metric):
    check_metric({**EXPENSIVE[metric], "every": 1, **({"steps": 4} if metric == "hessian_rank" else {})})


@pytest.mark.parametrize("metric", EXPENSIVE)
def test_the_same_measurement_gives_the_same_values_and_leaves_no_trace(metric):
    t, probe = probe_of("td3")
    measure = build_object({**EXPENSIVE[metric], "every": 1}, Metric, metric)
    tensors = {k: (v.clone(), v._version) for k, v in t.learner.state.tensors().items()}
    with torch.no_grad():
        first, second = measure.compute(probe), measure.compute(probe)
    assert first == second
    assert first
    for k, v in t.learner.state.tensors().items():
        assert torch.equal(v, tensors[k][0])
        assert v._version == tensors[k][1]
        assert v.grad is None


@pytest.mark.parametrize(
    ("metric", "key", "value"),
    [
        ("grad_cov", "samples", 1),
        ("grad_cov", "sketch", 0),
        ("entk_rank", "delta", 1.0),
        ("entk_rank", "samples", 1),
        ("hessian_top", "tolerance", 0.0),
        ("hessian_top", "steps", 1),
        ("hessian_rank", "epsilon", 1.0),
        ("hessian_rank", "every", 0),
        ("capacity_probe", "targets", 0),
        ("capacity_probe", "lr", 0.0),
        ("overestimation", "tail", 1.5),
        ("overestimation", "max_steps", 0),
    ],
)
def test_numbers_out_of_range_are_refused(metric, key, value):
    with pytest.raises(UserError, match=key):
        build_object({**EXPENSIVE[metric], key: value}, Metric, metric)


def test_an_interrupted_run_measures_what_an_uninterrupted_one_does(tmp_path):
    config = tiny_config({}, **RUNS["c51"])
    config["metrics"] = {"every": 1, "probe_size": 24, "video": False, "set": EXPENSIVE}
    recorded(tmp_path / "whole", config)
    recorded(tmp_path / "parts", config, stop=StopAfter(4))
    recorded(tmp_path / "parts", config)
    whole, parts = (series(tmp_path / name) for name in ("whole", "parts"))
    assert whole == parts
    assert sum("plasticity/overestimation" in row.get("m", {}) for row in whole) == 3
