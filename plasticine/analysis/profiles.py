"""Performance profiles: which share of runs scores above a threshold."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from plasticine.analysis.aggregate import mean
from plasticine.analysis.bootstrap import Estimate, as_strata, estimate

__all__ = ["performance_profile", "score_thresholds"]


def performance_profile(
    scores: Sequence[ArrayLike],
    thresholds: NDArray[np.float64],
    *,
    confidence: float = 0.95,
    reps: int = 2_000,
    seed: int = 0,
) -> Estimate:
    """Run-score distribution: the share of runs whose score is larger than τ, averaged over tasks.

    Defined as in rliable (Agarwal et al. 2021, arXiv 2108.13264), with a pointwise band.

    Args:
        scores: Scores [n_k] of each task.
        thresholds: τ [points].
        confidence, reps, seed: See `estimate`.

    Returns:
        Estimate [points] in [0, 1], falling in τ.
    """
    above = [(x[:, None] > thresholds).astype(np.float64) for x in as_strata(scores)]
    return estimate(above, mean, confidence=confidence, reps=reps, seed=seed)


def score_thresholds(scores: Iterable[ArrayLike], points: int = 101) -> NDArray[np.float64]:
    """Evenly spaced thresholds [points] from the smallest to the largest of all scores."""
    everything = np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in scores])
    return np.linspace(everything.min(), everything.max(), points)
