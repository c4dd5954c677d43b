"""Gram matrices of gradients: hand-made, invariances, numpy, sketches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.metrics.entk import kernel_values
from plasticine.metrics.grad_cov import covariance_values
from plasticine.metrics.sample_gradients import GradientRows, Sketch, gram

RNG = np.random.default_rng(0)


def rows(array):
    return torch.as_tensor(np.asarray(array), dtype=torch.float32)


def values(array):
    return covariance_values(gram(rows(array)))


def by_numpy(g):
    """Independent, in float64."""
    g = np.asarray(g, np.float64)
    lengths = np.linalg.norm(g, axis=1)
    alive = lengths > 0
    unit = np.where(alive[:, None], g / np.where(alive, lengths, 1)[:, None], 0)
    cosine = unit @ unit.T
    p = np.linalg.svd(cosine, compute_uv=False)
    p = p[p > 1e-15] / p.sum()
    pairs = [cosine[i, j] for i in range(len(g)) for j in range(len(g)) if i != j and alive[i] and alive[j]]
    return {
        "": math.exp(-(p * np.log(p)).sum()) / len(g),
        "cosine": np.mean(pairs),
        "negative": np.mean(np.array(pairs) < 0),
        "zero": np.mean(~alive),
    }


@pytest.mark.parametrize("shape", [(5, 40), (30, 7), (2, 2)])
def test_equals_numpy(shape):
    g = RNG.normal(size=shape)
    g[0] *= 1e-4
    if shape[0] > 2:
        g[1] = 0.0
    assert values(g) == pytest.approx(by_numpy(g), rel=1e-5, abs=1e-6)


def test_worked_cases():
    orthogonal = {"": 1.0, "cosine": 0.0, "negative": 0.0, "zero": 0.0}
    assert values(np.eye(6) * [[1], [2], [3], [4], [5], [1e-6]]) == pytest.approx(orthogonal)
    same = {"": 0.25, "cosine": 1.0, "negative": 0.0, "zero": 0.0}
    assert values(np.outer([1, 2, 3, 0.1], [1, 2, 3])) == pytest.approx(same)
    against = {"": 0.5, "cosine": -1.0, "negative": 1.0, "zero": 0.0}
    assert values([[1, 2], [-2, -4]]) == pytest.approx(against)
    half = values([[1, 0, 0], [0, 1, 0], [0, 0, 0], [0, 0, 0]])
    assert half == pytest.approx({"": 0.5, "cosine": 0.0, "negative": 0.0, "zero": 0.5})
    nothing = values(np.zeros((3, 4)))
    assert (nothing[""], nothing["zero"]) == (0.0, 1.0)
    assert math.isnan(nothing["cosine"])
    assert math.isnan(nothing["negative"])
    assert all(math.isnan(v) for v in values([[1, math.nan], [0, 1]]).values())
    assert all(math.isnan(v) for v in values([[1, math.inf], [0, 1]]).values())


def test_invariances():
    g = RNG.normal(size=(12, 9)) + 0.5
    rotation = np.linalg.qr(RNG.normal(size=(9, 9)))[0]
    for other in (g * 1e-6, g * RNG.uniform(0.1, 9, (12, 1)), g[RNG.permutation(12)], g @ rotation):
        assert values(other) == pytest.approx(values(g), rel=1e-4, abs=1e-6)


def test_gram_of_more_columns_than_one_block():
    g = torch.randn(3, 2**18 + 5, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(gram(g), g.double() @ g.double().T)


# -- sketches --------------------------------------------------------------------------------------------------
def sketch(count, size, seed=0):
    return Sketch(count, size, torch.Generator().manual_seed(seed), torch.device("cpu"))


def test_sketched_cosines_have_the_stated_error():
    g = torch.nn.functional.normalize(torch.from_numpy(RNG.normal(size=(20, 30_000)) + 0.3).float(), dim=1)
    errors = []
    for seed in range(12):
        s = sketch(30_000, 512, seed)
        small = torch.stack([s(row) for row in g])
        errors.append((gram(small) - gram(g)).numpy())
    errors = np.array(errors)[:, ~np.eye(20, dtype=bool)]
    bound = math.sqrt(2 / 512)
    assert abs(errors.mean()) < bound / 3
    assert 0.3 * bound < errors.std() < 1.1 * bound


def test_collinear_and_zero_rows_stay_so():
    s = sketch(10_000, 64)
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(s(-2 * x), -2 * s(x))
    assert not bool(s(torch.zeros(10_000)).any())


@pytest.mark.parametrize("rank", [1, 5, 64])
def test_sketched_rank_is_close_to_the_exact_one(rank):
    """The default: 64 gradients of a large network, 4096 numbers each."""
    g = rows(RNG.normal(size=(64, rank)) @ RNG.normal(size=(rank, 40_000)))
    s = sketch(40_000, 4096)
    exact, sketched = (covariance_values(gram(x)) for x in (g, torch.stack([s(row) for row in g])))
    assert sketched[""] == pytest.approx(exact[""], rel=0.02)
    assert sketched["cosine"] == pytest.approx(exact["cosine"], abs=0.01)


def test_large_results_are_sketched_and_small_ones_are_not():
    w = {"a": {"w": torch.ones(100, requires_grad=True)}, "b": {"w": torch.ones(20, requires_grad=True)}}
    x = torch.randn(4, 120, generator=torch.Generator().manual_seed(0))

    def output(i):
        return (x[i, :100] * w["a"]["w"]).sum() + (x[i, 100:] * w["b"]["w"]).sum()

    collector = GradientRows(most=200, size=32, generator=torch.Generator().manual_seed(0))
    found = collector.collect(output, 4, w)
    assert found["a"].shape == (4, 32)
    assert torch.equal(found["b"], x[:, 100:])
    whole = GradientRows(most=400, size=32, generator=torch.Generator()).collect(output, 4, w)
    assert torch.equal(whole["a"], x[:, :100])


# -- the kernel --------------------------------------------------------------------------------------------------
def test_kernel_values():
    k = torch.diag(torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64))
    p = np.array([0.5, 0.25, 0.125, 0.125])
    found = kernel_values(k, 0.01)
    assert found[""] == pytest.approx(math.exp(-(p * np.log(p)).sum()))
    assert found["srank"] == 4.0
    assert kernel_values(k, 0.2)["srank"] == 3.0
    assert found["log_condition"] == pytest.approx(math.log10(4))
    assert kernel_values(1e-9 * k, 0.01) == pytest.approx(found)
    order = torch.tensor([2, 0, 3, 1])
    assert kernel_values(k[order][:, order], 0.01) == pytest.approx(found)


def test_degenerate_kernels():
    ones = kernel_values(torch.ones(5, 5, dtype=torch.float64), 0.01)
    assert ones == pytest.approx({"": 1.0, "srank": 1.0, "log_condition": 13.0}, abs=1e-6)
    zeros = kernel_values(torch.zeros(3, 3, dtype=torch.float64), 0.01)
    assert (zeros[""], zeros["srank"]) == (0.0, 0.0)
    assert math.isnan(zeros["log_condition"])
    broken = torch.full((3, 3), math.nan, dtype=torch.float64)
    assert all(math.isnan(v) for v in kernel_values(broken, 0.01).values())
