"""TRAC: parameter-free scaling of another optimizer's path (Muppidi et al., arXiv 2405.16642, algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import torch
from torch import Tensor

from plasticine.core.method import Method
from plasticine.core.optim import Optimizer, SecondMoment
from plasticine.core.state import OptState, Params
from plasticine.errors import UserError

__all__ = ["Trac", "TracOptimizer", "erfi", "path_scale"]

_ERFI_LIMIT = 6.0  # erfi(6) = 4e14: a scale of 1e-8 has become 4e6, far beyond any that is of use
_TERMS = 128
#: Taylor coefficients 2 / sqrt(pi) / (k! (2k + 1)); all terms have one sign, so nothing cancels.
_COEFFICIENTS = [
    2.0 / math.sqrt(math.pi) * math.exp(-math.lgamma(k + 1.0)) / (2 * k + 1) for k in range(_TERMS)
]

_ERFI_OF_ONE_SIGMA = sum(c * 0.5 ** (k + 0.5) for k, c in enumerate(_COEFFICIENTS))  # erfi(1 / sqrt(2))


def erfi(x: Tensor) -> Tensor:
    """The imaginary error function ``2/sqrt(pi) * integral_0^x exp(t^2) dt``, float64.

    Accurate to 1e-12 (relative) for ``|x| <= 6``; constant beyond, so that it stays finite.
    """
    x = x.double().clamp(-_ERFI_LIMIT, _ERFI_LIMIT)
    exponents, coefficients = _series(x.device)
    return x * ((x * x).unsqueeze(-1) ** exponents @ coefficients)


@lru_cache
def _series(device: torch.device) -> tuple[Tensor, Tensor]:
    exponents = torch.arange(_TERMS, dtype=torch.float64, device=device)
    return exponents, torch.tensor(_COEFFICIENTS, dtype=torch.float64, device=device)


def path_scale(
    h: Tensor, variance: Tensor, sigma: Tensor, betas: Tensor, *, start: float, eps: float
) -> Tensor:
    """Advance the one-dimensional tuners by one step and return the scale of the path, 0-d float64, >= 0.

    ``v <- beta^2 v + h^2``, ``sigma <- beta sigma - h``, and the scale is the sum over the betas of
    ``start * erfi(sigma / (sqrt(2 v) + eps)) / erfi(1 / sqrt(2))``.

    Args:
        h: 0-d, inner product of the path so far and the gradient.
        variance, sigma: [k] float64 tuner state, changed in place.
        betas: [k] float64 decays.
        start: Initial scale of each tuner.
        eps: Guards the division.
    """
    h = h.double()
    variance.mul_(betas * betas).add_(h * h)
    sigma.mul_(betas).sub_(h)
    values = erfi(sigma / (math.sqrt(2.0) * variance.sqrt() + eps))
    return (values * (start / _ERFI_OF_ONE_SIGMA)).sum().clamp_min(0.0)


class TracOptimizer(Optimizer):
    """Lets a base optimizer propose steps, sums them to a path, and walks a tuned fraction of that path.

    ``param = reference + scale * path``. The path is state of its own: recovering it from the parameters would
    lose it in rounding while the scale is small. What others change between two steps (noise, projections)
    moves the reference along, so it is kept; entries overwritten through the surgeon start a new path.

    Args:
        base: Proposes the steps.
        covers: Which parameters are scaled, by full name; the others follow the base optimizer alone.
        betas, start, eps: See `path_scale`.
    """

    wraps = True

    def __init__(
        self,
        base: Optimizer,
        covers: Callable[[str], bool],
        *,
        betas: Sequence[float],
        start: float,
        eps: float,
    ) -> None:
        self._base = base
        self._covers = covers
        self._decays = [float(b) for b in betas]
        self._start = start
        self._eps = eps

    def bind(self, params: Params) -> OptState:
        """Allocate path, reference and last values per tensor, and variance and sigma per beta."""
        state = self._base.bind(params)
        self._index = {name: i for i, name in enumerate(n for n in params if self._covers(n))}
        self._rows = [i for i, name in enumerate(params) if name in self._index]
        self._params = [params[name] for name in self._index]
        device = self._params[0].device
        sizes = [p.numel() for p in self._params]
        self._last = torch.cat([p.detach().reshape(-1) for p in self._params])
        self._reference = self._last.clone()
        self._path = torch.zeros_like(self._last)
        self._here, self._work = torch.empty_like(self._last), torch.empty_like(self._last)

        def views(row: Tensor) -> list[Tensor]:
            return [v.view_as(p) for v, p in zip(row.split(sizes), self._params, strict=True)]

        rows = {"path": self._path, "reference": self._reference, "last": self._last}
        self._views = {what: views(row) for what, row in rows.items()}
        self._here_views, self._work_views = views(self._here), views(self._work)
        self._betas = torch.tensor(self._decays, dtype=torch.float64, device=device)
        self._variance = torch.zeros_like(self._betas)
        self._sigma = torch.full_like(self._betas, 1e-8)
        own = {f"trac_{w}/{n}": v[i] for w, v in self._views.items() for n, i in self._index.items()}
        return {**state, **own, "trac_variance": self._variance, "trac_sigma": self._sigma}

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """One step of the base optimizer, added to the path; then the walk."""
        # All in memory allocated once: fresh memory of this size costs more than the arithmetic.
        here, work, last = self._here, self._work, self._last
        torch._foreach_copy_(self._here_views, self._params)
        self._reference.add_(torch.sub(here, last, out=work))
        torch._foreach_copy_(self._work_views, [grads[i] for i in self._rows])
        h = torch.dot(self._path, work)
        self._base.step(grads, lr)
        torch._foreach_copy_(self._views["last"], self._params)
        self._path.add_(last.sub_(here))
        scale = path_scale(h, self._variance, self._sigma, self._betas, start=self._start, eps=self._eps)
        torch.mul(self._path, scale.to(self._path.dtype), out=last)
        last.add_(self._reference)
        torch._foreach_copy_(self._params, self._views["last"])

    def second_moments(self) -> dict[str, SecondMoment]:
        """Those of the base optimizer."""
        return self._base.second_moments()

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Start a new path at the new values, on the overwritten entries."""
        self._base.overwritten(name, mask, moments=moments)
        if name not in self._index:
            return
        i = self._index[name]
        path, reference, last = (self._views[what][i] for what in ("path", "reference", "last"))
        now = self._params[i].detach()
        for view, value in ((path, torch.zeros_like(now)), (reference, now), (last, now)):
            view.copy_(value if mask is None else torch.where(mask, value, view))


class Trac(Method):
    """Wraps the optimizer; parameters leave their reference only as far as it pays off.

    Args:
        betas: Decays of the tuners, each in (0, 1).
        start: Initial scale of each tuner (> 0).
        eps: Guards the division inside a tuner (> 0).
        common: See `Method`.
    """

    strong: ClassVar = {"start": 0.1}

    def __init__(self, *, betas: Sequence[float], start: float, eps: float, **common: Any) -> None:
        super().__init__(**common)
        if not betas or not all(0.0 < b < 1.0 for b in betas):
            raise UserError(f"method.{self.name}.betas={list(betas)} must all lie between 0 and 1")
        if start <= 0 or eps <= 0:
            raise UserError(f"method.{self.name}: start={start} and eps={eps} must be positive")
        self.betas = tuple(betas)
        self.start = start
        self.eps = eps

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Wrap what the agent, or an earlier method, has chosen.

        Raises:
            UserError: It is wrapped in TRAC already.
        """
        if isinstance(optimizer, TracOptimizer):
            raise UserError(
                f"method {self.name!r}: the optimizer is wrapped in TRAC already", "use one of them"
            )
        return TracOptimizer(optimizer, self.reaches, betas=self.betas, start=self.start, eps=self.eps)
