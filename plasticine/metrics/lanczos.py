"""Extreme eigenvalues of a symmetric matrix that is known only through its products with vectors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["MatVec", "Spectrum", "lanczos"]

#: Product of the matrix with a vector [p] -> [p].
MatVec = Callable[[Tensor], Tensor]
#: A step whose remainder is this much smaller than the matrix has reached the end of the space it can reach.
_EXHAUSTED = 1e-6


@dataclass(frozen=True)
class Spectrum:
    """What k Lanczos steps know about a symmetric matrix.

    Attributes:
        values: Ritz values, ascending [k], float64. By interlacing there are never more of them beyond a threshold
            than eigenvalues of the matrix.
        weights: Squared first components of their vectors [k], adding up to 1: ``sum(weights * f(values))`` is the
            Gauss quadrature of ``u^T f(A) u`` with ``u`` the unit start vector.
        residuals: ``|A y - value y|`` of each Ritz pair [k]: an eigenvalue lies within this distance.
        exhausted: Whether the steps ended because the space that the start vector reaches was used up. Then the
            Ritz values are eigenvalues.
    """

    values: Tensor
    weights: Tensor
    residuals: Tensor
    exhausted: bool


def lanczos(
    product: MatVec, start: Tensor, steps: int, *, enough: Callable[[Spectrum], bool] | None = None
) -> Spectrum | None:
    """Run up to `steps` Lanczos steps with full reorthogonalisation; None if a product is not finite.

    Every new direction is made orthogonal to all earlier ones twice, so no eigenvalue is found again as a copy of
    itself. Memory: one vector of the size of `start` for each step. An eigenvalue of several equal ones is found
    once.

    Args:
        product: The matrix.
        start: Any vector other than zero [p].
        steps: At least 1; no more are taken than there are entries.
        enough: Asked after every step; True ends the search.

    Source: Golub & Van Loan, Matrix Computations, 4th edition, section 10.1-10.3; residuals by (10.1.8) there.
    """
    basis = torch.empty(min(steps, start.numel()), start.numel(), dtype=start.dtype, device=start.device)
    basis[0] = start / start.norm()
    diagonal: list[float] = []
    beside: list[float] = []
    size = 0.0  # of the matrix, as far as known
    found: Spectrum | None = None
    for k in range(len(basis)):
        image = product(basis[k])
        if not bool(torch.isfinite(image).all()):
            return None
        size = max(size, float(image.norm()))
        diagonal.append(float(image.double() @ basis[k].double()))
        known = basis[: k + 1]
        for _ in range(2):
            image = image - known.T @ (known @ image)
        rest = float(image.norm())
        exhausted = rest <= _EXHAUSTED * size or k + 1 == start.numel()
        last = exhausted or k + 1 == len(basis)
        if last or enough is not None:
            found = _ritz(diagonal, beside, 0.0 if exhausted else rest, exhausted=exhausted)
            if last or (enough is not None and enough(found)):
                break
        beside.append(rest)
        basis[k + 1] = image / rest
    return found


def _ritz(diagonal: list[float], beside: list[float], rest: float, *, exhausted: bool) -> Spectrum:
    small = torch.diag(torch.tensor(diagonal, dtype=torch.float64))
    if beside:
        off = torch.tensor(beside, dtype=torch.float64)
        small = small + torch.diag(off, 1) + torch.diag(off, -1)
    values, vectors = torch.linalg.eigh(small)
    return Spectrum(values, vectors[0].square(), vectors[-1].abs() * rest, exhausted)
