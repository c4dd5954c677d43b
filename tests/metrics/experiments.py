"""Tiny runs whose measurements can be looked at from outside."""

from __future__ import annotations

from typing import Any

from plasticine.compose import assemble_parts
from plasticine.core.metric import Metric, Probe
from plasticine.core.tracker import NullTracker
from plasticine.core.trainer import Trainer
from plasticine.testing import tiny_config
from tests.core.runs import trainer

FOLDER = "plasticine.metrics"
#: The expensive metrics, with numbers small enough for tests.
EXPENSIVE: dict[str, dict[str, Any]] = {
    "grad_cov": {
        "_target_": f"{FOLDER}.grad_cov.GradientCovariance",
        "samples": 6,
        "most": 1000,
        "sketch": 64,
        "every": 1,
    },
    "entk_rank": {
        "_target_": f"{FOLDER}.entk.TangentKernelRank",
        "samples": 6,
        "delta": 0.01,
        "most": 1000,
        "sketch": 64,
        "every": 1,
    },
    "hessian_top": {
        "_target_": f"{FOLDER}.hessian.HessianTop",
        "samples": 6,
        "steps": 60,
        "tolerance": 0.01,
        "every": 2,
    },
    "hessian_rank": {
        "_target_": f"{FOLDER}.hessian.HessianRank",
        "samples": 6,
        "steps": 8,
        "epsilon": 0.01,
        "every": 2,
    },
    "capacity_probe": {
        "_target_": f"{FOLDER}.capacity_probe.CapacityProbe",
        "targets": 2,
        "steps": 5,
        "batch_size": 8,
        "lr": 0.001,
        "every": None,
    },
    "overestimation": {
        "_target_": f"{FOLDER}.overestimation.Overestimation",
        "max_steps": 20,
        "tail": 1.0,
        "every": None,
    },
}
#: Arguments of `tiny_config`: every agent, one and two encoders, both kinds of actions, every network.
RUNS: dict[str, dict[str, Any]] = {
    "ppo": {"agent_name": "ppo", "actions": "continuous"},
    "ppo-shared": {"agent_name": "ppo", "shared": True},
    "pqn": {"agent_name": "pqn"},
    "td3": {"agent_name": "td3", "actions": "continuous"},
    "c51": {"agent_name": "c51"},
    "ppo-impala": {"agent_name": "ppo", "network_name": "impala", "shared": True},
    "ppo-nature": {"agent_name": "ppo", "network_name": "nature_cnn"},
    "pqn-nature": {"agent_name": "pqn", "network_name": "nature_cnn"},
    "c51-impala": {"agent_name": "c51", "network_name": "impala"},
}


class Lines(NullTracker):
    """Keeps the scalars."""

    def __init__(self) -> None:
        self.lines: list[dict[str, float]] = []

    def log(self, scalars: Any, env_steps: int) -> None:
        self.lines.append(dict(scalars))


class Keep(Metric):
    """Keeps the latest probe."""

    needs_batch = True
    probe: Probe

    def compute(self, probe: Probe) -> dict[str, float]:
        type(self).probe = probe
        return {}


def run(name: str, nodes: dict[str, Any], **changes: Any) -> tuple[Trainer, list[dict[str, float]]]:
    """A finished run of `RUNS` with these metrics, and its lines."""
    options = {**RUNS[name], **changes}
    config = tiny_config({}, **options)
    config["metrics"] = {"every": 1, "probe_size": 24, "video": False, "set": nodes}
    lines = Lines()
    t = trainer(assemble_parts(config), tracker=lines)
    assert t.fit() == "finished"
    return t, lines.lines


def probe_of(name: str, **changes: Any) -> tuple[Trainer, Probe]:
    """A finished run, and the probe of its last measurement: the weights are as they were then."""
    t, _ = run(name, {"keep": {"_target_": f"{Keep.__module__}.Keep"}}, **changes)
    return t, Keep.probe
