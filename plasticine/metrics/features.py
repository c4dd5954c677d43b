"""Size and spread of the features that the heads read."""

from __future__ import annotations

from torch import Tensor

from plasticine.core.metric import NetProbe
from plasticine.metrics.per_network import PerNetwork, as_float64

__all__ = ["FeatureNorm", "FeatureVariance", "feature_norm", "feature_variance"]


def feature_norm(features: Tensor) -> float:
    """Return the mean Euclidean length of the rows of `features` [n, d]."""
    return float(as_float64(features).norm(dim=1).mean())


def feature_variance(features: Tensor) -> float:
    """Return the variance over rows (divisor n) of every column of `features` [n, d], column average."""
    return float(as_float64(features).var(dim=0, correction=0).mean())


class FeatureNorm(PerNetwork):
    r"""Mean length of the feature vectors on the probe batch.

    .. math:: \frac{1}{n} \sum_{j=1}^{n} \| \Phi_j \|_2

    with :math:`\Phi_j` the d features of observation j.

    Range: [0, inf); both a steady growth and a collapse to 0 go with loss of plasticity. It depends on the
    width d, so compare networks of equal width. NaN if a feature is not finite.

    Source: Yuan et al. 2025 (Plasticine, arXiv 2504.17490), "feature norm"; Lyle et al. 2024 (arXiv
    2407.01800) on its growth.
    """

    def measure(self, net: NetProbe) -> float:
        """Return the mean feature length of one network."""
        return feature_norm(net.features)


class FeatureVariance(PerNetwork):
    r"""Variance of the features over the probe batch, averaged over the features.

    .. math:: \frac{1}{d} \sum_{i=1}^{d} \frac{1}{n} \sum_{j=1}^{n} \Big( \Phi_{ji} - \bar\Phi_i \Big)^2,
        \qquad \bar\Phi_i = \frac{1}{n} \sum_j \Phi_{ji}

    The variance is taken over the n observations (columnwise): it asks whether different observations get
    different features, not how a single feature vector is spread.

    Range: [0, inf); falling to 0 = collapse, every observation looks the same. It scales with the square of
    the features. NaN if a feature is not finite.

    Source: Yuan et al. 2025 (Plasticine, arXiv 2504.17490), "feature variance".
    """

    def measure(self, net: NetProbe) -> float:
        """Return the mean variance of one network's features over the batch."""
        return feature_variance(net.features)
