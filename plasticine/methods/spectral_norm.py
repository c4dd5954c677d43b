"""Spectral normalisation (Miyato et al., arXiv 1802.05957; in RL Gogianu et al., arXiv 2105.05246)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from plasticine.core.method import Method
from plasticine.core.optim import Optimizer
from plasticine.core.schedule import RunPlan
from plasticine.core.state import OptState, Params
from plasticine.errors import UserError
from plasticine.methods.spectral_reg import power_iteration_
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.spec import NetSpec

__all__ = ["SpectralNorm", "SpectralOptimizer", "raw_gradient", "scale_of"]

#: Power iterations on a weight that somebody else has overwritten.
_CATCH_UP = 20


def scale_of(raw: Tensor, left: Tensor, right: Tensor, largest: float, *, limit: bool) -> Tensor:
    """What `raw` is multiplied with: ``largest / s``, s its largest singular value; with `limit` 1 at most. 0-d.

    Args:
        raw: Weight [out, ...].
        left, right: Its first pair of singular vectors [out] and [rest].
        largest: Largest singular value of the product.
        limit: Never lengthen.
    """
    size = torch.dot(left, torch.mv(raw.flatten(1), right))
    scale = torch.where(size > 0, largest / size, torch.ones_like(size))
    return scale.clamp(max=1.0) if limit else scale


def raw_gradient(
    grad: Tensor, weight: Tensor, left: Tensor, right: Tensor, scale: Tensor, largest: float, *, limit: bool
) -> Tensor:
    """Gradient with respect to the raw weight V, given that with respect to ``W = scale V``.

    ``scale (G - <G, W> / largest * left right^T)``: the scale depends on V through its largest singular value. Where
    it is limited to 1 it does not, and the gradient is G.
    """
    along = (grad * weight).sum() / largest
    if limit:
        along = torch.where(scale < 1.0, along, torch.zeros_like(along))
    return scale * (grad - along * torch.outer(left, right).view_as(grad))


class SpectralOptimizer(Optimizer):
    """Lets a base optimizer train raw weights V; the parameters are ``W = V * largest / s(V)``.

    The networks (and their slow copies) only ever see W. What others change in W between two steps is carried over
    to V. State: ``spectral_raw``, ``spectral_last``, ``spectral_left``, ``spectral_right`` and ``spectral_scale``
    for each weight.

    Args:
        base: Steps in V, and in the parameters that are not covered.
        names: Weights that are covered, by full name; those of other phases are ignored.
        largest, limit: See `scale_of`.
        iterations: Power iterations after each step.
    """

    wraps = True

    def __init__(
        self, base: Optimizer, names: Collection[str], largest: float, *, limit: bool, iterations: int
    ) -> None:
        self._base = base
        self._names = names
        self._largest = largest
        self._limit = limit
        self._iterations = iterations

    def bind(self, params: Params) -> OptState:
        """Start with V = W, and the exact singular vectors."""
        inner = dict(params)
        self._weights: dict[str, Tensor] = {}
        self._state: dict[str, dict[str, Tensor]] = {}
        own: OptState = {}
        for name in params:
            if name not in self._names:
                continue
            weight = params[name].detach()
            u, _, vh = torch.linalg.svd(weight.flatten(1), full_matrices=False)
            state = {
                "raw": weight.clone(),
                "last": weight.clone(),
                "left": u[:, 0].clone(),
                "right": vh[0].clone(),
                "scale": torch.ones((), device=weight.device),
            }
            inner[name] = state["raw"]
            self._weights[name], self._state[name] = weight, state
            own |= {f"spectral_{what}/{name}": tensor for what, tensor in state.items()}
        self._rows = [(i, name) for i, name in enumerate(params) if name in self._weights]
        return {**self._base.bind(inner), **own}

    def step(self, grads: Sequence[Tensor], lr: float) -> None:
        """Pull the gradient back to V, step there, and write W."""
        pulled = list(grads)
        for i, name in self._rows:
            weight, s = self._weights[name], self._state[name]
            s["raw"].add_((weight - s["last"]) / s["scale"])
            pulled[i] = raw_gradient(
                grads[i], weight, s["left"], s["right"], s["scale"], self._largest, limit=self._limit
            )
        self._base.step(pulled, lr)
        for _, name in self._rows:
            weight, s = self._weights[name], self._state[name]
            self._follow(s, self._iterations)
            s["scale"].copy_(scale_of(s["raw"], s["left"], s["right"], self._largest, limit=self._limit))
            weight.copy_(s["raw"] * s["scale"])
            s["last"].copy_(weight)

    @staticmethod
    def _follow(s: dict[str, Tensor], iterations: int) -> None:
        transposed = s["raw"].flatten(1).t()  # so that the left vector comes first, as in PyTorch
        for _ in range(iterations):
            power_iteration_(transposed, s["right"], s["left"])

    def overwritten(self, name: str, mask: Tensor | None, *, moments: bool) -> None:
        """Carry the new values over to V; a wholly overwritten weight begins anew with V = W."""
        if name in self._state:
            weight, s = self._weights[name], self._state[name]
            if mask is None:
                s["scale"].fill_(1.0)
            new = weight / s["scale"]
            s["raw"].copy_(new if mask is None else torch.where(mask, new, s["raw"]))
            s["last"].copy_(weight if mask is None else torch.where(mask, weight, s["last"]))
            self._follow(s, _CATCH_UP)
        self._base.overwritten(name, mask, moments=moments)


class SpectralNorm(Method):
    """Trains the weights of the last hidden layers divided by their largest singular value.

    ``W = V * largest / s(V)``, and the optimizer trains V with gradients that pass through s(V), the largest singular
    value of V, which power iterations after each step keep track of. Convolutions count as matrices of their output
    channels. Output layers are never normalised.

    Initial values, and whatever is drawn anew later, are scaled in the same way. Gradients are clipped before they
    pass through s(V).

    Args:
        layers: How many hidden layers of each network, counted from the last; or ``all``.
        largest: Largest singular value of the normalised weights (> 0).
        limit: Only shorten weights whose largest singular value is larger; leave others as they are.
        iterations: Power iterations after each step (>= 1). With one, a flat spectrum (orthogonal initial weights) is
            followed with a delay, and the largest singular value exceeds `largest` by some per cent at first.
        common: See `Method`.
    """

    neutral: ClassVar = {"largest": 1e9, "limit": True}

    def __init__(
        self, *, layers: int | Literal["all"], largest: float, limit: bool, iterations: int, **common: Any
    ) -> None:
        super().__init__(**common)
        if layers != "all" and layers < 1:
            raise UserError(f"method.{self.name}.layers={layers} must be at least 1, or all")
        if largest <= 0:
            raise UserError(f"method.{self.name}.largest={largest} must be positive")
        if iterations < 1:
            raise UserError(f"method.{self.name}.iterations={iterations} must be at least 1")
        self.layers = layers
        self.iterations = iterations
        self.largest = largest
        self.limit = limit
        self._names: set[str] = set()

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Scale the initial values of the layers that are normalised."""
        count = len(net.body)
        first = 0 if self.layers == "all" else max(0, count - self.layers)
        chosen = [i for i in range(first, count) if self.reaches(f"{net.name}/body.{i}.weight")]
        self._names |= {f"{net.name}/body.{i}.weight" for i in chosen}
        for i in chosen:
            init = replace(net.body[i].weight_init, largest=self.largest, limit=self.limit)
            net = net.set_hidden(self.name, [i], weight_init=init)
        return net

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse a scope without any of the layers."""
        if not self._names:
            raise UserError(
                f"method {self.name!r} has nothing to normalise: no weight of layers={self.layers} is in scope "
                f"{list(self.scope)}",
                f"widen method.{self.name}.scope, or raise method.{self.name}.layers",
            )

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Wrap it."""
        return SpectralOptimizer(
            optimizer, self._names, self.largest, limit=self.limit, iterations=self.iterations
        )
