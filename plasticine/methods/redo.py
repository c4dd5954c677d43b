"""ReDo: recycling dormant units (Sokar et al., arXiv 2302.12902)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from plasticine.core.method import Method, Operation
from plasticine.core.schedule import RunPlan
from plasticine.errors import UserError
from plasticine.methods.units import (
    check_observed_before,
    clear_outgoing,
    counted,
    redraw_incoming,
    replaceable,
    site_of,
    whole_draws,
)
from plasticine.networks.anatomy import Anatomy, UnitGroup
from plasticine.networks.network import Site

__all__ = ["Redo", "dormant", "recyclable"]

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


def recyclable(anatomy: Anatomy) -> list[UnitGroup]:
    """Layers whose units can be dormant, and can be replaced without changing the function around them."""
    return [g for g in replaceable(anatomy) if g.act != _NEVER_DORMANT]


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
        check_observed_before(self.name, self.when, plan)
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
        marked = [(g, dormant(site_of(sites, g), self.tau)) for g in groups]
        facts = counted(groups, marked)
        marked = [(g, units) for g, units in marked if bool(units.any())]
        redraw_incoming(marked, op.anatomy, op.surgeon, whole_draws(op.anatomy, op.generator))
        clear_outgoing(marked, op.surgeon)
        return facts
