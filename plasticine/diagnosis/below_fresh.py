"""Agents that learn less on their tasks than new ones would."""

from __future__ import annotations

from typing import Any

import numpy as np

from plasticine.diagnosis.curves import Curves
from plasticine.diagnosis.signature import Evidence, Signature, Unknown
from plasticine.diagnosis.statistics import change_point

__all__ = ["BelowFresh"]


class BelowFresh(Signature):
    """The relative scores of the later half of the tasks lie below 1 (one-sided t test), and by enough to matter.

    Can be told afterwards only, where runs of the fresh agent are at hand.

    Args:
        alpha: Significance level.
        limit: Their mean must be at most this, in (0, 1).
        least: Tasks beside a fresh agent that are needed.
        common: See `Signature`.
    """

    def __init__(self, *, alpha: float, limit: float, least: int, **common: Any) -> None:
        super().__init__(**common)
        self.alpha, self.limit, self.least = alpha, limit, least

    def reads(self) -> tuple[str, ...]:
        """None of the record's."""
        return ()

    def judge(self, curves: Curves) -> Evidence | Unknown | None:
        """Test the second half of the tasks."""
        scores = np.asarray(curves.facts.get("relative_scores", ()), np.float64)
        starts = np.asarray(curves.facts.get("task_starts", ()), np.float64)
        if not scores.size:
            return Unknown("there is no fresh agent to compare with")
        known = np.isfinite(scores)
        scores, starts = scores[known], starts[known]
        if scores.size < self.least:
            return Unknown(
                f"only {scores.size} tasks are scored beside a fresh agent, {self.least} are needed"
            )
        from scipy import stats  # a second of imports, for those who need it

        late = scores[scores.size // 2 :]
        mean = float(late.mean())
        spread = float(late.std(ddof=1))
        if mean > self.limit:
            return None
        p = float(stats.t.cdf((mean - 1.0) / (spread / late.size**0.5), late.size - 1)) if spread else 0.0
        if p >= self.alpha:
            return None
        after = change_point(scores)
        began = int(starts[after.first if after.p < 0.05 else int((scores < self.limit).argmax())])
        early = float(scores[: scores.size // 2].mean())
        return Evidence("relative_score", began, p, early, mean, f"t test against 1, p {p:.1g}")
