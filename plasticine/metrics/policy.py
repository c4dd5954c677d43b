"""How much the policy still explores."""

from __future__ import annotations

from plasticine.metrics.update_scalar import UpdateScalar

__all__ = ["PolicyEntropy"]


class PolicyEntropy(UpdateScalar):
    r"""Entropy of the policy in nats, averaged over the minibatches of the latest update.

    .. math:: - \sum_a \pi(a) \ln \pi(a) \quad \text{(discrete)}, \qquad
        \sum_i \big( \tfrac{1}{2} \ln 2 \pi e + \ln \sigma_i \big) \quad \text{(Gaussian)}

    The agent reports it as the scalar ``policy_entropy``; for a Gaussian it is the differential entropy
    summed over the action dimensions, before actions are clipped.

    Range: [0, ln(number of actions)] for discrete actions; any real number for a Gaussian. A collapse = lost
    exploration. NaN if it was not finite. No value for an agent with a deterministic policy.

    Source: Yuan et al. 2025 (Plasticine, arXiv 2504.17490), "policy entropy".
    """

    scalar = "policy_entropy"
