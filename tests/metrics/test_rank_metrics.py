from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.core.metric import Probe
from plasticine.errors import UserError
from plasticine.metrics.rank import EffectiveRank, SRank, StableRank, effective_rank, srank, stable_rank

RANKS = {"srank": SRank(delta=0.01), "stable": StableRank(), "effective": EffectiveRank()}
ALL = pytest.mark.parametrize("rank", RANKS)


@pytest.fixture
def ranks(make_net, measure):
    """The three ranks of a feature matrix."""

    def run(features) -> dict[str, float]:
        net = make_net(features=torch.as_tensor(features))
        return {name: measure(metric, net) for name, metric in RANKS.items()}

    return run


def normal(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def reference(features: np.ndarray) -> dict[str, float]:
    """The same three numbers from their definitions, by loops and by norms instead of singular values."""
    features = np.asarray(features, dtype=np.float64)
    sigma = np.sqrt(np.clip(np.linalg.eigvalsh(features.T @ features)[::-1], 0, None))
    total, share, k = sigma.sum(), 0.0, 0
    while share < 0.99 * total:
        share += sigma[k]
        k += 1
    p = [s / total for s in sigma if s > 0]
    return {
        "srank": k,
        "stable": np.linalg.norm(features, "fro") ** 2 / np.linalg.norm(features, 2) ** 2,
        "effective": math.exp(-sum(x * math.log(x) for x in p)),
    }


# ---------------------------------------------------------------- known values


def test_standard_normal_features(ranks):
    values = ranks(normal(512, 256))
    assert values["srank"] == pytest.approx(249, abs=1)
    assert 86.5 < values["stable"] < 89.5
    assert values["effective"] == pytest.approx(236.8, abs=0.5)


def test_identity(ranks):
    # 99 of 100 equal singular values hold exactly 99 %: a tie that rounding must not turn into 100
    assert ranks(torch.eye(100)) == {
        "srank": 99,
        "stable": pytest.approx(100),
        "effective": pytest.approx(100),
    }


@pytest.mark.parametrize("count", [200, 300, 700])
def test_ties_in_longer_spectra(count):
    assert srank(torch.full((count,), 0.1, dtype=torch.float64), 0.01) == count * 99 // 100


@pytest.mark.parametrize("features", [torch.ones(64, 10), torch.ones(64, 1), torch.ones(1, 10)])
def test_constant_features_have_rank_one(features, ranks):
    assert ranks(features) == {name: pytest.approx(1) for name in RANKS}


@pytest.mark.parametrize("shape", [(64, 10), (3, 10), (0, 10)])
def test_zero_features_have_rank_zero(shape, ranks):
    assert ranks(torch.zeros(shape)) == dict.fromkeys(RANKS, 0.0)


def test_diagonal_by_hand(ranks):
    values = ranks(torch.diag(torch.tensor([4.0, 2.0, 2.0, 0.0])))
    assert values["srank"] == 3
    assert values["stable"] == pytest.approx((16 + 4 + 4) / 16)
    assert values["effective"] == pytest.approx(math.exp(0.5 * math.log(2) + 2 * 0.25 * math.log(4)))


def test_delta_is_the_share_that_may_be_missing():
    sigma = torch.tensor([5.0, 3.0, 1.5, 0.5], dtype=torch.float64)
    assert [srank(sigma, delta) for delta in (0.0, 0.04, 0.05, 0.19, 0.2, 0.49, 0.51)] == [
        4,
        4,
        3,
        3,
        2,
        2,
        1,
    ]


# ---------------------------------------------------------------- independent recomputation


@pytest.mark.parametrize(("n", "d"), [(200, 40), (40, 40), (300, 7)])
@pytest.mark.parametrize("relu", [False, True])
def test_ranks_against_numpy(n, d, relu, ranks):
    features = normal(n, d, seed=n + d)
    features = torch.relu(features) if relu else features * torch.logspace(0, -2, d, dtype=torch.float64)
    values, expected = ranks(features.float()), reference(features.float().numpy())
    assert values["srank"] == expected["srank"]
    assert values["stable"] == pytest.approx(expected["stable"], rel=1e-9)
    assert values["effective"] == pytest.approx(expected["effective"], rel=1e-9)


def test_fewer_observations_than_features(ranks):
    features = normal(20, 64)
    values, transposed = ranks(features), ranks(features.T)
    assert all(1 <= value <= 20 for value in values.values())
    assert values == {name: pytest.approx(value) for name, value in transposed.items()}


# ---------------------------------------------------------------- invariances


@ALL
@pytest.mark.parametrize("scale", [-3.0, 1e-3, 1e150, 1e-200])
def test_scale_does_not_matter(rank, scale, ranks):
    features = normal(80, 16)
    assert ranks(scale * features)[rank] == pytest.approx(ranks(features)[rank], rel=1e-9)


@ALL
def test_order_of_observations_and_rotation_of_features_do_not_matter(rank, ranks):
    features = normal(80, 16) * torch.logspace(0, -3, 16, dtype=torch.float64)
    rotation, _ = torch.linalg.qr(normal(16, 16, seed=1))
    shuffled = features[torch.randperm(80, generator=torch.Generator().manual_seed(2))]
    expected = ranks(features)[rank]
    assert ranks(shuffled)[rank] == pytest.approx(expected, rel=1e-9)
    assert ranks(features @ rotation)[rank] == pytest.approx(expected, rel=1e-9)


@ALL
def test_repeated_features_do_not_add_rank(rank, ranks):
    features = normal(80, 8)
    assert ranks(torch.cat((features, features), dim=1))[rank] == pytest.approx(ranks(features)[rank])


# ---------------------------------------------------------------- broken input, cost, options


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_features_give_nan(bad, ranks):
    features = normal(10, 4)
    features[3, 1] = bad
    assert all(math.isnan(value) for value in ranks(features).values())


@pytest.mark.parametrize("function", [lambda s: srank(s, 0.01), stable_rank, effective_rank])
def test_functions_of_singular_values_pass_nan_on(function):
    assert math.isnan(function(torch.tensor([1.0, math.nan], dtype=torch.float64)))


def test_one_decomposition_per_network_and_measurement(make_net, monkeypatch):
    calls = []

    def counted(original):
        def call(*args, **kwargs):
            calls.append(original.__name__)
            return original(*args, **kwargs)

        return call

    for name in ("svdvals", "svd", "eigvalsh", "eigh", "matrix_norm", "matrix_rank", "norm"):
        monkeypatch.setattr(torch.linalg, name, counted(getattr(torch.linalg, name)))
    for measurement in (1, 2):
        probe = Probe(nets=tuple(make_net(name, features=normal(30, 8)) for name in ("actor", "critic")))
        for metric in RANKS.values():
            assert set(metric.compute(probe)) == {"actor", "critic"}
        assert len(calls) == 2 * measurement


@pytest.mark.parametrize("delta", [-0.01, 1.0, "small"])
def test_bad_delta(delta):
    with pytest.raises(UserError, match="delta"):
        SRank(delta=delta)
