from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from plasticine.core.metric import Probe, SiteProbe
from plasticine.errors import UserError
from plasticine.metrics.units import ACTIVE, ActiveUnits, DormantUnits, dormant_units
from plasticine.networks.activations import _ACTIVATIONS, activation

RDU = DormantUnits(tau=0.025, aggregate="total")
FAU = ActiveUnits(margin=0.01)


@pytest.fixture
def pre() -> torch.Tensor:
    return torch.randn(64, 20, generator=torch.Generator().manual_seed(0))


def layer_with(post: torch.Tensor, name: str = "body.0") -> SiteProbe:
    return SiteProbe(name, post, post, "relu")


# ---------------------------------------------------------------- dormant units


@pytest.mark.parametrize("dead", [0, 1, 7, 20])
def test_exactly_dead_units_are_counted(pre, dead, make_site, make_net, measure):
    pre[:, :dead] = -pre[:, :dead].abs()
    assert measure(RDU, make_net(sites=[make_site(pre)])) == dead / 20


def test_threshold_is_relative_to_the_layer_mean_and_inclusive(make_net, measure):
    # mean activity 1 exactly; scores 0.5, 0.25, 2.25, 1 (up to the epsilon, which lowers a score)
    post = torch.tensor([[0.5, 0.25, 2.25, 1.0]]).repeat(3, 1)
    for tau, expected in [(0.2, 0.0), (0.25, 0.25), (0.4, 0.25), (0.5, 0.5), (0.999, 0.5)]:
        net = make_net(sites=[layer_with(post)])
        assert measure(DormantUnits(tau=tau, aggregate="total"), net) == expected, tau


def test_activity_is_the_mean_absolute_output(make_net, measure):
    # unit 0 is large but changes sign: its mean is 0, its mean absolute value is not
    post = torch.tensor([[5.0, 1.0], [-5.0, 1.0]])
    assert layer_with(post).activity.tolist() == [5.0, 1.0]
    assert measure(RDU, make_net(sites=[layer_with(post)])) == 0.0


def test_total_weighs_layers_by_width_and_mean_does_not(make_net, measure):
    narrow = torch.ones(5, 2)
    narrow[:, 0] = 0
    wide = torch.ones(5, 8)
    net = make_net(sites=[layer_with(narrow), layer_with(wide, "body.1")])
    assert measure(DormantUnits(tau=0.025, aggregate="total"), net) == pytest.approx(1 / 10)
    assert measure(DormantUnits(tau=0.025, aggregate="mean"), net) == pytest.approx((0.5 + 0.0) / 2)


def test_each_layer_is_normalised_by_itself(make_net, measure):
    # A layer with small outputs next to one with large outputs is not dormant.
    net = make_net(sites=[layer_with(torch.full((4, 3), 1e-3)), layer_with(torch.full((4, 3), 1e3))])
    assert measure(RDU, net) == 0.0


def test_score_does_not_depend_on_the_scale(pre, make_site):
    activity = make_site(pre).activity
    assert dormant_units(activity, 0.9) == dormant_units(1000 * activity, 0.9) > 0


@pytest.mark.parametrize("aggregate", ["total", "mean"])
@pytest.mark.parametrize("tau", [0.0, 0.025])
def test_silent_layer_is_all_dormant(aggregate, tau, make_net, measure):
    net = make_net(sites=[layer_with(torch.zeros(5, 3))])
    assert measure(DormantUnits(tau=tau, aggregate=aggregate), net) == 1.0


def test_image_units_are_channels_averaged_over_positions(make_net, measure):
    post = torch.zeros(4, 3, 2, 2)
    post[:, 0, 1, 1] = 8.0  # silent at three of four positions
    post[:, 1] = 1.0
    site = layer_with(post)
    assert site.activity.tolist() == [2.0, 1.0, 0.0]
    assert measure(RDU, make_net(sites=[site])) == pytest.approx(1 / 3)


