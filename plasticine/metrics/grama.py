"""How many hidden units get hardly any gradient."""

from __future__ import annotations

import torch
from torch import Tensor

from plasticine.core.metric import Layers, Metric, NetProbe, Probe
from plasticine.metrics.bounds import number_within
from plasticine.metrics.unit_share import Counts, layer_shares, total_share

__all__ = ["Grama", "gradient_dormant"]


def gradient_dormant(gradient: Tensor, tau: float) -> int | None:
    """Count the units whose gradient is at most `tau` times their layer's mean; None if it is not finite.

    Args:
        gradient: Of the weight that makes the units [units, in, ...].
        tau: Threshold.
    """
    size = gradient.detach().abs().flatten(1).mean(1, dtype=torch.float64)
    if not bool(torch.isfinite(size).all()):
        return None
    return int((size <= tau * size.mean()).sum())


class Grama(Metric):
    r"""Share of hidden units with a dormant gradient (GraMa).

    With :math:`G_i` the mean absolute gradient of the weights that make unit i of a layer with d units,

    .. math:: G_i = \frac{1}{m} \sum_{j=1}^{m} \Big| \frac{\partial L}{\partial W_{ij}} \Big|, \qquad
        i \text{ dormant} \iff G_i \le \tau \, \frac{1}{d} \sum_k G_k

    counted over all hidden layers / hidden units. The gradient is that of the agent's own loss on the last minibatch
    of the update at the present weights, before clipping, without terms that methods add. In the paper
    :math:`10^{-8}` is added to the layer's mean; without it, as here, the scale of the loss does not matter, and
    a layer without any gradient counts as dormant all the same.

    Range: [0, 1]; rising = loss of plasticity. It works for any activation. NaN if a gradient is not finite. No value
    before the first optimizer step.

    Source: Liu et al. 2025 (arXiv 2505.24061), definition 4.1.

    Args:
        tau: Threshold, in [0, 1).

    Raises:
        UserError: `tau` is outside [0, 1).
    """

    needs_batch = True

    def __init__(self, *, tau: float) -> None:
        self.tau = number_within("tau of the grama metric", tau, low=0.0, high=1.0)

    def compute(self, probe: Probe) -> dict[str, float]:
        """Return the share over the hidden layers by network."""
        shares = {net.name: total_share(self._counts(net, probe)) for net in probe.nets}
        return {name: share for name, share in shares.items() if share is not None}

    def layers(self, probe: Probe) -> Layers:
        """Return the share in every hidden layer."""
        return {net.name: layer_shares(counts) for net in probe.nets if (counts := self._counts(net, probe))}

    def _counts(self, net: NetProbe, probe: Probe) -> Counts:
        weights = {site.name: f"{net.name}/{site.name}.weight" for site in net.sites}
        return {
            layer: (gradient_dormant(probe.gradients[name], self.tau), len(probe.gradients[name]))
            for layer, name in weights.items()
            if name in probe.gradients
        }
