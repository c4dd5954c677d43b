"""Slopes of activations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.core.metric import Probe, SiteProbe
from plasticine.errors import UserError
from plasticine.metrics.slopes import SLOPES, Saturation, slope
from plasticine.networks.activations import activation

MEAN, FLAT = Saturation(of="slope", margin=0.01), Saturation(of="flat", margin=0.01)


def site_of(z: torch.Tensor, act: str, name: str = "body.0") -> SiteProbe:
    found = activation(act)
    return SiteProbe(name, z, found.fn(z), act, found.expansion)


@pytest.mark.parametrize("act", SLOPES)
@pytest.mark.parametrize("shape", [(40, 6), (5, 6, 3, 2)])
def test_slopes_are_the_derivatives(act, shape):
    """Against automatic differentiation in float64; of several columns the steepest counts."""
    z = (
        3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ).requires_grad_()
    found = activation(act)
    columns = found.fn(z).split(shape[1], dim=1)
    expected = torch.stack(
        [torch.autograd.grad(c.sum(), z, retain_graph=True)[0].abs() for c in columns]
    ).amax(0)
    torch.testing.assert_close(slope(site_of(z.detach(), act)).double(), expected, rtol=1e-6, atol=1e-9)


def test_by_hand(make_net, measure):
    z = torch.tensor([[-1.0, 0.0, 2.0, 3.0]])
    assert measure(MEAN, make_net(sites=[site_of(z, "relu")])) == 0.5
    assert measure(FLAT, make_net(sites=[site_of(z, "relu")])) == 0.5
    assert measure(MEAN, make_net(sites=[site_of(z, "crelu")])) == 0.75
    far = torch.tensor([[-50.0, 0.0, 50.0]])
    assert measure(MEAN, make_net(sites=[site_of(far, "tanh")])) == pytest.approx(1 / 3)
    assert measure(FLAT, make_net(sites=[site_of(far, "tanh")])) == pytest.approx(2 / 3)
    assert measure(MEAN, make_net(sites=[site_of(far, "sigmoid")])) == pytest.approx(0.25 / 3)
    assert measure(FLAT, make_net(sites=[site_of(torch.linspace(-9, 9, 100)[:, None], "fourier")])) == 0.0


def test_margin_is_exclusive(make_net, measure):
    site = SiteProbe("body.0", torch.zeros(1, 2), torch.tensor([[0.5, 0.0]]), "tanh")  # slopes 0.75 and 1
    shares = [measure(Saturation(of="flat", margin=m), make_net(sites=[site])) for m in (0.0, 0.4)]
    assert shares == [0.0, 0.0]
    half = SiteProbe(
        "body.0", torch.zeros(1, 2), torch.tensor([[math.sqrt(0.75), 0.0]]), "tanh"
    )  # slopes 1/4 and 1
    found = [measure(Saturation(of="flat", margin=m), make_net(sites=[half])) for m in (0.2, 0.26)]
    assert found == [0.0, 0.5]


def test_every_layer_counts_alike(make_net):
    wide, narrow = torch.ones(4, 8), -torch.ones(4, 2)
    net = make_net(sites=[site_of(wide, "relu"), site_of(narrow, "relu", "body.1")])
    assert MEAN.compute(Probe((net,))) == {"actor": 0.5}
    assert MEAN.layers(Probe((net,))) == {"actor": {"body.0": 1.0, "body.1": 0.0}}
    assert FLAT.layers(Probe((net,))) == {"actor": {"body.0": 0.0, "body.1": 1.0}}


def test_order_does_not_matter(make_net, measure):
    z = 2 * torch.randn(30, 7, generator=torch.Generator().manual_seed(1))
    value = measure(MEAN, make_net(sites=[site_of(z, "tanh")]))
    for other in (z[torch.randperm(30)], z[:, torch.randperm(7)], -z):
        assert measure(MEAN, make_net(sites=[site_of(other, "tanh")])) == pytest.approx(value, rel=1e-6)
    np.testing.assert_allclose(value, (1 - np.tanh(z.double().numpy()) ** 2).mean(), rtol=1e-5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_layer_gives_nan(bad, make_net, measure):
    z = torch.ones(4, 3)
    z[1, 1] = bad
    assert math.isnan(measure(MEAN, make_net(sites=[site_of(z, "relu")])))
    assert math.isnan(measure(FLAT, make_net(sites=[site_of(z, "relu")])))


def test_no_hidden_layer_no_value(make_net):
    assert MEAN.compute(Probe((make_net(),))) == MEAN.layers(Probe((make_net(),))) == {}


def test_unknown_activations_and_words_are_refused(make_net, measure):
    site = SiteProbe("body.0", torch.zeros(2, 2), torch.zeros(2, 2), "tahn")
    with pytest.raises(UserError, match="does not know the activation 'tahn'") as refused:
        measure(MEAN, make_net(sites=[site]))
    assert "tanh" in refused.value.fix
    with pytest.raises(UserError, match="of of the saturation metric"):
        Saturation(of="slop", margin=0.1)
    with pytest.raises(UserError, match="margin of the saturation metric"):
        Saturation(of="slope", margin=0.5)
