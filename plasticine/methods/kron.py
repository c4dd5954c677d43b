"""PSGD with Kronecker-factored preconditioners (Li, arXiv 1512.04202; for plasticity in RL arXiv 2506.15544)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Generator, Tensor

from plasticine.core.method import Method
from plasticine.core.optim import Divided, Optimizer
from plasticine.core.state import OptState, Params, Slot
from plasticine.errors import UserError

__all__ = ["FitSchedule", "Kron", "KronOptimizer", "fit_", "initial_factors", "whitened"]

#: Root mean square of the update of a tensor, at most.
_LARGEST_RMS = 1.1
#: Noise added to a gradient before fitting, relative to its mean absolute value, and the least amount: it bounds the
#: preconditioner where a gradient is zero in some directions, or altogether.
_RELATIVE_NOISE, _LEAST_NOISE = 3.5e-4, 1e-9
_TINY = 1e-30
#: Fits between two equalisations of the sizes of the two factors of a matrix.
_BALANCE_EVERY = 100


def initial_factors(shape: Sequence[int], max_triangular: int) -> list[Tensor]:
    """The factors of a tensor's preconditioner, equal to the identity.

    A vector has one factor, its diagonal. Anything else counts as a matrix [out, rest] and has two, left and right:
    an upper triangular matrix each, or a diagonal [size] if the size is 1 or exceeds `max_triangular`.
    """
    if len(shape) < 2:
        return [torch.ones(math.prod(shape))]
    sizes = (shape[0], math.prod(shape[1:]))
    return [torch.ones(n) if n == 1 or n > max_triangular else torch.eye(n) for n in sizes]


def _left(q: Tensor, x: Tensor) -> Tensor:
    return q[:, None] * x if q.dim() == 1 else q @ x


def _right(x: Tensor, q: Tensor) -> Tensor:
    """``x q^T``."""
    return x * q if q.dim() == 1 else x @ q.mT


def _as_matrix(x: Tensor) -> Tensor:
    return x.flatten(1) if x.dim() > 1 else x.reshape(-1, 1)


def whitened(x: Tensor, factors: Sequence[Tensor]) -> Tensor:
    """``Ql^T Ql x Qr^T Qr``, in the shape of x."""
    m = _as_matrix(x)
    left = factors[0]
    m = _left(left.mT if left.dim() == 2 else left, _left(left, m))
    if len(factors) == 2:
        right = factors[1]
        m = _right(_right(m, right), right.mT if right.dim() == 2 else right)
    return m.view_as(x)


def _norm_bound(s: Tensor) -> Tensor:
    """A lower bound of the spectral norm of a symmetric positive semidefinite matrix, 0-d, seldom far below it."""
    s = s / s.diagonal().amax().clamp_min(_TINY)
    row = s.index_select(0, s.square().sum(1).argmax().view(1)).squeeze(0)
    x = s @ row
    return torch.linalg.vector_norm(s @ (x / torch.linalg.vector_norm(x).clamp_min(_TINY)))


def fit_(factors: Sequence[Tensor], x: Tensor, noise: Tensor, lr: float) -> None:
    """Move the factors, in place, towards a preconditioner that whitens x.

    One step of stochastic descent in the group of triangular matrices on ``|Q x|^2 + |Q^-T noise|^2``, whose minimum
    has ``Q^T Q = E[x x^T]^(-1/2)``.

    Args:
        factors: See `initial_factors`.
        x: What is to be whitened (a running average of gradients).
        noise: Standard normal, shaped as x.
        lr: Step size relative to the largest step that keeps the factors invertible, in (0, 1).
    """
    v = _as_matrix(noise)
    a = _as_matrix(x)
    a = a + v * (_RELATIVE_NOISE * a.abs().mean() + _LEAST_NOISE)
    left = factors[0]
    a = _left(left, a)
    b = v / left[:, None] if left.dim() == 1 else torch.linalg.solve_triangular(left.mT, v, upper=False)
    if len(factors) == 2:
        right = factors[1]
        a = _right(a, right)
        b = b / right if right.dim() == 1 else torch.linalg.solve_triangular(right, b, upper=True, left=False)
    for axis, q in enumerate(factors):
        if q.dim() == 1:
            grown, shrunk = a.square().sum(1 - axis), b.square().sum(1 - axis)
            q.sub_(q * (grown - shrunk) * (lr / (grown + shrunk).amax().clamp_min(_TINY)))
        else:
            grown, shrunk = (m @ m.mT if axis == 0 else m.mT @ m for m in (a, b))
            total = grown + shrunk
            size = _norm_bound(total) * total.diagonal().amax()
            q.sub_(torch.triu(grown - shrunk).mul_(lr / size.clamp_min(_TINY)) @ q)


def _balance(factors: Sequence[Tensor]) -> None:
    """Give both factors the same largest entry; their product stays."""
    if len(factors) == 2:
        sizes = torch.stack([q.abs().amax() for q in factors])
        for q, scale in zip(factors, sizes.prod().sqrt() / sizes, strict=True):
            q.mul_(scale)


class FitSchedule(NamedTuple):
    """How often the preconditioner is fitted, as a share of the steps: 1 at first, then falling exponentially.

    Attributes:
        flat: Steps with share 1.
        decay: Rate of the fall per step afterwards.
        least: The share it falls to.
    """

    flat: int
    decay: float
    least: float

    def share(self, step: int) -> float:
        """Share at a step."""
        return min(1.0, max(self.least, math.exp(-self.decay * (step - self.flat))))


class KronOptimizer(Optimizer):
    """Steps along the whitened momentum. The preconditioner changes through `fit` only, not while stepping.

    State per parameter: ``kron_momentum``, ``kron_step``, ``kron_left`` and, for matrices, ``kron_right``. Under the
    first parameter's name ``kron_schedule``: calls of `fit`, calls since it last did anything, and how often it did.

    Args:
        momentum: Decay of the running average of gradients, in [0, 1).
        lr_scale: Factor on the learning rate.
        max_triangular: See `initial_factors`.
        schedule: When `fit` does anything.
    """

    def __init__(
        self, *, momentum: float, lr_scale: float, max_triangular: int, schedule: FitSchedule
    ) -> None:
        self._decay = momentum
        self._lr_scale = lr_scale
        self._max_triangular = max_triangular
        self._schedule = schedule
        self._counts = torch.zeros(3, dtype=torch.int64)  # on the host: nothing waits for a device

    def bind(self, params: Params) -> OptState:
        """Allocate the state."""
        self._params = list(params.values())
        self._index = {name: i for i, name in enumerate(params)}
        self._momentum = [torch.zeros_like(p, requires_grad=False) for p in self._params]
        self._steps = [torch.zeros((), device=p.device) for p in self._params]
        self._factors = [
            [q.to(p.device) for q in initial_factors(p.shape, self._max_triangular)] for p in self._params
        ]
        state: OptState = {f"kron_schedule/{next(iter(params))}": self._counts}
        for name, i in self._index.items():
            state[f"kron_momentum/{name}"] = self._momentum[i]
            state[f"kron_step/{name}"] = self._steps[i]
            for side, q in zip(("left", "right"), self._factors[i], strict=False):
                state[f"kron_{side}/{name}"] = q
        return state

    def covers(self, name: str) -> bool:
        """Whether the parameter was bound here."""
        return name in self._index

    def _directions(self) -> list[Tensor]:
        """Momentum without its bias towards zero."""
        powers = list(torch._foreach_pow(self._decay, self._steps))
        torch._foreach_neg_(powers)
        torch._foreach_add_(powers, 1.0)
        torch._foreach_clamp_min_(powers, _TINY)
        return list(torch._foreach_div(self._momentum, powers))

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """``p <- p - lr_scale * lr * u``, with u the whitened momentum, its root mean square at most 1.1."""
        torch._foreach_add_(self._steps, 1.0)
        torch._foreach_lerp_(self._momentum, list(grads), 1.0 - self._decay)
        updates = [whitened(m, q) for m, q in zip(self._directions(), self._factors, strict=True)]
        rms = list(torch._foreach_norm(updates))
        torch._foreach_div_(rms, [math.sqrt(u.numel()) for u in updates])
        torch._foreach_clamp_min_(rms, _LARGEST_RMS)
        torch._foreach_div_(updates, rms)
        torch._foreach_add_(self._params, updates, alpha=-_LARGEST_RMS * self._lr_scale * lr)

    def fit(self, lr: float, generator: Generator) -> None:
        """If it is due: one step of the preconditioner of every parameter, towards whitening the present momentum."""
        calls, since, fits = self._counts.tolist()
        due = since + 1 >= 1.0 / self._schedule.share(calls)
        self._counts.copy_(torch.tensor([calls + 1, 0 if due else since + 1, fits + due]))
        if not due:
            return
        for x, factors in zip(self._directions(), self._factors, strict=True):
            fit_(factors, x, torch.randn(x.shape, generator=generator).to(x.device), lr)
            if (fits + 1) % _BALANCE_EVERY == 0:
                _balance(factors)

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Zero the momentum on the overwritten entries.

        A wholly overwritten tensor begins anew, and with it the schedule, so that its preconditioner is fitted soon.
        """
        if not moments or name not in self._index:
            return
        i = self._index[name]
        if mask is not None:
            self._momentum[i].masked_fill_(mask, 0.0)
            return
        self._momentum[i].zero_()
        self._steps[i].zero_()
        fresh = initial_factors(self._params[i].shape, self._max_triangular)
        for q, start in zip(self._factors[i], fresh, strict=True):
            q.copy_(start)
        self._counts.zero_()


