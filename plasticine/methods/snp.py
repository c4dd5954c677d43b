"""Shrink and perturb (Ash & Adams, arXiv 1910.08475; in reinforcement learning e.g. Juliani & Ash, 2405.19153)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Generator, Tensor

from plasticine.core.method import Method, Operation
from plasticine.core.state import Params, Slot
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy

__all__ = ["ShrinkAndPerturb", "accumulated", "shrunk_and_perturbed"]


def shrunk_and_perturbed(param: Tensor, draw: Tensor, shrink: float, noise: float) -> Tensor:
    """``shrink * param + noise * draw``; with ``shrink = 0`` nothing of `param` is left, not even a NaN."""
    added = noise * draw.to(param.device)
    return added if shrink == 0.0 else shrink * param + added


def accumulated(shrink: float, noise: float, steps: int) -> tuple[float, float]:
    """What `steps` consecutive applications add up to, if all noise comes with the last one.

    ``shrink`` acts at every step, so the draw made j steps before the last is shrunk j times.

    Returns:
        Factors on the standard deviation and on the mean of one draw:
        ``noise * sqrt(sum_j shrink^2j)`` and ``noise * sum_j shrink^j`` for j = 0 .. steps - 1.
    """
    if shrink == 1.0:
        return noise * math.sqrt(steps), noise * steps
    spread = (1.0 - shrink ** (2 * steps)) / (1.0 - shrink**2)
    return noise * math.sqrt(spread), noise * (1.0 - shrink**steps) / (1.0 - shrink)


class _Group(NamedTuple):
    """Tensors that one optimizer step changes together, with memory for their noise."""

    names: tuple[str, ...]
    random: list[int]  # positions of the tensors with a random initialiser
    stds: list[float]
    means: list[float]
    buffer: Tensor  # host memory, all noise in one row
    views: list[Tensor]


class ShrinkAndPerturb(Method):
    """``param <- shrink * param + noise * draw``, the draw coming anew from the tensor's own initialiser.

    Without a ``when:`` rule it acts after every optimizer step (soft). With rules it acts at those moments, on
    whole tensors, with exact draws. Weights and biases in scope are changed; normalisation scales and offsets and
    input-independent parameters are not. A constant initialiser (zero biases) has no noise: such tensors shrink.

    Deviation in the soft form: instead of an exact draw (a QR decomposition per orthogonal tensor and step) it
    adds independent normal entries with mean and standard deviation of the initialiser, and it adds them every
    `noise_every` steps, with the variance that so many steps would have accumulated.

    Args:
        shrink: Factor on the parameters, 0..1.
        noise: Factor on the draw (>= 0).
        draw: ``fresh``, or ``initial``: the values the run started with, the same every time (a pull towards
            the initial values rather than a perturbation; found in a reference implementation).
        noise_every: Optimizer steps between two draws of the soft form (>= 1).
        moments: Whether the optimizer's running moments are kept or ``reset`` (with rules only).
        targets: Whether slow copies follow on their own (``keep``) or get the new values at once (``copy``;
            with rules only).
        common: See `Method`.
    """

    neutral: ClassVar = {"shrink": 1.0, "noise": 0.0, "moments": "keep", "targets": "keep"}
    strong: ClassVar = {"shrink": 0.9, "noise": 0.1}

    def __init__(
        self,
        *,
        shrink: float,
        noise: float,
        draw: Literal["fresh", "initial"],
        noise_every: int,
        moments: Literal["keep", "reset"],
        targets: Literal["keep", "copy"],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        here = f"method.{self.name}"
        if not 0.0 <= shrink <= 1.0 or noise < 0.0:
            raise UserError(
                f"{here}: shrink={shrink} must lie in 0..1 and noise={noise} must not be negative"
            )
        if noise_every < 1:
            raise UserError(f"{here}.noise_every={noise_every} must be at least 1")
        if not self.when and (moments == "reset" or targets == "copy"):
            raise UserError(
                f"{here}: moments=reset and targets=copy need a rule, or they would apply at every step",
                f"set {here}.when=[{{on: task_switch}}], or moments=keep and targets=keep",
            )
        self.shrink = shrink
        self.noise = noise
        self.fresh = draw == "fresh"
        self.noise_every = noise_every
        self.reset_moments = moments == "reset"
        self.copy_to_targets = targets == "copy"
        self._groups: dict[str, _Group] = {}

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Remember initial values if they are the draw; count steps since the last noise, tensor by tensor."""
        self._anatomy = anatomy
        self._groups.clear()
        self._index = {name: i for i, name in enumerate(anatomy.names(kinds=("weight", "bias")))}
        # On the host: whether noise is due is decided without waiting for a device.
        slot = {"steps_since_noise": torch.zeros(len(self._index), dtype=torch.int64)}
        if not self.fresh:
            slot |= {f"start/{name}": params[name].detach().clone() for name in self._index}
        return slot

    # -- soft ------------------------------------------------------------------------------------------------
    def after_step(self, params: Params, slot: Slot, generator: Generator) -> None:
        """Shrink; add noise when it is due."""
        if self.when:
            return
        names = tuple(name for name in params if name in self._index)
        if not names:
            return
        tensors = [params[name] for name in names]
        torch._foreach_mul_(tensors, self.shrink)
        if not self.fresh:
            torch._foreach_add_(tensors, [slot[f"start/{name}"] for name in names], alpha=self.noise)
            return
        since = slot["steps_since_noise"][self._index[names[0]]]
        since += 1
        if int(since) >= self.noise_every:
            since.zero_()
            self._perturb(self._group(names), tensors, generator)

    def _group(self, names: tuple[str, ...]) -> _Group:
        if names[0] not in self._groups:
            infos = [(self._anatomy.tensors[k].init, self._anatomy.shapes[k]) for k in names]
            random = [i for i, (init, _) in enumerate(infos) if init.random]
            sizes = [math.prod(infos[i][1]) for i in random]
            buffer = torch.empty(sum(sizes))
            views = [v.view(infos[i][1]) for i, v in zip(random, buffer.split(sizes), strict=True)]
            stds = [infos[i][0].std(infos[i][1]) for i in random]
            self._groups[names[0]] = _Group(
                names, random, stds, [init.mean() for init, _ in infos], buffer, views
            )
        return self._groups[names[0]]

    def _perturb(self, group: _Group, tensors: Sequence[Tensor], generator: Generator) -> None:
        spread, drift = accumulated(self.shrink, self.noise, self.noise_every)
        group.buffer.normal_(generator=generator)
        changed = [tensors[i] for i in group.random]
        if changed:
            torch._foreach_mul_(group.views, [spread * std for std in group.stds])
            torch._foreach_add_(changed, [v.to(changed[0].device) for v in group.views])
        for tensor, mean in zip(tensors, group.means, strict=True):
            if mean != 0.0:
                tensor.add_(drift * mean)

    # -- at the moments of a rule ----------------------------------------------------------------------------
    def intervene(self, op: Operation) -> dict[str, float]:
        """Replace every tensor at once; report how far the parameters moved relative to their norm."""
        moved = before = 0.0
        for name in self._index:
            param = op.params[name]
            draw = op.anatomy.fresh(name, op.generator) if self.fresh else op.slot[f"start/{name}"]
            value = shrunk_and_perturbed(param, draw, self.shrink, self.noise)
            moved += float((value - param).square().sum())
            before += float(param.square().sum())
            op.surgeon.write(name, value, moments=self.reset_moments, target=self.copy_to_targets)
        return {"tensors": float(len(self._index)), "relative_change": math.sqrt(moved / max(before, 1e-30))}
