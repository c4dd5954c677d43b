"""Whether the agent gets what it expects."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from plasticine.core.metric import Probe
from plasticine.core.ranges import check_counts, check_numbers
from plasticine.metrics.seldom import Seldom

__all__ = ["Overestimation", "bias_values"]

F64 = NDArray[np.float64]


def bias_values(values: F64, returns: F64) -> dict[str, float]:
    """Return the values of `Overestimation` by their suffix (``""`` for the relative bias).

    Args:
        values, returns: Expected and real [k]. NaN everywhere if there are none.
    """
    if not len(values):
        return dict.fromkeys(("", "value", "return"), math.nan)
    expected, real = float(values.mean()), float(returns.mean())
    relative = (expected - real) / abs(real) if real != 0.0 else math.nan
    found = {"": relative, "value": expected, "return": real}
    return {k: v if math.isfinite(v) else math.nan for k, v in found.items()}


class Overestimation(Seldom):
    r"""Bias of the values: mean difference between expected and real discounted return, relative to the latter.

    .. math:: \frac{\mathrm{mean}_t \big( Q(s_t, a_t) - G_t \big)}{|\mathrm{mean}_t \, G_t|}, \qquad
        G_t = \sum_{k \ge 0} \gamma^k r_{t+k}

    over the steps of one episode of every environment, played for the purpose on the present task: the greedy policy
    where Q estimates its value (Q-learning, TD3), the sampled one where the state value V takes the place of Q (PPO).
    Rewards are those that the agent learns from (sign and normalisation included, with the present statistics).

    What followed is known where the episode terminated (for agents that learn that a lost life ends everything:
    there too). Where it was cut, by a time limit or after `max_steps` steps, G goes on with the network's own
    estimate at that point; steps where this has a share of more than `tail` in G are left out.

    Further values: ``value``, the mean of Q, and ``return``, the mean of G.

    Range: any number; 0 = unbiased; positive and growing = overestimation. NaN if the mean of G is 0, if no step is
    left (discount too close to 1 for `max_steps`), or if a value is not finite. No value for agents that estimate
    none. The training environment, its statistics and random streams are not touched.

    Source: van Hasselt et al. 2016 (arXiv 1509.06461), figure 3; Fujimoto et al. 2018 (arXiv 1802.09477), figure 1.

    Args:
        max_steps: Length at which an episode is left.
        tail: Largest share, in [0, 1]; with discount 0.99 the last 160 steps before a cut have more than 0.2.
        every: See `Seldom`.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(self, *, max_steps: int, tail: float, every: int | None) -> None:
        super().__init__(every=every)
        check_counts("metrics.set.overestimation", max_steps=max_steps)
        check_numbers("metrics.set.overestimation", "[0, 1]", tail=tail)
        self.max_steps = max_steps
        self.tail = tail

    def look(self, probe: Probe) -> dict[str, float]:
        """Return the bias by network, the means by ``<network>/<name>``."""
        played = None if probe.rehearse is None else probe.rehearse(self.max_steps)
        if played is None:
            return {}
        known = played.open <= self.tail
        found: dict[str, float] = {}
        for net, values in played.values.items():
            for k, v in bias_values(values[known], played.returns[net][known]).items():
                found[f"{net}/{k}" if k else net] = v
        return found