@pytest.mark.parametrize("shape", [(16, 6), (16, 6, 3, 3)])
def test_crelu_is_scored_once_per_unit_by_its_pre_activation(shape, make_site, make_net, measure):
    z = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    z[:, 0] = z[:, 0].abs()  # its negative half is silent, the unit is not
    z[:, 4:] = 0.0
    site = make_site(z, "crelu")
    axes = (0, *range(2, z.ndim))
    np.testing.assert_allclose(site.activity, np.abs(z.double().numpy()).mean(axes), rtol=1e-6)
    assert measure(RDU, make_net(sites=[site])) == pytest.approx(2 / 6)


@pytest.mark.parametrize("scale", [0.0, 1e-3, 1.0, 100.0])
def test_fourier_units_are_never_dormant(scale, pre, make_site, make_net, measure):
    site = make_site(scale * pre, "fourier")
    activity = site.activity
    assert activity.shape == (20,)
    assert float(activity.min()) >= 1 - 1e-6
    assert measure(DormantUnits(tau=0.7, aggregate="total"), make_net(sites=[site])) == 0.0


@pytest.mark.parametrize("aggregate", ["total", "mean"])
def test_dormant_units_against_numpy(aggregate, pre, make_site, make_net, measure):
    images = torch.randn(32, 5, 4, 4, generator=torch.Generator().manual_seed(2)) - 2.5
    images[:, 1] -= 20.0
    vectors = pre * torch.linspace(0.0, 1.0, 20)
    net = make_net(sites=[make_site(images), make_site(vectors, "tanh", name="body.1")])
    dormant, widths = [], []
    for site in net.sites:
        h = np.abs(site.post.numpy().astype(np.float64))
        a = h.mean(axis=(0, 2, 3)) if h.ndim == 4 else h.mean(axis=0)
        dormant.append(int((a / (a.mean() + 1e-9) <= 0.1).sum()))
        widths.append(len(a))
    assert all(dormant)
    expected = sum(dormant) / sum(widths) if aggregate == "total" else np.mean(np.divide(dormant, widths))
    assert measure(DormantUnits(tau=0.1, aggregate=aggregate), net) == pytest.approx(expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("metric", [RDU, DormantUnits(tau=0.025, aggregate="mean"), FAU])
def test_broken_outputs_give_nan(bad, metric, pre, make_site, make_net, measure):
    site = make_site(pre)
    site.post[3, 2] = bad
    assert math.isnan(measure(metric, make_net(sites=[site])))


def test_broken_pre_activation_gives_nan(pre, make_site, make_net, measure):
    pre[0, 0] = -math.inf  # tanh hides it: the output is -1
    assert math.isnan(measure(FAU, make_net(sites=[make_site(pre, "tanh")])))


@pytest.mark.parametrize("metric", [RDU, FAU])
def test_network_without_hidden_layers_has_no_value(metric, pre, make_site, make_net):
    nets = (make_net("linear"), make_net("critic", sites=[make_site(pre)]))
    assert list(metric.compute(Probe(nets=nets))) == ["critic"]


# ---------------------------------------------------------------- active units


def test_relu_counts_nonzero_entries_of_the_last_layer_only(make_site, make_net, measure):
    first = make_site(torch.full((2, 4), -1.0))
    last = make_site(torch.tensor([[1.0, -1.0, 2.0, -3.0], [1.0, 0.0, -2.0, -3.0]]), name="body.1")
    assert measure(FAU, make_net(sites=[first, last])) == pytest.approx(3 / 8)


def test_relu_layer_of_random_input_is_half_active(make_site, make_net, measure):
    z = torch.randn(1000, 50, generator=torch.Generator().manual_seed(3))
    assert measure(FAU, make_net(sites=[make_site(z)])) == pytest.approx(0.5, abs=0.01)


def test_image_entries_are_counted_per_position(make_site, make_net, measure):
    z = torch.full((2, 3, 2, 2), -1.0)
    z[0, 0, 0, 0] = 1.0
    assert measure(FAU, make_net(sites=[make_site(z)])) == pytest.approx(1 / 24)


@pytest.mark.parametrize(
    ("act", "output", "expected"),
    [
        ("tanh", [0.0, 0.989, -0.989, 0.991, -0.991, 1.0], 3 / 6),
        ("sigmoid", [0.5, 0.011, 0.989, 0.009, 0.991, 0.0], 3 / 6),
        ("leaky_relu", [0.5, -0.01, 0.0, 1.0], 3 / 4),
    ],
)
def test_saturation_is_judged_by_the_output(act, output, expected, make_site, make_net, measure):
    post = torch.tensor([output])
    site = SiteProbe("body.0", torch.zeros_like(post), post, act)
    assert measure(FAU, make_net(sites=[site])) == pytest.approx(expected)


def test_crelu_unit_is_active_on_either_side(make_site, make_net, measure):
    site = make_site(torch.tensor([[1.0, -1.0, 0.0, 2.0]]), "crelu")
    assert measure(FAU, make_net(sites=[site])) == pytest.approx(3 / 4)


def test_fourier_unit_is_active_where_its_sine_is_steep(make_site, make_net, measure):
    quarter = math.pi / 2
    site = make_site(torch.tensor([[0.0, quarter, -quarter, 3 * quarter, quarter + 0.02, 0.7]]), "fourier")
    assert measure(FAU, make_net(sites=[site])) == pytest.approx(3 / 6)


@pytest.mark.parametrize(
    ("act", "fn"), [("elu", F.elu), ("gelu", F.gelu), ("silu", F.silu), ("identity", lambda z: z)]
)
def test_smooth_activations_are_judged_by_their_derivative(act, fn, make_net, measure):
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64).requires_grad_()
    (slope,) = torch.autograd.grad(fn(z).sum(), z)
    expected = float((slope.abs() >= 0.01).double().mean())
    column = z.detach()[:, None]
    site = SiteProbe("body.0", column, fn(column), act)
    assert measure(FAU, make_net(sites=[site])) == pytest.approx(expected, abs=1e-9)
    assert expected == 1.0 if act == "identity" else 0.5 < expected < 0.8


