"""ReDo: recycling dormant units (Sokar et al., arXiv 2302.12902)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from plasticine.core.method import Method, Operation
from plasticine.core.schedule import RunPlan
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy, Consumer, UnitGroup
from plasticine.networks.network import Site

__all__ = ["Redo", "dormant", "outgoing_mask", "recyclable"]

#: Its two outputs are never small together, so its units cannot be dormant.
_NEVER_DORMANT = "fourier"


def dormant(site: Site, tau: float) -> Tensor:
    """Which units are dormant, bool [units].

    A unit's score is the mean of its absolute output over observations (and positions), divided by the mean of
    that over the layer (equation 1 of the paper; its denominator is a mean, as in the authors' code). The unit is
    dormant if the score is at most `tau`. The outputs of a unit with several are added up.
    """
    post = site.post.abs()
    size = post.mean(dim=[d for d in range(post.dim()) if d != 1]).view(site.expansion, -1).sum(0)
    return size / (size.mean() + 1e-9) <= tau


def outgoing_mask(consumer: Consumer, shape: Sequence[int], units: Tensor) -> Tensor:
    """Entries of a consumer's weight of this `shape` that read the units marked in bool [units]; broadcastable."""
    columns = torch.zeros(shape[1], dtype=torch.bool)
    columns[consumer.columns[units.cpu()].flatten()] = True
    return columns.view(1, -1, *([1] * (len(shape) - 2)))


def recyclable(anatomy: Anatomy) -> list[UnitGroup]:
    """Layers whose units can be replaced without changing the function around them.

    Left out are residual streams (a skip path reads them as well), units that cannot be dormant, and layers that
    are read by a weight outside of `anatomy` (frozen copies follow the weight they were copied from).
    """
    return [
        g
        for g in anatomy.units
        if not g.residual
        and g.act != _NEVER_DORMANT
        and all(c.weight in anatomy.tensors for c in g.consumers if "/frozen." not in c.weight)
    ]


class Redo(Method):
    """Gives dormant hidden units new incoming weights and takes their outgoing ones away.

    Incoming weights and bias are drawn anew from their own initialisers, normalisation scale and offset go back
    to 1 and 0, and every weight that reads the unit is set to zero: the network's function changes only by what
    the dormant units still contributed. All layers are re-drawn before any column is cleared. The optimizer's
    moments are cleared on exactly these entries; slow copies follow on their own.

    Args:
        tau: Largest score of a dormant unit (0: exactly dead ones only; negative: none).
        observations: Recent observations the scores are averaged over.
        common: See `Method`.
    """

    needs_when: ClassVar = True
    neutral: ClassVar = {"tau": -1.0}
    strong: ClassVar = {"tau": 0.9}

    def __init__(self, *, tau: float, observations: int, **common: Any) -> None:
        super().__init__(**common)
        if observations < 1:
            raise UserError(f"method.{self.name}.observations={observations} must be at least 1")
        self.tau = tau
        self.observations = observations

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse rules before the first observations, and networks without a unit that could be recycled."""
        for rule in self.when:
            if rule.on in ("run_start", "task_start"):
                raise UserError(
                    f"method {self.name!r} cannot act on {rule.on}: there are no observations yet",
                    f"set method.{self.name}.when=[{{on: task_switch}}] or [{{every: 10}}]",
                )
        if not recyclable(anatomy):
            raise UserError(
                f"method {self.name!r} finds nothing to recycle: no hidden layer in scope can be dormant and has "
                "all its readers in scope",
                "widen its scope, or use another activation than fourier",
            )

    def intervene(self, op: Operation) -> dict[str, float]:
        """Find dormant units and recycle them; report how many, in all and per network."""
        sites = op.activations(self.observations)
        groups = recyclable(op.anatomy)
        marked = [(g, dormant(_site(sites, g), self.tau)) for g in groups]
        facts = {f"recycled/{g.net}": 0.0 for g in groups}
        for group, units in marked:
            facts[f"recycled/{group.net}"] += float(units.sum())
        marked = [(g, units) for g, units in marked if bool(units.any())]
        for group, units in marked:
            _redraw_incoming(op, group, units)
        for group, units in marked:
            for consumer in group.consumers:
                shape = _consumer_shape(op, consumer)
                op.surgeon.write(consumer.weight, 0.0, outgoing_mask(consumer, shape, units))
        total = float(sum(g.units for g in groups))
        return {"recycled": sum(facts.values()), "hidden_units": total, **facts}


def _site(sites: Mapping[str, Sequence[Site]], group: UnitGroup) -> Site:
    return next(s for s in sites[group.net] if s.name == group.site)


def _consumer_shape(op: Operation, consumer: Consumer) -> Sequence[int]:
    """Shape of a consumer; a frozen copy ``net/frozen.<j>.<local>`` has that of the weight it was copied from."""
    net, _, local = consumer.weight.partition("/")
    if local.startswith("frozen."):
        local = local.split(".", 2)[2]
    return op.params[f"{net}/{local}"].shape


def _redraw_incoming(op: Operation, group: UnitGroup, units: Tensor) -> None:
    for name in (group.weight, group.bias, group.norm_scale, group.norm_offset):
        if name is not None and name in op.params:
            fresh = op.anatomy.fresh(name, op.generator)
            op.surgeon.write(name, fresh, units.view(-1, *([1] * (fresh.dim() - 1))))
