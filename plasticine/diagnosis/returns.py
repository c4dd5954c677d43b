"""Whether an agent still gets better: the consequence that makes a change of its networks a failure."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from plasticine.diagnosis.curves import Curves
from plasticine.diagnosis.statistics import mann_kendall

__all__ = ["RETURN_KEY", "blocks", "stalled"]

RETURN_KEY = "train/episodic_return"
_BLOCKS = 8
_ALPHA = 0.05
_LOST = 0.25  # of what was gained


def blocks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Medians of eight equal parts in order of time (of fewer, if there are fewer values)."""
    return np.asarray([np.median(part) for part in np.array_split(values, min(_BLOCKS, values.size))])


def stalled(curves: Curves, since: float) -> bool:
    """Whether returns have stopped rising since a step, and lie below what was reached before, or never rose at all.

    Rising is a Mann-Kendall test at 5 %. Below means that at least a quarter of the best eighth's gain over the first
    one is lost in the last. An agent that stays where it is at its best has not stalled: there may be nothing left to
    learn. Nor has one half of whose returns are the least there are: it has not met anything to learn from yet, and
    its networks come back when it does. With fewer than eight returns nothing can be told, and the answer is no.
    """
    line = curves.line(RETURN_KEY, least=8)
    if line is None:
        return False
    values = line.values
    if np.median(values) == values.min():
        return False
    later = values[line.steps >= since]
    if later.size >= 8 and mann_kendall(later).rising < _ALPHA:
        return False
    levels = blocks(values)
    gained = levels.max() - levels[0]
    if mann_kendall(values).rising >= _ALPHA:
        return True
    return bool(levels.max() - levels[-1] >= _LOST * gained)
