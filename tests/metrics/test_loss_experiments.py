"""Gradients, kernels and curvature of real learners against independent computations."""

from __future__ import annotations

import pytest
import torch

from plasticine.compose import build_object
from plasticine.core.metric import Metric
from plasticine.metrics.sample_gradients import leaves
from tests.metrics.experiments import EXPENSIVE, probe_of

AGENTS = ["ppo", "ppo-shared", "pqn", "td3", "c51"]
#: Of this width, so that dense matrices are small; smooth, so that differences of gradients are derivatives.
NETWORK = {"hidden": [3], "act": "tanh"}


def metric(name, **changes):
    return build_object({**EXPENSIVE[name], "every": 1, **changes}, Metric, name)


def tiny(name):
    return probe_of(name, network=NETWORK)


def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("name", [*AGENTS, "ppo-impala", "pqn-nature"])
def test_single_gradients_are_those_of_the_trained_loss(name):
    """Of one row, and added up over the minibatch; PPO trains with a derivative by hand."""
    _, probe = probe_of(name)
    collect = metric("grad_cov", samples=10_000, most=10**9)
    with torch.no_grad():
        for phase, batch in probe.lab.batches.items():
            whole = probe.lab.gradients(phase)
            first = torch.randperm(len(batch[0]), generator=generator())[:1]
            single = probe.lab.gradients(phase, probe.lab.rows(batch, first))
            for net, rows in collect._rows(probe.lab, phase, generator()).items():
                assert len(rows) == len(batch[0])
                scale = float(rows.abs().max())
                for found, expected in ((rows.mean(0), whole), (rows[0], single)):
                    flat = torch.cat([g.flatten() for k, g in expected.items() if k.startswith(f"{net}/")])
                    assert torch.allclose(found, flat, rtol=1e-3, atol=1e-5 * scale), (phase, net)
                assert scale > 0


def doubles(lab, phase, net):
    """Everything in float64: the phase's own rows, all parameters, and those of `net` as one vector."""
    batch = lab.batches[phase]
    batch = type(batch)(*(part.double() if part.is_floating_point() else part for part in batch))
    params = {k: v.detach().double() for k, v in lab._params.items()}
    own = [k for k in params if k.startswith(f"{net}/")]
    return batch, params, own


def dense_hessian(lab, phase, net):
    """Central differences of first derivatives, in float64."""
    batch, params, own = doubles(lab, phase, net)
    flat = torch.cat([params[k].flatten() for k in own])
    sizes = [params[k].numel() for k in own]

    def gradient(vector):
        parts = {k: v.view_as(params[k]) for k, v in zip(own, vector.split(sizes), strict=True)}
        at = leaves({**params, **parts})
        grads = torch.autograd.grad(
            lab.loss(phase, at, batch), [at[k] for k in own], allow_unused=True, materialize_grads=True
        )
        return torch.cat([g.flatten() for g in grads])

    steps = 1e-5 * torch.eye(len(flat), dtype=torch.float64)
    dense = torch.stack([(gradient(flat + s) - gradient(flat - s)) / 2e-5 for s in steps])
    assert torch.allclose(dense, dense.T, atol=1e-4 * float(dense.abs().max()))
    return dense


@pytest.mark.parametrize("name", AGENTS)
def test_curvature_equals_that_of_dense_hessians(name):
    t, probe = tiny(name)
    top = metric("hessian_top", samples=10_000, tolerance=1e-4, steps=200)
    rank = metric("hessian_rank", samples=10_000, steps=200)
    with torch.no_grad():
        tops, ranks = top.compute(probe), rank.compute(probe)
    assert set(tops) == set(ranks) == {net.name for net in probe.nets}
    if name == "c51":
        t.learner.agent._support = t.learner.agent._support.double()
    for phase, nets in probe.lab.phases.items():
        for net in nets:
            exact = torch.linalg.eigvalsh(dense_hessian(probe.lab, phase, net))
            largest = float(exact.abs().max())
            assert tops[net] == pytest.approx(float(exact[-1]), abs=2e-3 * largest), net
            low, high = (int((exact.abs() > e * largest).sum()) for e in (0.011, 0.009))
            assert low <= ranks[net] <= high, net


def dense_jacobian(lab, net, inputs, signs):
    """Of the outputs, summed up with signs, by central differences in float64."""
    params = {k: v.double() for k, v in net.params.items()}
    sizes = [v.numel() for v in params.values()]
    flat = torch.cat([v.flatten() for v in params.values()])

    def outputs(vector):
        at = {k: v.view_as(params[k]) for k, v in zip(params, vector.split(sizes), strict=True)}
        found = lab.apply(net.name, at, inputs)
        return sum(out @ s.double() for out, s in zip(found.values(), signs, strict=True))

    steps = 1e-6 * torch.eye(len(flat), dtype=torch.float64)
    return torch.stack([(outputs(flat + s) - outputs(flat - s)) / 2e-6 for s in steps], dim=1)


@pytest.mark.parametrize("name", AGENTS)
def test_kernels_equal_those_of_dense_jacobians(name):
    _, probe = tiny(name)
    kernel = metric("entk_rank", samples=5, most=10**9)
    for net in probe.nets:
        with torch.no_grad():
            rows = kernel._rows(probe.lab, net, generator()).double()
        g = generator()
        inputs = net.inputs[torch.randperm(len(net.inputs), generator=g)[:5]].double()
        signs = [2 * torch.randint(2, out.shape[1:], generator=g) - 1 for out in net.outputs.values()]
        expected = dense_jacobian(probe.lab, net, inputs, signs)
        scale = float(expected.abs().max())
        assert torch.allclose(rows, expected, rtol=1e-3, atol=1e-4 * scale), net.name
        assert scale > 0


def test_less_diverse_inputs_have_a_kernel_of_lower_rank():
    t, probe = probe_of("pqn")
    kernel = metric("entk_rank", samples=24, most=10**9)
    with torch.no_grad():
        before = kernel.compute(probe)["q"]
        weight = t.learner.state.params["q/body.0.weight"]
        weight.copy_(weight[:1].expand_as(weight))
        after = kernel.compute(probe)["q"]
    assert after < before
