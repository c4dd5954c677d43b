"""Statistics over runs, in one place: what a report or a notebook needs."""

from __future__ import annotations

from plasticine.analysis.aggregate import Statistic, Strata, iqm, mean, median, optimality_gap
from plasticine.analysis.bootstrap import Estimate, estimate, resample
from plasticine.analysis.efficiency import Curve, common_grid, mean_curve, on_grid
from plasticine.analysis.improvement import probability_of_improvement
from plasticine.analysis.profiles import performance_profile, score_thresholds
from plasticine.analysis.ranks import mean_ranks, rank_distribution

__all__ = [
    "Curve",
    "Estimate",
    "Statistic",
    "Strata",
    "common_grid",
    "estimate",
    "iqm",
    "mean",
    "mean_curve",
    "mean_ranks",
    "median",
    "on_grid",
    "optimality_gap",
    "performance_profile",
    "probability_of_improvement",
    "rank_distribution",
    "resample",
    "score_thresholds",
]
