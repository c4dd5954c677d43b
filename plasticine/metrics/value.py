"""How well the agent's values explain what it learns them from."""

from __future__ import annotations

import math

from torch import Tensor

from plasticine.core.metric import Metric, Probe
from plasticine.metrics.per_network import as_float64, finite_or_nan

__all__ = ["ExplainedVariance", "explained_variance"]


def explained_variance(values: Tensor, targets: Tensor) -> float:
    """Return 1 - Var(targets - values) / Var(targets) for [n] each; NaN if the targets are equal or not finite."""
    v, r = as_float64(values), as_float64(targets)
    spread = float(r.var(correction=0))
    return finite_or_nan(1.0 - float((r - v).var(correction=0)) / spread) if spread > 0 else math.nan


class ExplainedVariance(Metric):
    r"""Share of the variance of what values are trained towards that they explain.

    .. math:: 1 - \frac{ \operatorname{Var}(R - V) }{ \operatorname{Var}(R) }

    * PPO, PQN: R are the returns of the latest rollout (advantage estimates plus values; :math:`Q(\lambda)` returns)
      and V the values when it was collected: what had been foreseen. The agent reports it.
    * TD3, C51: R are the targets of the last minibatch (means, where they are distributions) and V the values of the
      same actions after the update.

    Range: (-inf, 1]; 1 = perfect, 0 = no better than a constant, below 0 = worse. Falling over tasks = the value
    function can no longer be fitted. NaN if all returns are equal, or one is not finite. No value before the first
    update, and for an agent that has no values.

    Source: explained variance as logged by OpenAI's baselines of PPO (Schulman et al. 2017, arXiv 1707.06347).
    """

    needs_batch = True

    def compute(self, probe: Probe) -> dict[str, float]:
        """Return ``{"": value}``, the mean over the phases that train values."""
        if "explained_variance" in probe.scalars:
            return {"": finite_or_nan(float(probe.scalars["explained_variance"]))}
        fits = probe.lab.fits() if probe.lab is not None else []
        if not fits:
            return {}
        return {"": math.fsum(explained_variance(v, r) for v, r in fits) / len(fits)}
