"""Units that say nothing, and units that have become linear."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.core.metric import Probe
from plasticine.errors import UserError
from plasticine.metrics.dead import DeadUnits, FrozenUnits, dead_units, frozen_units

DEAD, FROZEN = DeadUnits(spread=1e-3), FrozenUnits()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def pre() -> torch.Tensor:
    """Of 64 observations: units 0-2 always off, 3-4 always on, 5 constant, the others of both signs."""
    z = normal(64, 12)
    z[:, :3] = -z[:, :3].abs() - 0.1
    z[:, 3:5] = z[:, 3:5].abs() + 0.1
    z[:, 5] = 0.7
    z[0, 6:], z[1, 6:] = 1.0, -1.0
    return z


@pytest.mark.parametrize(
    ("act", "dead", "frozen"),
    [("relu", 3, 3), ("tanh", 1, None), ("sigmoid", 1, None), ("crelu", 1, 6), ("fourier", 1, None)],
)
def test_by_hand(pre, act, dead, frozen, make_site, make_net):
    net = make_net(sites=[make_site(pre, act)])
    assert DEAD.compute(Probe((net,))) == {"actor": dead / 12}
    assert FROZEN.compute(Probe((net,))) == ({} if frozen is None else {"actor": frozen / 12})


def test_a_relu_that_is_always_off_is_dead_and_not_frozen(make_site):
    site = make_site(-normal(8, 5).abs())
    assert (dead_units(site, 1e-3), frozen_units(site)) == (5, 0)
    site = make_site(normal(8, 5).abs() + 1)
    assert (dead_units(site, 1e-3), frozen_units(site)) == (0, 5)


def test_one_observation_wakes_a_unit(make_site):
    z = torch.full((100, 3), -1.0)
    z[57, 1] = 1e-6
    assert dead_units(make_site(z), 1e-3) == 2
    assert dead_units(make_site(torch.zeros(5, 2)), 1e-3) == 2


def test_a_widened_unit_is_dead_only_if_all_its_columns_are(make_site):
    z = torch.zeros(6, 2)
    z[:, 1] = torch.arange(6) - 10.0  # positive half constant, negative half not
    assert dead_units(make_site(z, "crelu"), 1e-3) == 1


def test_spread_is_a_standard_deviation_and_exclusive(make_site):
    h = torch.tensor([[1.0, 5.0], [-1.0, 5.0]])  # standard deviation 1 exactly, whatever the mean
    site = make_site(h, "tanh", post=h + 100)
    assert [dead_units(site, s) for s in (0.5, 1.0, 1.5)] == [1, 1, 2]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("act", ["relu", "tanh", "crelu"])
def test_images_against_numpy(act, layout, make_site, make_net, measure):
    z = normal(9, 6, 4, 5)
    z[:, 0], z[:, 1], z[:, 2] = -1.0, z[:, 1].abs() + 0.01, 0.3
    z[3, 0, 2, 1] = 0.5 if act != "relu" else -0.5
    site = make_site(z.contiguous(memory_format=layout), act)
    post = site.post.double().numpy().transpose(1, 0, 2, 3).reshape(site.expansion, 6, -1)
    dead = (post.max(-1) == 0 if act == "relu" else post.std(-1) < 1e-3).all(0)
    flat = z.double().numpy().transpose(1, 0, 2, 3).reshape(6, -1)
    on, off = flat.min(-1) > 0, flat.max(-1) < 0
    net = make_net(sites=[site])
    assert measure(DEAD, net) == dead.mean()
    assert DEAD.layers(Probe((net,))) == {"actor": {"body.0": dead.mean()}}
    if act != "tanh":
        linear = on if act == "relu" else on | off
        assert measure(FROZEN, net) == linear.mean()
    np.testing.assert_array_equal(site.extremes[0], flat.min(-1).astype(np.float32))
    np.testing.assert_array_equal(site.extremes[1], flat.max(-1).astype(np.float32))


@pytest.mark.parametrize("metric", [DEAD, FROZEN])
def test_what_does_not_matter(metric, pre, make_site, make_net, measure):
    value = measure(metric, make_net(sites=[make_site(pre)]))
    for other in (pre[torch.randperm(64)], pre[:, torch.randperm(12)], 1e-4 * pre, 1e4 * pre):
        assert measure(metric, make_net(sites=[make_site(other)])) == value


def test_layers_count_by_their_units_and_smooth_ones_cannot_be_frozen(pre, make_site, make_net):
    sites = [make_site(pre), make_site(pre[:, :3], name="body.1"), make_site(pre, "tanh", name="body.2")]
    probe = Probe((make_net(sites=sites),))
    assert DEAD.compute(probe) == {"actor": (3 + 3 + 1) / 27}
    assert DEAD.layers(probe) == {"actor": {"body.0": 3 / 12, "body.1": 1.0, "body.2": 1 / 12}}
    assert FROZEN.compute(probe) == {"actor": 3 / 15}
    assert FROZEN.layers(probe) == {"actor": {"body.0": 3 / 12, "body.1": 0.0}}


@pytest.mark.parametrize("metric", [DEAD, FROZEN])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("act", ["relu", "crelu"])
def test_broken_layer_gives_nan_for_itself_and_the_network(metric, bad, act, pre, make_site, make_net):
    broken = pre.clone()
    broken[5, 7] = bad
    net = make_net(sites=[make_site(broken, act), make_site(pre, act, name="body.1")])
    assert math.isnan(metric.compute(Probe((net,)))["actor"])
    layers = metric.layers(Probe((net,)))["actor"]
    assert math.isnan(layers["body.0"])
    assert math.isfinite(layers["body.1"])


def test_no_hidden_layer_no_value(make_net):
    probe = Probe((make_net(),))
    assert DEAD.compute(probe) == FROZEN.compute(probe) == DEAD.layers(probe) == {}


@pytest.mark.parametrize("spread", [-0.1, 1.0, math.nan, "small"])
def test_spread_is_checked(spread):
    with pytest.raises(UserError, match="spread of the dead units metric"):
        DeadUnits(spread=spread)
