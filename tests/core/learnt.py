"""Learners of every kind that have learnt a little, with the probe of their last measurement."""

from __future__ import annotations

import functools

import pytest

from plasticine.compose import assemble_parts
from plasticine.core.measure import Measurement
from plasticine.core.metric import Metric, Probe
from plasticine.testing import method_nodes, tiny_config

AGENTS = {
    "ppo": {},
    "ppo continuous": {"actions": "continuous"},
    "ppo images": {"shared": True, "network_name": "impala"},
    "pqn": {"agent_name": "pqn"},
    "c51": {"agent_name": "c51"},
    "td3": {"agent_name": "td3", "actions": "continuous"},
}
EVERY = pytest.mark.parametrize("agent", AGENTS)


class Keep(Metric):
    """Keeps the probe."""

    needs_batch = True

    def compute(self, probe: Probe) -> dict[str, float]:
        self.probe = probe
        return {}


@functools.cache
def learnt(agent: str, *methods: str, lr: float = 1e-2):
    """A learner after two iterations, with the probe of the second; not to be written to."""
    nodes = {k: v for m in methods for k, v in method_nodes(m).items()}
    config = tiny_config(nodes, agent={"lr": lr}, **AGENTS[agent])
    parts, keep = assemble_parts(config), Keep()
    learner, collector = parts.learner, parts.collector
    watch = Measurement(learner, {"keep": keep}, every=1, probe_size=32)
    collector.enter(parts.level.enter(parts.level.tasks()[0], 0), 0, switch=False)
    for i in (1, 2):
        watch.anchor("update")
        for _ in range(learner.agent.collects_per_iteration):
            collector.collect(learner.agent.collect_steps)
            learner.agent.prepare(collector.obs)
            learner.learn(0.0)
        numbers = {**learner.flush(), **learner.agent.statistics()}
        watch.take(numbers, iteration=i, env_steps=32 * i, task_end=False)
    return learner, keep.probe
