"""Normalize-and-project (Lyle et al., arXiv 2407.01800)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor

from plasticine.core.method import Method, Operation
from plasticine.core.schedule import RunPlan
from plasticine.core.state import Params, Slot
from plasticine.errors import UserError
from plasticine.methods.layer_norm import normalize_layers
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.spec import NetSpec

__all__ = ["NormalizeAndProject", "factors"]

#: Shorter tensors count as zero: they are left as they are.
_TINY = 1e-30


def factors(groups: Sequence[Sequence[Tensor]], lengths: Sequence[Tensor]) -> list[Tensor]:
    """What the tensors of each group must be multiplied with to have a joint length; 0-d tensors, 1 for zeros.

    Args:
        groups: Tensors whose entries make up one vector.
        lengths: The length (L2 norm) wanted for each group, 0-d tensors.
    """
    norms = iter(torch._foreach_norm([t for group in groups for t in group]))
    own = [[next(norms) for _ in group] for group in groups]
    joint = [n[0] if len(n) == 1 else torch.linalg.vector_norm(torch.stack(n)) for n in own]
    now, wanted = torch.stack(joint), torch.stack(list(lengths))
    return list(torch.where(now > _TINY, wanted / now.clamp_min(_TINY), 1.0).unbind())


class NormalizeAndProject(Method):
    """Normalises every hidden layer and holds the norm of its weight at the initial value.

    A normalised layer does not depend on the scale of its weight, but the larger the weight, the less a step turns
    it. Projecting the weights keeps that effective step size from decaying (or growing); the learning rate's own
    schedule is then the only one. Biases of normalised layers are left out, as the normalisation has its own offset.

    Without a ``when:`` rule weights are projected after every optimizer step, with rules at their moments. Output
    layers depend on the scale of their weight and are not projected.

    Args:
        norm: ``layer_norm`` or ``rms_norm`` between linear map and non-linearity of the hidden layers, or ``none``:
            leave the layers as they are (their function then changes with every projection).
        eps: Added to the variance under the root (> 0).
        project: Whether to project at all (False: normalise only).
        affine: Scale and offset of each normalisation: ``free``, or ``project`` them jointly to the initial length,
            the root of the number of units.
        heads: Project the weights of output layers as well. They are not scale invariant: for comparisons.
        common: See `Method`.
    """

    neutral: ClassVar = {"norm": "none", "project": False}

    def __init__(
        self,
        *,
        norm: Literal["layer_norm", "rms_norm", "none"],
        eps: float,
        project: bool,
        affine: Literal["free", "project"],
        heads: bool,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if eps <= 0:
            raise UserError(f"method.{self.name}.eps={eps} must be positive", "the usual value is 1.0e-5")
        self.norm = norm
        self.eps = eps
        self.project = project
        self.project_affine = affine == "project"
        self.heads = heads

    def edit_network(self, net: NetSpec) -> NetSpec:
        """Normalise the layers whose weight is in scope, without bias."""
        if self.norm == "none":
            return net
        layers = [i for i in range(len(net.body)) if self.reaches(f"{net.name}/body.{i}.weight")]
        net = normalize_layers(net, self.name, layers, self.norm, self.eps)
        return net.set_hidden(self.name, layers, bias=False)

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Remember the length of every weight that is to be projected (and of scales with offsets)."""
        self._groups: dict[str, list[str]] = {}
        if not self.project:
            return {}
        roles = ("encoder", "head") if self.heads else ("encoder",)
        lengths: Slot = {}
        for name in anatomy.names(kinds=("weight",), roles=roles):
            self._groups[name] = [name]
            lengths[f"length/{name}"] = params[name].detach().norm()
        for name in anatomy.names(kinds=("norm_scale",)) if self.project_affine else ():
            offset = name.replace("norm_scale", "norm_offset")
            self._groups[name] = [name] + [offset] * (offset in params)
            length = torch.full((), math.sqrt(params[name].numel()), device=params[name].device)
            lengths[f"length/{name}"] = length
        return lengths

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse a scope without anything to project."""
        if self.project and not self._groups:
            raise UserError(
                f"method {self.name!r} has nothing to project: no weight of a hidden layer is in scope "
                f"{list(self.scope)}",
                f'widen method.{self.name}.scope, e.g. to ["*/body.*"]',
            )

    def after_step(self, params: Params, slot: Slot, generator: Generator) -> None:
        """Project what the step has changed."""
        if self.when:
            return
        found = [(names, slot[f"length/{key}"]) for key, names in self._groups.items() if key in params]
        if found:
            groups = [[params[n] for n in names] for names, _ in found]
            scales = factors(groups, [length for _, length in found])
            tensors = [t for group in groups for t in group]
            repeated = [s for s, group in zip(scales, groups, strict=True) for _ in group]
            torch._foreach_mul_(tensors, repeated)

    def intervene(self, op: Operation) -> dict[str, float]:
        """Project everything; report how many vectors, and the largest relative change of a length."""
        if not self._groups:
            return {"projected": 0.0}
        groups = [[op.params[n] for n in names] for names in self._groups.values()]
        scales = factors(groups, [op.slot[f"length/{key}"] for key in self._groups])
        for names, scale in zip(self._groups.values(), scales, strict=True):
            for name in names:
                op.surgeon.write(name, op.params[name] * scale, moments=False)
        change = float((torch.stack(scales) - 1).abs().max())
        return {"projected": float(len(groups)), "largest_change": change}