class Kron(Method):
    """Replaces the optimizer by PSGD with a Kronecker-factored preconditioner.

    The preconditioner of each tensor, ``Q^T Q`` with one factor Q for rows and one for columns, is fitted such that
    the momentum has unit covariance after it: steps are of the same length in flat and in steep directions. Whatever
    the gradients' scale, the root mean square of a step is about ``lr_scale * lr``.

    Everything in scope is updated this way; parameters out of scope keep the agent's optimizer. Fitting draws
    its noise on the host, after the step.

    Args:
        lr_scale: Factor on the agent's learning rate (> 0).
        momentum: Decay of the running average of gradients, in [0, 1).
        fit_lr: Step size of the fit, in (0, 1).
        fit_flat, fit_decay, fit_least: See `FitSchedule`.
        max_triangular: Dimensions up to this size get a triangular factor, larger ones a diagonal. Cost of a fit:
            O(size^3) for each triangular factor.
        common: See `Method`.
    """

    strong: ClassVar = {"lr_scale": 1.0}

    def __init__(
        self,
        *,
        lr_scale: float,
        momentum: float,
        fit_lr: float,
        fit_flat: int,
        fit_decay: float,
        fit_least: float,
        max_triangular: int,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        here = f"method.{self.name}"
        if lr_scale <= 0:
            raise UserError(f"{here}.lr_scale={lr_scale} must be positive")
        if not 0.0 <= momentum < 1.0:
            raise UserError(f"{here}.momentum={momentum} must lie in [0, 1)")
        if not 0.0 < fit_lr < 1.0:
            raise UserError(f"{here}.fit_lr={fit_lr} must lie in (0, 1)", "the usual value is 0.1")
        if fit_flat < 0 or fit_decay < 0 or not 0.0 < fit_least <= 1.0:
            raise UserError(
                f"{here}: fit_flat={fit_flat} and fit_decay={fit_decay} must not be negative, "
                f"and fit_least={fit_least} must lie in (0, 1]"
            )
        self.lr_scale = lr_scale
        self.momentum = momentum
        self.fit_lr = fit_lr
        self.schedule = FitSchedule(fit_flat, fit_decay, fit_least)
        self.max_triangular = max_triangular
        self._optimizers: list[KronOptimizer] = []

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Replace `optimizer` for the parameters in scope."""
        kron = KronOptimizer(
            momentum=self.momentum,
            lr_scale=self.lr_scale,
            max_triangular=self.max_triangular,
            schedule=self.schedule,
        )
        self._optimizers.append(kron)
        return Divided(kron, optimizer, self.reaches)

    def after_step(self, params: Params, slot: Slot, generator: Generator) -> None:
        """Fit the preconditioner of the phase that has made the step."""
        name = next(iter(params))
        next(o for o in self._optimizers if o.covers(name)).fit(self.fit_lr, generator)
