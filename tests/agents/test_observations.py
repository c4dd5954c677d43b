"""Images are stored as bytes and read as numbers in 0..1; what followed a step is its own episode's."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from plasticine.agents.following import following
from plasticine.agents.observations import Observations
from plasticine.core.env import ActionSpec, EnvSpec
from plasticine.memory.rollout import Rollout
from plasticine.testing import tiny_config
from tests.methods import lab

CPU = torch.device("cpu")


def spec(shape, dtype, num_envs=2):
    return EnvSpec("test/env", shape, dtype, ActionSpec("discrete", 3), num_envs)


def test_images_are_scaled_and_vectors_passed_on():
    obs = torch.tensor([[[[0, 51], [255, 102]]]], dtype=torch.uint8)
    seen = Observations(spec((1, 2, 2), "uint8"), CPU)(obs)
    assert torch.allclose(seen.flatten(), torch.tensor([0.0, 0.2, 1.0, 0.4]))
    assert obs.dtype == torch.uint8
    vector = torch.randn(3, 5)
    assert Observations(spec((5,), "float32"), CPU)(vector) is vector


@pytest.mark.parametrize(("shape", "rows"), [((5,), 4096), ((3, 64, 64), 341), ((3, 2048, 2048), 1)])
def test_large_observations_are_evaluated_in_small_chunks(shape, rows):
    inputs = Observations(spec(shape, "uint8"), CPU)
    assert inputs.chunk == rows
    inputs.chunk = 3
    sizes = []

    def total(x):
        sizes.append(len(x))
        return x.flatten(1).sum(1)

    obs = torch.randint(0, 255, (8, 2, 2), dtype=torch.uint8)
    assert torch.allclose(inputs.map(total, obs), obs.flatten(1).float().sum(1) / 255)
    assert sizes == [3, 3, 2]


def test_ppo_keeps_a_rollout_of_images_in_bytes():
    parts = lab.parts({}, experience=True, network_name="nature_cnn", shared=True)
    agent = parts.learner.agent
    assert agent._data.obs.dtype == torch.uint8
    batches = [b for _, _, b in agent.batches(0.0)]
    assert len(batches) == 4
    rows = agent._data.obs.float().div(255).flatten(1)
    for epoch in (batches[:2], batches[2:]):
        seen = torch.cat([b.obs for b in epoch]).flatten(1)
        assert seen.dtype == torch.float32
        key = torch.cat([b.returns for b in epoch])
        assert torch.allclose(seen[key.argsort()], rows[agent._data.returns.argsort()], atol=1e-6)
    (probe,) = agent.probe_inputs(7, torch.Generator().manual_seed(0)).values()
    assert probe.shape == (7, 2, 36, 36)
    assert 0.1 < probe.max() <= 1.0


def test_a_cut_without_its_final_observation_counts_as_an_end():
    rollout = Rollout(spec((1,), "float32"), 3)
    rollout.begin()
    no = np.zeros(2, bool)
    for t in range(3):
        rollout.put_obs(np.full((2, 1), t, np.float32))
        cut = np.array([t == 0, t == 1])
        final = np.full((2, 1), 50.0, np.float32) if t == 1 else None
        rollout.record(np.zeros(2), no, cut, final, None)
    values = torch.arange(6.0).view(3, 2)
    last = torch.tensor([10.0, 11.0])
    after = following(rollout, values, last, lambda x: x[:, 0], truncation_is_termination=False)
    assert after.values.tolist() == [[2.0, 3.0], [4.0, 50.0], [10.0, 11.0]]
    assert after.terminated.tolist() == [[True, False], [False, False], [False, False]]
    assert after.done.tolist() == [[True, False], [False, True], [False, False]]
    strict = following(rollout, values, last, lambda x: x[:, 0], truncation_is_termination=True)
    assert torch.equal(strict.terminated, after.done)


def test_tiny_configuration_of_images_is_one():
    assert tiny_config({}, network_name="impala")["env"]["image_size"] == 36
