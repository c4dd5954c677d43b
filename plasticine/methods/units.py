"""Replacing hidden units: what the methods that recycle, replace or reset units have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Generator, Tensor

from plasticine.core.schedule import RunPlan, When
from plasticine.core.surgery import Surgeon
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy, Consumer, UnitGroup
from plasticine.networks.network import Site

__all__ = [
    "check_observed_before",
    "clear_outgoing",
    "counted",
    "outgoing_mask",
    "redraw_incoming",
    "replaceable",
    "site_of",
    "whole_draws",
]

#: Layers with the units that are to be replaced, bool [units].
Marked = Sequence[tuple[UnitGroup, Tensor]]


def replaceable(anatomy: Anatomy) -> list[UnitGroup]:
    """Layers whose units can be taken out without touching anything outside of `anatomy`.

    Left out are residual streams (a skip path reads them as well), and layers that are read by a weight outside
    (frozen copies follow the weight they were copied from).
    """
    return [
        g
        for g in anatomy.units
        if not g.residual
        and all(c.weight in anatomy.tensors for c in g.consumers if "/frozen." not in c.weight)
    ]


def check_observed_before(name: str, when: Sequence[When], plan: RunPlan) -> None:
    """Refuse rules that fire before the first observation of the run.

    Raises:
        UserError: A rule waits for the start of the run, or for that of every task, the first included.
    """
    for rule in when:
        if rule.on in ("run_start", "task_start"):
            raise UserError(
                f"method {name!r} cannot act on {rule.on}: there are no observations yet",
                f"set method.{name}.when=[{{on: task_switch}}] or [{{every: 10}}]",
            )


def site_of(sites: Mapping[str, Sequence[Site]], group: UnitGroup) -> Site:
    """The activations of a group's layer."""
    return next(s for s in sites[group.net] if s.name == group.site)


def outgoing_mask(consumer: Consumer, shape: Sequence[int], units: Tensor) -> Tensor:
    """Entries of a consumer's weight of this `shape` that read the units marked in bool [units]; broadcastable."""
    read = consumer.columns.to(units.device)
    columns = torch.zeros(shape[1], dtype=torch.bool, device=units.device)
    columns.scatter_(0, read.flatten(), units[:, None].expand_as(read).flatten())
    return columns.view(1, -1, *([1] * (len(shape) - 2)))


def redraw_incoming(
    marked: Marked, anatomy: Anatomy, surgeon: Surgeon, draw: Callable[[str, Tensor], Tensor]
) -> None:
    """Give the marked units new incoming weights, bias, and normalisation scale and offset.

    Args:
        draw: New values of a whole tensor, by its full name and the units that are marked; entries of other units
            are not used.
    """
    for group, units in marked:
        for name in (group.weight, group.bias, group.norm_scale, group.norm_offset):
            if name is not None and name in anatomy.tensors:
                fresh = draw(name, units)
                surgeon.write(name, fresh, units.view(-1, *([1] * (fresh.dim() - 1))))


def clear_outgoing(marked: Marked, surgeon: Surgeon) -> None:
    """Set every weight that reads a marked unit to zero.

    To be called when all layers have their new incoming weights: these must not bring cleared columns back.
    """
    for group, units in marked:
        for consumer in group.consumers:
            shape = surgeon.read(consumer.weight).shape
            surgeon.write(consumer.weight, 0.0, outgoing_mask(consumer, shape, units))


def whole_draws(anatomy: Anatomy, generator: Generator) -> Callable[[str, Tensor], Tensor]:
    """For `redraw_incoming`: a fresh draw of the whole tensor, of which the rows of the marked units are used."""
    return lambda name, units: anatomy.fresh(name, generator)


def counted(groups: Sequence[UnitGroup], marked: Marked) -> dict[str, float]:
    """What an event records: units replaced, in all and per network, and how many there are."""
    per_net = {f"recycled/{g.net}": 0.0 for g in groups}
    for group, units in marked:
        per_net[f"recycled/{group.net}"] += float(units.sum())
    total = float(sum(g.units for g in groups))
    return {"recycled": sum(per_net.values()), "hidden_units": total, **per_net}
