"""A faster ``dm_control.utils.rewards.tolerance`` with the same result to the last bit.

The original spends about 15 microseconds on a single number in calls of numpy functions made for arrays; a
step of a quadruped evaluates it twice and simulates for 70.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

__all__ = ["fast_tolerance"]


@functools.cache
def _scale(sigmoid: str, value_at_margin: float) -> float:
    """Scale that makes the sigmoid equal `value_at_margin` at distance 1, computed as the original does."""
    if sigmoid == "linear":
        return 1 - value_at_margin
    if sigmoid == "quadratic":
        return float(np.sqrt(1 - value_at_margin))
    if sigmoid == "gaussian":
        return float(np.sqrt(-2 * np.log(value_at_margin)))
    if sigmoid == "long_tail":
        return float(np.sqrt(1 / value_at_margin - 1))
    raise KeyError(sigmoid)


# Squares of larger numbers may overflow, which Python reports differently.
_LARGE = 1e100

# Sigmoids computed here, each with the smallest admissible value at the margin and whether it is admissible.
_ZERO_ALLOWED = {"linear": True, "quadratic": True, "gaussian": False, "long_tail": False}


def _outside(distance: float, sigmoid: str, value_at_margin: float) -> float:
    scaled = distance * _scale(sigmoid, value_at_margin)
    if sigmoid == "linear":
        return 1 - scaled if abs(scaled) < 1 else 0.0
    if sigmoid == "quadratic":
        return 1 - scaled**2 if abs(scaled) < 1 else 0.0
    if sigmoid == "gaussian":
        # numpy's exp and the C library's differ in the last bit, hence numpy's here too.
        return float(np.exp(-0.5 * scaled**2))
    return 1 / (scaled**2 + 1)


def _around_zero(x: np.ndarray, margin: float, sigmoid: str, value_at_margin: float) -> np.ndarray:
    """Sigmoid of ``|x| / margin``: the tolerance for the bounds (0, 0), where every sigmoid is 1 at 0."""
    scaled = np.abs(x)
    # Division and multiplication by 1 change nothing and cost as much as any other.
    if margin != 1:
        scaled /= margin
    scale = _scale(sigmoid, value_at_margin)
    if scale != 1:
        scaled *= scale
    if sigmoid == "linear":
        return np.fmax(1 - scaled, 0.0)  # fmax: not-a-number gives 0, as in the original
    scaled *= scaled
    if sigmoid == "quadratic":
        return np.fmax(1 - scaled, 0.0)
    if sigmoid == "gaussian":
        scaled *= -0.5
        return np.exp(scaled)
    scaled += 1
    return 1 / scaled


def fast_tolerance(original: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap ``rewards.tolerance``.

    Args:
        original: The function to reproduce. It is called for everything but single float64 numbers, and float64
            arrays with the bounds (0, 0), with one of the four common sigmoids and valid parameters: its
            checks and errors stay.

    Returns:
        A function with the same signature and values. For a zero-dimensional array it returns a numpy float
        where the original returns a zero-dimensional array.
    """

    def tolerance(
        x: Any,
        bounds: tuple[float, float] = (0.0, 0.0),
        margin: float = 0.0,
        sigmoid: str = "gaussian",
        value_at_margin: float = 0.1,
    ) -> Any:
        kind = type(x)
        single = kind is float or kind is np.float64
        zero_allowed = _ZERO_ALLOWED.get(sigmoid)
        if not (
            (single or (kind is np.ndarray and x.dtype == np.float64))
            and zero_allowed is not None
            and (0 < value_at_margin < 1 or (zero_allowed and value_at_margin == 0))
        ):
            return original(x, bounds, margin, sigmoid, value_at_margin)
        lower, upper = bounds
        if not single and x.ndim:
            if lower == upper == 0 and margin > 0:
                return _around_zero(x, margin, sigmoid, value_at_margin)
            return original(x, bounds, margin, sigmoid, value_at_margin)
        number = float(x)
        if lower > upper or margin < 0 or not abs(number) < _LARGE:
            return original(x, bounds, margin, sigmoid, value_at_margin)
        if lower <= number <= upper:
            value = 1.0
        elif margin == 0:
            value = 0.0
        else:
            distance = float((lower - number if number < lower else number - upper) / margin)
            if not math.isfinite(distance) or distance > _LARGE:
                return original(x, bounds, margin, sigmoid, value_at_margin)
            value = _outside(distance, sigmoid, value_at_margin)
        return value if single else np.float64(value)

    return tolerance
