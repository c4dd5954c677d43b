"""Tests for trends against closed forms, scipy and simulated noise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from plasticine.diagnosis.statistics import change_point, mann_kendall, mostly_beyond, theil_sen


def ar1(rng: np.random.Generator, n: int, phi: float) -> np.ndarray:
    noise = rng.normal(size=n)
    values = np.empty(n)
    values[0] = noise[0] / math.sqrt(1 - phi**2)
    for k in range(1, n):
        values[k] = phi * values[k - 1] + noise[k]
    return values


def test_a_perfect_trend():
    found = mann_kendall(np.arange(10.0))
    assert found.tau == 1.0
    # S = 45, variance 10 * 9 * 25 / 18 = 125
    assert found.inflation == 1.0
    assert found.rising == pytest.approx(stats.norm.sf(44 / math.sqrt(125)), rel=1e-9)
    assert mann_kendall(-np.arange(10.0)).falling == found.rising
    assert mann_kendall(np.arange(10.0)).falling > 0.99


def test_ties_shrink_the_variance():
    values = np.asarray([0.0, 0.0, 1.0, 1.0, 2.0, 2.0])
    # S = 12; (6*5*17 - 3 * 2*1*9) / 18 = 456 / 18
    assert mann_kendall(values).rising == pytest.approx(stats.norm.sf(11 / math.sqrt(456 / 18)), rel=1e-9)
    flat = mann_kendall(np.ones(20))
    assert (flat.tau, flat.rising, flat.falling) == (0.0, 1.0, 1.0)


def test_tau_is_kendalls():
    values = np.random.default_rng(0).normal(size=40)
    assert mann_kendall(values).tau == pytest.approx(stats.kendalltau(np.arange(40), values).statistic)


@pytest.mark.parametrize(("phi", "most"), [(0.0, 0.03), (0.5, 0.05), (0.8, 0.11)])
def test_noise_whose_neighbours_are_alike_is_no_trend(phi, most):
    """At 2 % to one side. Uncorrected, neighbours that resemble each other (0.8) raise 23 % of alarms."""
    rng = np.random.default_rng(1)
    found = [mann_kendall(ar1(rng, 60, phi)) for _ in range(400)]
    assert np.mean([f.rising < 0.02 for f in found]) <= most
    uncorrected = np.mean(
        [stats.norm.sf(stats.norm.isf(f.rising) * math.sqrt(f.inflation)) < 0.02 for f in found]
    )
    assert phi < 0.7 or uncorrected > 0.15


def test_a_trend_in_such_noise_is_found():
    rng = np.random.default_rng(2)
    found = [mann_kendall(ar1(rng, 60, 0.5) + 0.1 * np.arange(60)).rising for _ in range(100)]
    assert np.mean(np.asarray(found) < 0.02) > 0.9


def test_the_median_slope_is_theil_and_sens():
    rng = np.random.default_rng(3)
    x, y = np.sort(rng.uniform(0, 9, 25)), rng.normal(size=25)
    assert theil_sen(y, x) == pytest.approx(stats.theilslopes(y, x).slope)
    broken = 2.0 * np.arange(20.0)
    broken[:5] = 1e6
    assert theil_sen(broken) == pytest.approx(2.0, abs=1.0)


def test_where_a_level_ends():
    values = np.concatenate((np.zeros(12), np.ones(8)))
    found = change_point(values)
    assert found.first == 12
    assert found.p == pytest.approx(2 * math.exp(-6 * 96**2 / (20**3 + 20**2)))  # U = 12 * 8
    assert abs(change_point(values + np.random.default_rng(4).normal(0, 0.1, 20)).first - 12) <= 1
    assert change_point(np.random.default_rng(5).normal(size=40)).p > 0.1


def test_a_sign_test():
    values = np.asarray([1.0] * 9 + [-1.0])
    assert mostly_beyond(values, 0.0, rising=True) == pytest.approx(
        stats.binomtest(9, 10, alternative="greater").pvalue
    )
    assert mostly_beyond(values, 0.0, rising=False) == pytest.approx(1.0, abs=1e-3)
    assert mostly_beyond(np.zeros(0), 0.0, rising=True) == 1.0