def test_margin_moves_the_limit(make_site, make_net, measure):
    z = torch.tensor([[0.0, 1.5, 3.0]])  # tanh: 0, 0.905, 0.995
    net = make_net(sites=[make_site(z, "tanh")])
    values = [measure(ActiveUnits(margin=m), net) for m in (0.2, 0.05, 0.001)]
    assert values == pytest.approx([1 / 3, 2 / 3, 1.0])


def test_every_activation_of_the_platform_has_a_meaning():
    assert set(_ACTIVATIONS) == set(ACTIVE)


@pytest.mark.parametrize("act", sorted(_ACTIVATIONS))
@pytest.mark.parametrize("shape", [(16, 6), (16, 6, 3, 3)])
def test_every_activation_of_the_platform_is_measured(act, shape, make_net, measure):
    chosen = activation(act)
    z = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    net = make_net(sites=[SiteProbe("body.0", z, chosen.fn(z), act, chosen.expansion)])
    assert 0 < measure(FAU, net) <= 1
    assert measure(RDU, net) == 0


def test_unknown_activation_is_named_not_guessed(pre, make_net):
    net = make_net(sites=[SiteProbe("body.3", pre, pre, "rulu")])
    with pytest.raises(UserError, match=r"'rulu'.*'body\.3'(.|\n)*'relu'"):
        FAU.compute(Probe(nets=(net,)))


# ---------------------------------------------------------------- options


@pytest.mark.parametrize("tau", [-0.1, 1.0, math.nan, "0.025", True, None])
def test_bad_tau(tau):
    with pytest.raises(UserError, match="tau"):
        DormantUnits(tau=tau, aggregate="total")


def test_bad_aggregate_names_the_closest():
    with pytest.raises(UserError, match=r"'totl'(.|\n)*'total'"):
        DormantUnits(tau=0.025, aggregate="totl")


@pytest.mark.parametrize("margin", [-0.01, 0.5])
def test_bad_margin(margin):
    with pytest.raises(UserError, match="margin"):
        ActiveUnits(margin=margin)
