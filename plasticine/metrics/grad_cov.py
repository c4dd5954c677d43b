"""Whether the samples of a minibatch pull the network into different directions."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from plasticine.core.lab import Laboratory
from plasticine.core.metric import Probe
from plasticine.core.ranges import check_count, check_counts
from plasticine.metrics.rank import effective_rank
from plasticine.metrics.sample_gradients import GradientRows, cosines, gram, leaves
from plasticine.metrics.seldom import Seldom

__all__ = ["GradientCovariance", "covariance_values"]


def covariance_values(products: Tensor) -> dict[str, float]:
    """Return the values of `GradientCovariance` by their suffix (``""`` for the rank).

    Args:
        products: Inner products of the gradients [m, m], float64.
    """
    if not bool(torch.isfinite(products).all()):
        return dict.fromkeys(("", "cosine", "negative", "zero"), math.nan)
    cosine, zero = cosines(products)
    m, alive = len(products), ~zero
    pairs = cosine[alive][:, alive]
    between = pairs[~torch.eye(len(pairs), dtype=torch.bool)]
    eigenvalues = torch.linalg.eigvalsh(cosine).clamp(min=0.0).flip(0)
    return {
        "": effective_rank(eigenvalues) / m,
        "cosine": float(between.mean()) if len(between) else math.nan,
        "negative": float((between < 0).double().mean()) if len(between) else math.nan,
        "zero": float(zero.double().mean()),
    }


class GradientCovariance(Seldom):
    r"""Effective rank of the normalised covariance of single samples' gradients, relative to their number.

    .. math:: C_{ij} = \frac{\langle g_i, g_j \rangle}{\|g_i\| \|g_j\|}, \qquad
        \frac{1}{m} \exp \Big( - \sum_k p_k \ln p_k \Big), \quad p_k = \lambda_k(C) / \textstyle\sum_l \lambda_l(C)

    with :math:`g_i` [p] the gradient of the agent's training loss (its own, without terms that methods add) on sample
    i alone, at the present parameters; up to `samples` rows of the last minibatch, for each network by itself. Rows
    with a gradient of exactly zero are zero in C.

    Further values: ``cosine``, the mean of C over pairs of different samples [-1, 1]; ``negative``, the fraction of
    those pairs that pull against each other [0, 1] (pairs with a zero gradient excluded from both; NaN without a
    pair); ``zero``, the fraction of samples with a zero gradient [0, 1].

    Range: [0, 1], 1/m if all gradients are collinear, 0 if all are zero. Loss of plasticity: the rank falls, cosine
    tends to 1 or zero rises. Scaling the loss changes nothing, nor does the order of the samples. NaN if a gradient
    is not finite. Nothing before the first optimizer step.

    Source: Lyle et al. 2023 (arXiv 2303.01486), gradient covariance, section 3 and figure 3.

    Args:
        samples: Rows of the minibatch, at most (m).
        most: Entries (samples times parameters) up to which gradients are kept whole.
        sketch: Otherwise each is mapped to so many numbers at random (see `Sketch`): every cosine is off by at most
            ``sqrt(2 / sketch)`` (standard deviation).
        every: See `Seldom`.

    Raises:
        UserError: A number is too small.
    """

    needs_batch = True

    def __init__(self, *, samples: int, most: int, sketch: int, every: int | None) -> None:
        super().__init__(every=every)
        check_count("metrics.set.grad_cov.samples", samples, least=2)
        check_counts("metrics.set.grad_cov", most=most, sketch=sketch)
        self.samples = samples
        self.most = most
        self.sketch = sketch

    def look(self, probe: Probe) -> dict[str, float]:
        """Return the rank by network, the others by ``<network>/<name>``."""
        lab = probe.lab
        if lab is None:
            return {}
        generator = lab.generator("grad_cov")
        found: dict[str, float] = {}
        for phase in lab.batches:
            for net, rows in self._rows(lab, phase, generator).items():
                values = covariance_values(gram(rows))
                found |= {f"{net}/{k}" if k else net: v for k, v in values.items()}
        return found

    def _rows(self, lab: Laboratory, phase: str, generator: Generator) -> dict[str, Tensor]:
        """Gradients of single samples by network."""
        batch, params = lab.batches[phase], leaves(lab.trained(phase))
        picks = torch.randperm(len(batch[0]), generator=generator)[: self.samples].split(1)
        collector = GradientRows(most=self.most, size=self.sketch, generator=generator)
        return collector.collect(
            lambda i: lab.loss(phase, params, lab.rows(batch, picks[i])),
            len(picks),
            {net: {k: v for k, v in params.items() if k.startswith(f"{net}/")} for net in lab.phases[phase]},
        )
