"""Approximate rank, and ranks of single layers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.core.metric import Probe, SiteProbe
from plasticine.errors import UserError
from plasticine.metrics.rank import ApproxRank, EffectiveRank, SRank, StableRank, approx_rank


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def site(post: torch.Tensor, name: str = "body.0") -> SiteProbe:
    return SiteProbe(name, post, post, "relu")


# ---------------------------------------------------------------- approximate rank


def test_approximate_rank_by_hand():
    sigma = torch.tensor([3.0, 2.0, 1.0, 0.5, 0.0], dtype=torch.float64)  # squares 9, 4, 1, 0.25 of 14.25
    shares = [(0.0, 4), (0.017, 4), (0.018, 3), (0.08, 3), (0.09, 2), (0.36, 2), (0.37, 1)]
    for delta, rank in shares:
        assert approx_rank(sigma, delta) == rank, delta
    assert approx_rank(torch.full((100,), 0.1, dtype=torch.float64), 0.01) == 99
    assert approx_rank(1e-200 * sigma, 0.018) == approx_rank(1e200 * sigma, 0.018) == 3
    assert approx_rank(torch.zeros(3, dtype=torch.float64), 0.01) == 0
    assert math.isnan(approx_rank(sigma * math.nan, 0.01))
    with pytest.raises(UserError, match="delta of the approx_rank metric"):
        ApproxRank(delta=1.0)


@pytest.mark.parametrize("shape", [(200, 40), (20, 64)])
def test_approximate_rank_against_numpy(shape, make_net, measure):
    x = torch.relu(normal(*shape)) * torch.logspace(0, -2, shape[1])
    energy = np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy())[::-1]
    expected = int((np.cumsum(energy) < 0.99 * energy.sum()).sum()) + 1
    value = measure(ApproxRank(delta=0.01), make_net(features=x))
    assert value == expected < min(shape)
    assert value <= measure(SRank(delta=0.01), make_net(features=x))
    q, _ = torch.linalg.qr(normal(shape[1], shape[1], seed=3).double())
    for other in (x.double() @ q, 7 * x, x[torch.randperm(shape[0])]):
        assert measure(ApproxRank(delta=0.01), make_net(features=other)) == expected


# ---------------------------------------------------------------- layers


def test_ranks_of_layers_are_those_of_their_outputs(make_net, measure):
    first, last = torch.relu(normal(60, 12)), torch.relu(normal(60, 5, seed=1))
    net = make_net(sites=[site(first), site(last, "body.1")], features=last)
    for metric in (SRank(delta=0.01), ApproxRank(delta=0.01), StableRank(), EffectiveRank()):
        layers = metric.layers(Probe((net,)))["actor"]
        assert layers["body.0"] == measure(metric, make_net(features=first))
        assert layers["body.1"] == measure(metric, net) == measure(metric, make_net(features=last))


def test_the_last_layer_and_the_features_share_one_decomposition(make_net, monkeypatch):
    calls = []
    svdvals = torch.linalg.svdvals
    monkeypatch.setattr(torch.linalg, "svdvals", lambda x: calls.append(x.shape) or svdvals(x))
    last = normal(30, 6)
    net = make_net(sites=[site(normal(30, 9)), site(last, "body.1")], features=last.flatten(1))
    for metric in (SRank(delta=0.01), ApproxRank(delta=0.01), StableRank(), EffectiveRank()):
        metric.compute(Probe((net,)))
        metric.layers(Probe((net,)))
    assert sorted(calls) == [(30, 6), (30, 9)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_images_are_matrices_of_their_positions(layout):
    x = normal(7, 5, 4, 3) * torch.logspace(0, -3, 5).view(1, 5, 1, 1)
    matrix = x.double().numpy().transpose(0, 2, 3, 1).reshape(-1, 5)
    expected = np.linalg.svd(matrix, compute_uv=False)
    found = site(x.contiguous(memory_format=layout)).singular_values
    assert found.dtype == torch.float64
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("small", [1e-2, 1e-4, 1e-6, 1e-8, 0.0])
def test_the_error_of_the_gram_matrix_is_bounded(small):
    """A direction of any size is off by at most 1e-6 of the largest one, and what is not there is exactly 0."""
    q, _ = torch.linalg.qr(normal(400, 8).double())
    sizes = torch.tensor([1.0, 0.5, 0.1, small, small, small, small, small], dtype=torch.float64)
    matrix = (q * sizes).float()  # the outputs of a network have no more digits
    exact = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    found = site(matrix.view(100, 2, 2, 8).permute(0, 3, 1, 2)).singular_values.numpy()
    assert np.abs(found - exact).max() <= 1e-6 * exact[0]
    if small == 0.0:
        assert (found[3:] == 0).all()
    assert StableRank().of(torch.from_numpy(found)) == pytest.approx(
        (exact**2).sum() / exact[0] ** 2, rel=1e-9
    )
    entropy = EffectiveRank().of(torch.from_numpy(exact))
    assert EffectiveRank().of(torch.from_numpy(found)) == pytest.approx(entropy, rel=1e-3)


def test_more_positions_than_are_taken_at_once():
    x = normal(40, 3, 60, 60)  # 144,000 positions
    matrix = x.double().numpy().transpose(0, 2, 3, 1).reshape(-1, 3)
    np.testing.assert_allclose(site(x).singular_values, np.linalg.svd(matrix, compute_uv=False), rtol=1e-9)


@pytest.mark.parametrize("post", [torch.zeros(4, 3, 2, 2), torch.zeros(4, 3)])
def test_silent_and_broken_layers(post):
    assert [m.of(site(post).singular_values) for m in (SRank(delta=0.01), StableRank(), EffectiveRank())] == [
        0,
        0,
        0,
    ]
    broken = post.clone()
    broken[1, 1] = math.nan
    assert all(math.isnan(m.of(site(broken).singular_values)) for m in (SRank(delta=0.01), StableRank()))
