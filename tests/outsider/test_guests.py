"""The contracts of agents and metrics are worth something only if they fail: each guest breaks one promise."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.agents.ppo import PPO
from plasticine.core.metric import Metric
from plasticine.core.noise import Streams
from plasticine.testing import check_agent, check_metric, tiny_config


class DrawsFromTheProcess(PPO):
    def begin_collect(self):
        super().begin_collect()
        torch.rand(1)


class Forgets(PPO):
    """Its learning rate depends on a count that no checkpoint holds."""

    count = 0

    def batches(self, progress):
        self.count += 1
        for phase, lr, batch in super().batches(progress):
            yield phase, lr / self.count, batch


class Replaces(PPO):
    def after_update(self, phase):
        weight = self._actor.params["body.0.weight"]
        weight.data = weight.data.clone()


class LearnsNothing(PPO):
    def loss(self, phase, batch):
        loss, aux = super().loss(phase, batch)
        return 0.0 * loss, aux


class IgnoresTheSeed(PPO):
    """Begins with the same values, draws the same noise and looks at nothing."""

    def bind(self, env, networks, state, streams, device):
        super().bind(env, networks, state, Streams(0), device)
        with torch.no_grad():
            for p in state.params.values():
                p.copy_(torch.arange(1, p.numel() + 1).cos().view(p.shape))

    def act(self, obs):
        return super().act(np.ones_like(obs))

    def record(self, out, reward, final_obs, valid):
        none = np.zeros_like(out.terminated)
        super().record(out._replace(terminated=none, truncated=none), np.ones_like(reward), None, valid)

    def prepare(self, next_obs):
        super().prepare(np.ones_like(next_obs))


class ChoosesWithItsOwnStream(PPO):
    def choose(self, obs, *, greedy, generator):
        return super().choose(obs, greedy=greedy, generator=self._streams["act"])


class ChoosesAtRandom(PPO):
    def choose(self, obs, *, greedy, generator):
        return super().choose(obs, greedy=False, generator=generator)


@pytest.mark.parametrize(
    ("agent", "complaint"),
    [
        (PPO, None),
        (DrawsFromTheProcess, "process-wide random generator"),
        (Forgets, "after an interruption"),
        (Replaces, "moved in memory"),
        (LearnsNothing, "never trained"),
        (IgnoresTheSeed, "another seed gives the same run"),
        (ChoosesWithItsOwnStream, "`choose` changes act"),
        (ChoosesAtRandom, "greedy"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_agents_are_caught(agent, complaint):
    config = tiny_config({})
    config["agent"]["_target_"] = f"{__name__}.{agent.__name__}"
    if complaint is None:
        check_agent(config)
        return
    with pytest.raises(AssertionError, match=complaint):
        check_agent(config)


class Good(Metric):
    def compute(self, probe):
        return {net.name: float(net.features.mean()) for net in probe.nets}


class Writes(Good):
    def compute(self, probe):
        next(iter(probe.nets[0].params.values())).mul_(0.5)
        return super().compute(probe)


class Draws(Good):
    def compute(self, probe):
        return {"": float(torch.rand(()))}


class ReturnsTensors(Good):
    def compute(self, probe):
        return {net.name: net.features.mean() for net in probe.nets}


class NamesNobody(Good):
    def compute(self, probe):
        return {"body": 1.0}


class Remembers(Good):
    calls = 0.0

    def compute(self, probe):
        self.calls += 1.0
        return {"": self.calls}


class Raises(Good):
    def compute(self, probe):
        return {"": float(round(float(probe.nets[0].features.mean())))}


class SwitchesGradientsOn(Good):
    def compute(self, probe):
        torch.set_grad_enabled(True)
        return super().compute(probe)


class SaysNothing(Good):
    def compute(self, probe):
        return {}


@pytest.mark.parametrize(
    ("metric", "error", "complaint"),
    [
        (Good, None, None),
        (Writes, AssertionError, "changes params:"),
        (Draws, AssertionError, "process-wide random generator"),
        (ReturnsTensors, AssertionError, "plain floats"),
        (NamesNobody, AssertionError, "not the name of a network"),
        (Remembers, AssertionError, "the same probe gives other values"),
        (Raises, OverflowError, "infinity"),
        (SwitchesGradientsOn, AssertionError, "switches gradients on"),
        (SaysNothing, AssertionError, "no finite number"),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_broken_metrics_are_caught(metric, error, complaint):
    node = {"_target_": f"{__name__}.{metric.__name__}"}
    if error is None:
        check_metric(node)
        return
    with pytest.raises(error, match=complaint):
        check_metric(node)
