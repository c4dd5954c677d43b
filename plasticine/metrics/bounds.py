"""Checks of the numbers and words a user puts into a metric's YAML."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Real

from plasticine.errors import UserError, nearest

__all__ = ["choice", "number_within"]


def number_within(key: str, value: object, *, low: float, high: float) -> float:
    """Return `value` as a float if it is a number in [low, high).

    Raises:
        UserError: It is no number, NaN, or outside the interval.
    """
    if isinstance(value, Real) and not isinstance(value, bool) and low <= float(value) < high:
        return float(value)
    raise UserError(f"{key} is {value!r}", f"give a number of at least {low:g} and below {high:g}")


def choice(key: str, value: object, options: Iterable[str]) -> str:
    """Return `value` if it is one of the words in `options`.

    Raises:
        UserError: It is not; the message names the closest words.
    """
    options = tuple(options)
    if isinstance(value, str) and value in options:
        return value
    raise UserError(f"{key} is {value!r}", f"{nearest(str(value), options)} (all: {', '.join(options)})")
