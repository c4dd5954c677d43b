"""Curvature of the training loss."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping

import torch
from torch import Generator, Tensor

from plasticine.core.lab import Laboratory
from plasticine.core.metric import Probe
from plasticine.core.ranges import check_count, check_numbers
from plasticine.metrics.lanczos import MatVec, Spectrum, lanczos
from plasticine.metrics.sample_gradients import leaves
from plasticine.metrics.seldom import Seldom

__all__ = ["HessianRank", "HessianTop", "curvature", "eigenvalues_beyond"]

#: A Ritz value is taken for an eigenvalue once its residual is this share of it.
_SETTLED = 1e-3


@torch.enable_grad()
def curvature(loss: Tensor, params: Mapping[str, Tensor]) -> MatVec:
    """Products of the Hessian of `loss` (0-d, with a graph) with flat vectors, by differentiating twice.

    Source: Pearlmutter 1994 (Fast exact multiplication by the Hessian).

    Args:
        params: Leaves; the Hessian's rows and columns are their entries, in this order.
    """
    tensors = list(params.values())
    first = torch.autograd.grad(loss, tensors, create_graph=True, allow_unused=True, materialize_grads=True)
    bends = [i for i, g in enumerate(first) if g.requires_grad]
    sizes = [t.numel() for t in tensors]

    def product(vector: Tensor) -> Tensor:
        parts = [v.view_as(t) for v, t in zip(vector.split(sizes), tensors, strict=True)]
        if not bends:
            return torch.zeros_like(vector)
        second = torch.autograd.grad(
            [first[i] for i in bends],
            tensors,
            [parts[i] for i in bends],
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )
        return torch.cat([g.flatten() for g in second])

    return product


def eigenvalues_beyond(spectrum: Spectrum, epsilon: float, size: int) -> float:
    """Number of eigenvalues whose modulus exceeds `epsilon` times the largest one's.

    Exact where every Ritz value beyond the threshold has settled, or the space was used up (up to eigenvalues that
    are exactly equal, which are found once). Otherwise the Gauss quadrature's estimate, but never
    less than the Ritz values found, which are a lower bound.

    Args:
        spectrum: From a random start.
        epsilon: In (0, 1).
        size: Rows of the matrix.
    """
    moduli = spectrum.values.abs()
    top = float(moduli.max())
    if top == 0.0:
        return 0.0
    beyond = moduli > epsilon * top
    found = float(beyond.sum())
    settled = bool((spectrum.residuals[beyond] <= _SETTLED * moduli[beyond]).all())
    if spectrum.exhausted or (settled and not bool(beyond.all())):
        return found
    return max(found, size * float(spectrum.weights[beyond].sum()))


class _Curvature(Seldom):
    """Base: Lanczos on the Hessian of the training loss, network by network.

    Args:
        samples: Rows of the last minibatch, at most.
        steps: Lanczos steps, at most.
    """

    needs_batch = True
    key: str

    def __init__(self, *, samples: int, steps: int, every: int | None) -> None:
        super().__init__(every=every)
        check_count(f"metrics.set.{self.key}.samples", samples)
        check_count(f"metrics.set.{self.key}.steps", steps, least=2)
        self.samples = samples
        self.steps = steps

    @abstractmethod
    def _value(self, product: MatVec, start: Tensor) -> float:
        """The value for one Hessian; `start` [p] is random."""

    def look(self, probe: Probe) -> dict[str, float]:
        """Return the value by network."""
        lab = probe.lab
        if lab is None:
            return {}
        generator = lab.generator(self.key)
        return {
            net: self._of(lab, phase, net, generator) for phase in lab.batches for net in lab.phases[phase]
        }

    def _of(self, lab: Laboratory, phase: str, net: str, generator: Generator) -> float:
        batch = lab.batches[phase]
        rows = lab.rows(batch, torch.randperm(len(batch[0]), generator=generator)[: self.samples])
        params = leaves({k: v for k, v in lab.trained(phase).items() if k.startswith(f"{net}/")})
        product = curvature(lab.loss(phase, params, rows), params)
        some = next(iter(params.values()))
        size = sum(p.numel() for p in params.values())
        return self._value(product, torch.randn(size, generator=generator).to(some))


class HessianTop(_Curvature):
    r"""Largest eigenvalue of the Hessian of the training loss: its sharpness.

    .. math:: \max_{\|v\| = 1} v^T \, \nabla^2_\theta L \, v

    of the agent's own loss (without terms that methods add) on up to `samples` rows of the last minibatch, with
    respect to the parameters of each network by itself, at their present values. Piecewise linear activations bend
    only where they are multiplied with each other: their kinks have no curvature.

    Lanczos with full reorthogonalisation on products with the Hessian, until :math:`\|H v - \lambda v\|` is at most
    `tolerance` times :math:`|\lambda|`; an eigenvalue lies within this distance.

    Range: any number; usually positive. Negative only where the loss bends downwards in all directions. About 0 on a
    plateau; with plain gradient descent, more than 2 / learning rate is unstable. Rises when plasticity is lost in
    several studies. Proportional to the scale of the loss. NaN if a product is not finite, or if `steps` are not
    enough. Nothing before the first optimizer step.

    Source: Lyle et al. 2023 (arXiv 2303.01486); Lanczos for networks in Ghorbani et al. 2019 (arXiv 1901.10159).

    Args:
        samples: See above.
        steps: Products with the Hessian, at most.
        tolerance: See above, in (0, 1).
        every: See `Seldom`.

    Raises:
        UserError: A number is out of range.
    """

    key = "hessian_top"

    def __init__(self, *, samples: int, steps: int, tolerance: float, every: int | None) -> None:
        super().__init__(samples=samples, steps=steps, every=every)
        check_numbers("metrics.set.hessian_top", "(0, 1)", tolerance=tolerance)
        self.tolerance = tolerance

    def _settled(self, spectrum: Spectrum) -> bool:
        return float(spectrum.residuals[-1]) <= self.tolerance * abs(float(spectrum.values[-1]))

    def _value(self, product: MatVec, start: Tensor) -> float:
        spectrum = lanczos(product, start, self.steps, enough=self._settled)
        if spectrum is None or not self._settled(spectrum):
            return math.nan
        return float(spectrum.values[-1])


class HessianRank(_Curvature):
    r"""Directions in which the training loss is curved: rank of its Hessian, small eigenvalues left out.

    .. math:: \# \{ k : |\lambda_k| > \epsilon \max_l |\lambda_l| \}

    with :math:`\lambda` the eigenvalues of the Hessian that `HessianTop` describes. From `steps` Lanczos steps with
    full reorthogonalisation: exact if they resolve all eigenvalues beyond the threshold; otherwise the estimate of
    stochastic Lanczos quadrature from one random vector, whose relative standard deviation for a rank of r is about
    :math:`\sqrt{2 / r}`, but at least the number of Ritz values beyond the threshold (never more than there are
    eigenvalues). It needs memory for `steps` copies of the network.

    Range: [0, number of parameters], 0 for a loss without curvature; falling = loss of plasticity. Scaling the loss
    changes nothing. NaN if a product is not finite. Nothing before the first optimizer step.

    Source: Lewandowski et al. 2023 (arXiv 2312.00246), directions of curvature; they take the effective rank of a
    block-diagonal approximation, here the whole matrix of a network is counted. Quadrature: Ghorbani et al. 2019
    (arXiv 1901.10159).

    Args:
        samples: Rows of the last minibatch, at most.
        steps: Products with the Hessian, at most.
        epsilon: Threshold relative to the largest modulus, in (0, 1).
        every: See `Seldom`.

    Raises:
        UserError: A number is out of range.
    """

    key = "hessian_rank"

    def __init__(self, *, samples: int, steps: int, epsilon: float, every: int | None) -> None:
        super().__init__(samples=samples, steps=steps, every=every)
        check_numbers("metrics.set.hessian_rank", "(0, 1)", epsilon=epsilon)
        self.epsilon = epsilon

    def _value(self, product: MatVec, start: Tensor) -> float:
        spectrum = lanczos(product, start, self.steps)
        return math.nan if spectrum is None else eigenvalues_beyond(spectrum, self.epsilon, start.numel())
