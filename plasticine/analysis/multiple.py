"""Many tests at once, and how many runs a test needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

__all__ = ["holm", "runs_needed"]


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's step-down correction (1979): adjusted p-values [k] in the order given.

    Calling those below α significant makes one or more false claims with a chance of at most α, however the tests
    hang together.
    """
    p = np.asarray(p_values, np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    found = np.empty_like(p)
    found[order] = np.minimum(stepped, 1.0)
    return found


def runs_needed(rho: float, *, alpha: float = 0.05, power: float = 0.8, tests: int = 1) -> int:
    """How many runs a two-sided test needs to find a Spearman correlation of size `rho`.

    Fisher's z of a Spearman correlation has a standard deviation of about sqrt(1.06 / (n - 3)) (Fieller, Hartley and
    Pearson 1957), so n = 3 + 1.06 ((z_{1 - α/2} + z_power) / artanh ρ)². For `tests` tests α is divided by their
    number, which is what the first of them must pass in `holm`.

    Args:
        rho: Size to be found, in (0, 1).
        alpha: Chance of a false claim.
        power: Chance of finding it.
        tests: Number of tests.
    """
    if not 0.0 < rho < 1.0:
        raise ValueError(f"rho={rho} must lie between 0 and 1")
    normal = NormalDist()
    z = normal.inv_cdf(1.0 - alpha / tests / 2.0) + normal.inv_cdf(power)
    return math.ceil(3.0 + 1.06 * (z / math.atanh(rho)) ** 2)
