"""Experiments on a learner: right, and without a trace."""

from __future__ import annotations

import pytest
import torch

from plasticine.testing.runs import clones, global_random_states
from tests.core.learnt import AGENTS, EVERY, learnt


@EVERY
def test_the_loss_at_the_present_parameters_is_that_of_training(agent):
    learner, probe = learnt(agent)
    for phase, batch in probe.lab.batches.items():
        present = probe.lab.trained(phase)
        loss = probe.lab.loss(phase, present)
        with torch.no_grad():
            expected, _ = learner.agent.loss(phase, batch)
        torch.testing.assert_close(loss, expected)
        assert not loss.requires_grad


@pytest.mark.parametrize("agent", [a for a in AGENTS if a != "c51"])  # which computes in float32 only
def test_first_and_second_derivatives_at_other_parameters(agent):
    """Against differences of the loss along a random direction, in float64."""
    _, probe = learnt(agent)
    lab = probe.lab
    for phase, batch in lab.batches.items():
        wide = type(batch)(*(x.double() if x.is_floating_point() else x for x in batch))
        point = {k: v.double() for net in probe.nets for k, v in net.params.items()}
        names = list(lab.trained(phase))
        generator = torch.Generator().manual_seed(1)
        way = {k: torch.randn(point[k].shape, generator=generator, dtype=torch.float64) for k in names}

        def at(t, phase=phase, wide=wide, point=point, way=way):
            moved = {k: v + t * way[k] if k in way else v for k, v in point.items()}
            return lab.loss(phase, moved, wide)

        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        (first,) = torch.autograd.grad(at(t), t, create_graph=True)
        (second,) = torch.autograd.grad(first, t)
        h = 1e-6
        low, middle, high = (float(at(torch.tensor(s, dtype=torch.float64))) for s in (-h, 0.0, h))
        assert first.item() == pytest.approx((high - low) / (2 * h), rel=1e-4, abs=1e-6)
        (up,) = torch.autograd.grad(at(a := torch.tensor(h, dtype=torch.float64, requires_grad=True)), a)
        (down,) = torch.autograd.grad(at(b := torch.tensor(-h, dtype=torch.float64, requires_grad=True)), b)
        assert second.item() == pytest.approx((up - down).item() / (2 * h), rel=1e-3, abs=1e-4)
        assert high != middle


@EVERY
def test_the_loss_of_a_minibatch_is_the_mean_over_its_rows(agent):
    _, probe = learnt(agent)
    for phase, batch in probe.lab.batches.items():
        present = probe.lab.trained(phase)
        rows = [
            probe.lab.loss(phase, present, probe.lab.rows(batch, torch.tensor([i])))
            for i in range(len(batch[0]))
        ]
        torch.testing.assert_close(
            torch.stack(rows).mean(), probe.lab.loss(phase, present), rtol=1e-4, atol=1e-5
        )


@EVERY
def test_networks_at_other_parameters(agent):
    _, probe = learnt(agent)
    for net in probe.nets:
        out = probe.lab.apply(net.name, net.params, net.inputs)
        captured = probe.lab.capture(net.name, net.params, net.inputs)
        for head, value in net.outputs.items():
            torch.testing.assert_close(out[head], value)
        torch.testing.assert_close(captured.features, net.features)
        earlier = probe.lab.apply(net.name, net.anchors["init"], net.inputs)
        assert not any(torch.equal(earlier[head], value) for head, value in net.outputs.items())
        fresh = [probe.lab.fresh(net.name, torch.Generator().manual_seed(s)) for s in (0, 0, 1)]
        assert {k: v.shape for k, v in fresh[0].items()} == {k: v.shape for k, v in net.params.items()}
        assert all(torch.equal(a, b) for a, b in zip(fresh[0].values(), fresh[1].values(), strict=True))
        weight = f"{net.name}/{net.sites[0].name}.weight"
        assert not torch.equal(fresh[0][weight], fresh[2][weight])
        assert float(fresh[0][weight].std()) == pytest.approx(
            float(net.anchors["init"][weight].std()), rel=0.5
        )


def test_random_streams_belong_to_a_purpose_and_a_moment():
    learner, _ = learnt("ppo")
    before = clones(learner.streams.state())
    draws = [
        torch.rand(3, generator=learner.laboratory(moment).generator(purpose)).tolist()
        for moment, purpose in ((1, "a"), (1, "a"), (1, "b"), (2, "a"))
    ]
    assert draws[0] == draws[1]
    assert draws[0] != draws[2]
    assert draws[0] != draws[3]
    assert before.keys() == learner.streams.state().keys()


@EVERY
@pytest.mark.parametrize("fails", [False, True])
def test_no_trace(agent, fails, monkeypatch):
    learner, probe = learnt(agent)
    lab = probe.lab
    own = {n: net.params for n, net in learner.networks.items()}
    before, states = clones(learner.state.tensors() | learner.streams.state()), global_random_states()
    places = {k: v.data_ptr() for k, v in learner.state.tensors().items()}
    if fails:
        monkeypatch.setattr(learner.agent, "plain_loss", lambda *_: 1 / 0)
    for phase in lab.batches:
        zeros = {k: torch.zeros_like(v) for k, v in lab.trained(phase).items()}
        if fails:
            with pytest.raises(ZeroDivisionError):
                lab.loss(phase, zeros)
        else:
            lab.loss(phase, zeros)
        lab.gradients(phase)
    lab.fits()
    lab.second_moments()
    for net in probe.nets:
        lab.fresh(net.name, lab.generator("fresh"))
        net.decisions("init")
    assert all(learner.networks[n].params is params for n, params in own.items())
    after = learner.state.tensors() | learner.streams.state()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert places == {k: v.data_ptr() for k, v in learner.state.tensors().items()}
    assert all(p.grad is None and p.requires_grad for p in learner.state.params.values())
    assert states == global_random_states()
