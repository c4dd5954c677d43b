"""Lanczos against dense eigenvalues."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from plasticine.metrics.hessian import HessianRank, HessianTop, curvature, eigenvalues_beyond
from plasticine.metrics.lanczos import lanczos


def symmetric(eigenvalues, seed=0):
    """A dense float64 matrix with these eigenvalues in random directions."""
    g = torch.Generator().manual_seed(seed)
    n = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(n, n, generator=g, dtype=torch.float64))[0]
    return basis @ torch.diag(torch.as_tensor(eigenvalues, dtype=torch.float64)) @ basis.T


def start(n, seed=1, dtype=torch.float64):
    return torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def run(matrix, steps, **options):
    return lanczos(lambda v: matrix @ v, start(len(matrix), dtype=matrix.dtype), steps, **options)


def test_all_steps_give_all_eigenvalues():
    matrix = symmetric(np.random.default_rng(0).normal(size=40))
    found = run(matrix, 100)
    assert found.exhausted
    assert torch.allclose(found.values, torch.linalg.eigvalsh(matrix), atol=1e-10)


def test_weights_are_those_of_gauss_quadrature():
    """k steps integrate polynomials up to degree 2k - 1 exactly."""
    matrix = symmetric(np.linspace(-1, 2, 30))
    found = run(matrix, 4)
    u = start(30) / start(30).norm()
    for degree in range(8):
        exact = u @ torch.linalg.matrix_power(matrix, degree) @ u
        assert math.isclose(float((found.weights * found.values**degree).sum()), float(exact), abs_tol=1e-9)


def test_an_eigenvalue_lies_within_each_residual():
    matrix = symmetric(np.random.default_rng(1).normal(size=80))
    found, exact = run(matrix, 20), torch.linalg.eigvalsh(matrix)
    distance = (found.values[:, None] - exact).abs().amin(1)
    assert bool((distance <= found.residuals + 1e-9).all())
    assert float(found.residuals.max()) > 1e-3  # there was something to bound


@pytest.mark.parametrize("steps", [2, 5, 10, 25])
def test_ritz_values_beyond_a_threshold_are_never_too_many(steps):
    values = np.concatenate([np.linspace(0.2, 5, 12), np.linspace(-0.1, 0.1, 60)])
    found = run(symmetric(values), steps)
    assert int((found.values > 0.15).sum()) <= 12


def test_large_eigenvalues_are_not_found_again_in_single_precision():
    matrix = symmetric([1e4, 1e3, *np.linspace(0, 1, 198)]).float()
    found = run(matrix, 80)
    assert int((found.values > 100).sum()) == 2
    assert int((found.values < -0.01).sum()) == 0


def test_low_rank_ends_early():
    found = run(symmetric([3.0, -2.0, *[0.0] * 48]), 40)
    assert found.exhausted
    assert len(found.values) <= 4
    assert sorted(found.values[found.values.abs() > 1e-6].tolist()) == pytest.approx([-2.0, 3.0])


def test_zeros_and_broken_matrices():
    assert run(torch.zeros(5, 5, dtype=torch.float64), 4).values.tolist() == [0.0]
    assert run(torch.full((5, 5), math.nan, dtype=torch.float64), 4) is None
    assert run(torch.full((5, 5), math.inf, dtype=torch.float64), 4) is None


def test_enough_ends_the_search():
    matrix = symmetric(np.random.default_rng(2).normal(size=50))
    assert len(run(matrix, 40, enough=lambda s: len(s.values) == 7).values) == 7


# -- what the metrics make of it -----------------------------------------------------------------------------------
def top(**options):
    return HessianTop(**{"samples": 8, "steps": 60, "tolerance": 1e-3, "every": None, **options})


def top_of(matrix, **options):
    return top(**options)._value(lambda v: matrix @ v, start(len(matrix), dtype=matrix.dtype))


@pytest.mark.parametrize("negative", [0.0, -3.0, -100.0])
def test_the_largest_eigenvalue_is_not_the_largest_modulus(negative):
    assert top_of(symmetric([negative, 2.0, *np.linspace(-1, 1, 40)])) == pytest.approx(2.0, rel=1e-3)


def test_top_of_what_bends_downwards_everywhere_is_negative():
    assert top_of(symmetric(np.linspace(-9, -1, 30))) == pytest.approx(-1.0, rel=1e-2)


def test_top_that_has_not_settled_is_nan():
    matrix = symmetric(np.random.default_rng(0).normal(size=200))
    assert math.isnan(top_of(matrix, steps=3))
    assert math.isfinite(top_of(matrix, steps=100))
    assert math.isnan(top_of(torch.full((4, 4), math.nan)))


def rank_of(matrix, *, epsilon=0.01, steps=40, seed=1):
    metric = HessianRank(samples=8, steps=steps, epsilon=epsilon, every=None)
    return metric._value(lambda v: matrix @ v, start(len(matrix), seed, matrix.dtype))


def test_rank_is_exact_where_steps_resolve_it():
    few = [10.0, -8.0, 5.0, 2.0, -1.0, 0.2, 0.09, -0.05, *np.linspace(-0.01, 0.01, 292)]
    assert rank_of(symmetric(few)) == 6.0
    assert rank_of(symmetric(few) * 1e-4) == 6.0
    assert rank_of(symmetric(few), epsilon=0.3) == 3.0
    assert rank_of(symmetric([1.0, 1.0 + 1e-3, *[0.0] * 98])) == 2.0
    assert rank_of(torch.zeros(9, 9, dtype=torch.float64)) == 0.0
    assert math.isnan(rank_of(torch.full((4, 4), math.nan)))


def test_rank_beyond_the_number_of_steps_is_estimated():
    """120 of 400, from 30 steps: within the stated deviation of sqrt(2 / 120) = 13 % for one vector."""
    matrix = symmetric([*np.linspace(0.5, 1.0, 120), *[0.0] * 280])
    estimates = np.array([rank_of(matrix, steps=30, seed=s) for s in range(30)])
    assert abs(estimates.mean() - 120) < 120 * 0.13 * 3 / math.sqrt(30)
    assert 0.05 < estimates.std() / 120 < 0.25
    spectrum = run(matrix, 30)
    assert eigenvalues_beyond(spectrum, 0.01, 2) == float((spectrum.values.abs() > 0.01).sum())  # never fewer


# -- second derivatives ------------------------------------------------------------------------------------------
def test_products_equal_those_of_the_dense_hessian():
    g = torch.Generator().manual_seed(0)
    x, y = (torch.randn(s, generator=g, dtype=torch.float64) for s in ((20, 3), (20,)))
    params = {
        "a": torch.randn(4, 3, generator=g, dtype=torch.float64).requires_grad_(),
        "unused": torch.randn(2, generator=g, dtype=torch.float64).requires_grad_(),
        "b": torch.randn(4, generator=g, dtype=torch.float64).requires_grad_(),
    }

    def gradient(flat):
        """By hand, in numpy, for 0.5 mean (b . tanh(a x) - y)^2."""
        a, b = flat[:12].reshape(4, 3), flat[14:]
        h = np.tanh(x.numpy() @ a.T)
        error = (h @ b - y.numpy()) / 20
        da = (error[:, None] * b * (1 - h**2)).T @ x.numpy()
        return np.concatenate([da.ravel(), np.zeros(2), error @ h])

    loss = 0.5 * ((torch.tanh(x @ params["a"].T) @ params["b"]) - y).square().mean()
    product = curvature(loss, params)
    flat = torch.cat([p.detach().flatten() for p in params.values()]).numpy()
    for i in range(len(flat)):
        step = np.zeros(len(flat))
        step[i] = 1e-5
        column = (gradient(flat + step) - gradient(flat - step)) / 2e-5
        assert np.allclose(product(torch.from_numpy(step * 1e5)).numpy(), column, atol=1e-8)


def test_a_linear_loss_has_no_curvature():
    w = torch.ones(3, requires_grad=True)
    product = curvature((2 * w).sum(), {"w": w})
    assert product(torch.ones(3)).tolist() == [0.0, 0.0, 0.0]
