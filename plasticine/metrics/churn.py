"""How many decisions one update turns over."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from plasticine.core.metric import Metric, NetProbe, Probe

__all__ = ["PolicyChurn", "churn"]


def churn(now: Tensor, before: Tensor, scale: Tensor | None) -> float:
    """Return how different two sets of decisions are; NaN if one is not finite.

    Args:
        now, before: Actions by index [n] if `scale` is None, else components [n, k].
        scale: In what a change of a component is expressed [k].
    """
    if scale is None:
        return int((now != before).sum()) / now.numel()
    change = ((now - before).abs() / scale).mean(dtype=torch.float64)
    return float(change) if bool(torch.isfinite(change)) else math.nan


class PolicyChurn(Metric):
    r"""How much one update changes what the policy would do, on the probe batch.

    * Discrete actions: the share of observations for which another action is the best one than before the update,
      :math:`\frac{1}{n} \sum_j 1[ a_j \ne a'_j ]`. Range: [0, 1].
    * Gaussian policies: the mean change of the mean action in standard deviations of the policy before the update,
      :math:`\frac{1}{n k} \sum_{j,i} | \mu_{ji} - \mu'_{ji} | / \sigma'_i`. Range: [0, inf).
    * Deterministic continuous policies: the same, in widths of the action range. Range: [0, 1].

    The update is one round of collecting and learning; the earlier decisions come from the weights before it, on the
    same observations, which costs a forward pass of the network that decides.

    Very large = unstable, most of what changes was not meant to; near 0 for long = the policy is frozen. NaN if an
    output is not finite. Networks that do not decide have no value.

    Source: Schaul et al. 2022 (arXiv 2206.00730); Tang et al. 2025 (C-CHAIN, arXiv 2506.00592) on its growth with
    loss of plasticity.
    """

    def compute(self, probe: Probe) -> dict[str, float]:
        """Return the churn of every network that decides."""
        found = {net.name: self._of(net) for net in probe.nets}
        return {name: value for name, value in found.items() if value is not None}

    def _of(self, net: NetProbe) -> float | None:
        before, now = net.decisions("update"), net.decisions()
        if before is None or now is None:
            return None
        # An index says nothing about what it was chosen among.
        if not all(bool(torch.isfinite(out).all()) for out in net.outputs.values()):
            return math.nan
        return churn(now.actions, before.actions, before.scale)
