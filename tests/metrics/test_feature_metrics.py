from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.metrics.features import FeatureNorm, FeatureVariance

BOTH = pytest.mark.parametrize("metric", [FeatureNorm(), FeatureVariance()])


@pytest.fixture
def features() -> torch.Tensor:
    return torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 3 + 1


def test_norm_by_hand(make_net, measure):
    net = make_net(features=torch.tensor([[3.0, 4.0], [0.0, 0.0], [0.0, 1.0]]))
    assert measure(FeatureNorm(), net) == pytest.approx((5 + 0 + 1) / 3)


def test_variance_is_over_the_batch_not_within_an_observation(make_net, measure):
    same = torch.tensor([[1.0, 9.0]]).repeat(5, 1)
    assert measure(FeatureVariance(), make_net(features=same)) == 0.0
    spread = torch.tensor([[1.0, 1.0], [3.0, 3.0]])
    assert measure(FeatureVariance(), make_net(features=spread)) == pytest.approx(1.0)


def test_both_against_numpy(features, make_net, measure):
    x = features.numpy().astype(np.float64)
    net = make_net(features=features)
    assert measure(FeatureNorm(), net) == pytest.approx(np.sqrt((x**2).sum(1)).mean(), rel=1e-12)
    variance = ((x - x.mean(0)) ** 2).mean(0).mean()
    assert measure(FeatureVariance(), net) == pytest.approx(variance, rel=1e-12)


def test_shift_and_scale(features, make_net, measure):
    moved, scaled = make_net(features=features.double() + 7), make_net(features=-2 * features.double())
    net = make_net(features=features)
    assert measure(FeatureVariance(), moved) == pytest.approx(measure(FeatureVariance(), net))
    assert measure(FeatureVariance(), scaled) == pytest.approx(4 * measure(FeatureVariance(), net))
    assert measure(FeatureNorm(), scaled) == pytest.approx(2 * measure(FeatureNorm(), net))


def test_small_variance_on_a_large_mean_survives(make_net, measure):
    # in float32 the squares of 4096 leave no digit for the variance
    features = 4096 + torch.arange(8).remainder(2).float()[:, None] / 1024
    assert measure(FeatureVariance(), make_net(features=features)) == pytest.approx(0.25 / 1024**2)


@BOTH
def test_zero_and_single_observation(metric, make_net, measure):
    assert measure(metric, make_net(features=torch.zeros(4, 3))) == 0.0
    assert math.isfinite(measure(metric, make_net(features=torch.ones(1, 3))))


@BOTH
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_broken_features_give_nan(metric, bad, features, make_net, measure):
    features[1, 1] = bad
    assert math.isnan(measure(metric, make_net(features=features)))
