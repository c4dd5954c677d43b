"""Weight clipping (Elsayed et al., arXiv 2407.01704)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from plasticine.core.method import Method
from plasticine.core.schedule import RunPlan
from plasticine.core.state import Params, Slot
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy

__all__ = ["WeightClipping", "clip_", "initial_range"]


def initial_range(anatomy: Anatomy, weight: str, *, at_least_fan_in: bool) -> float:
    """Half width of the range that a layer's parameters start in, from the initialiser of its `weight`.

    ``1 / sqrt(fan_in)``, the range of PyTorch's default initialiser; or, if `at_least_fan_in`, the larger one of that
    and ``sqrt(3)`` standard deviations of the layer's own initialiser: the range of a uniform distribution of that
    standard deviation.
    """
    shape = anatomy.shapes[weight]
    bound = 1.0 / math.sqrt(math.prod(shape[1:]))
    return max(bound, math.sqrt(3.0) * anatomy.tensors[weight].init.std(shape)) if at_least_fan_in else bound


def clip_(params: list[Tensor], bounds: Sequence[float]) -> None:
    """Clamp every entry of ``params[i]`` to ``-bounds[i] .. bounds[i]``, in place."""
    torch._foreach_clamp_min_(params, [-b for b in bounds])
    torch._foreach_clamp_max_(params, bounds)


class WeightClipping(Method):
    """Keeps weights and biases within a multiple of the range they were initialised in, after every optimizer step.

    Normalisation scales and offsets and input-independent parameters are not clipped. The bound of a bias is that of
    its layer's weight. Optimizer state is left alone, and slow copies follow on their own.

    Args:
        kappa: The multiple (> 0; infinity: never clips).
        bound: ``fan_in``: ``1 / sqrt(fan_in)``, as the authors; or ``init``: at least that, and as wide as the own
            initialiser of the layer (see `initial_range`), so that one that starts wider is not cut at once.
        common: See `Method`.
    """

    neutral: ClassVar = {"kappa": math.inf}
    strong: ClassVar = {"kappa": 0.2}

    def __init__(self, *, kappa: float, bound: Literal["init", "fan_in"], **common: Any) -> None:
        super().__init__(**common)
        if not kappa > 0.0:
            raise UserError(
                f"method.{self.name}.kappa={kappa} must be positive", "the paper sweeps 1, 2, 3, ..."
            )
        self.kappa = kappa
        self.wide = bound == "init"

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Work out the bounds."""
        self._bounds: dict[str, float] = {}
        for name in anatomy.names(kinds=("weight", "bias")):
            weight = _weight(name, anatomy)
            if weight in anatomy.tensors:
                self._bounds[name] = self.kappa * initial_range(anatomy, weight, at_least_fan_in=self.wide)
        return {}

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse biases without their weights: they have no bound of their own."""
        for name in anatomy.names(kinds=("weight", "bias")):
            if name not in self._bounds:
                raise UserError(
                    f"scope {list(self.scope)} of method {self.name!r} has {name!r} but not "
                    f"{_weight(name, anatomy)!r}, whose range bounds both",
                    f"widen method.{self.name}.scope",
                )

    def after_step(self, params: Params, slot: Slot, generator: Generator) -> None:
        """Clip."""
        names = [name for name in params if name in self._bounds]
        if names:
            clip_([params[name] for name in names], [self._bounds[name] for name in names])


def _weight(name: str, anatomy: Anatomy) -> str:
    info = anatomy.tensors[name]
    return f"{info.net}/{info.layer}.weight"
