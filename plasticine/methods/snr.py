"""Self-normalised resets (Farias & Jozefiak, arXiv 2410.20098)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from plasticine.core.method import Method, Operation
from plasticine.core.schedule import RunPlan
from plasticine.core.state import Params, Slot
from plasticine.core.watch import Seen
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

__all__ = ["SelfNormalizedResets", "adapted", "ended_silences", "silent"]

#: Activations that are exactly zero over a range of inputs, for a unit of one column.
_CAN_BE_SILENT = ("relu",)


def silent(post: Tensor, tolerance: float = 0.0) -> Tensor:
    """Which units are silent on a minibatch, bool [units].

    Args:
        post: ReLU outputs [n, units] or [n, units, h, w].
        tolerance: Largest share of rows (and positions) at which a silent unit may be positive.
    """
    others = [d for d in range(post.dim()) if d != 1]
    if tolerance == 0.0:
        return post.sum(others) == 0  # outputs are not negative; several times faster than looking at each
    return (post > 0).to(post.dtype).mean(others) <= tolerance


def ended_silences(silences: Tensor, age: Tensor, ended: Tensor) -> None:
    """Count, in place, the silences that have ended.

    Args:
        silences: int32 [units, longest]; column k counts silences of k + 1 minibatches (the last: of more as well).
        age: int64 [units], minibatches since the unit last fired.
        ended: bool [units]; where `age` is 0 there was no silence, and nothing is counted.
    """
    column = (age - 1).clamp(0, silences.shape[1] - 1)[:, None]
    silences.scatter_add_(1, column, (ended & (age > 0))[:, None].to(silences.dtype))


def adapted(silences: Tensor, threshold: Tensor, rejection: float, expansion: float, shortest: int) -> Tensor:
    """New thresholds, int64 [units].

    With L the shortest length that at least a share ``1 - rejection`` of a unit's counted silences do not exceed
    (1 if none was counted): L if that is less than the present threshold, else `expansion` times the threshold;
    kept within `shortest` and the longest silence that is counted.
    """
    sums = silences.cumsum(1)
    enough = sums >= (1.0 - rejection) * sums[:, -1:]
    length = enough.to(torch.int8).argmax(1) + 1
    grown = (threshold * expansion).to(torch.int64)
    return torch.where(length < threshold, length, grown).clamp(shortest, silences.shape[1])


class SelfNormalizedResets(Method):
    """Resets ReLU units that have been silent for longer than they used to be.

    A unit is silent on a minibatch if its output is zero for every row (and position; or for all but a share of
    them, `tolerance`). Its age is the number of
    minibatches in a row on which it was silent; when it fires again that length is counted, by unit. A unit whose
    age has reached its own threshold is reset: new incoming weights, bias and normalisation from their
    initialisers, outgoing weights of zero, moments cleared, slow copies left alone, age 0; the silence is counted
    as one of that length. Every `adapt_every` times that this method acts the thresholds are set anew from the
    lengths counted since (`adapted`), and counting starts afresh.

    Ages and counts are kept on the device at every optimizer step, from the forward pass that made the gradient;
    with TD3, of the critic phase for critics and of the actor phase for the actor. Resets happen between
    iterations, at the moments of its rules: up to one period later than the age reached the threshold.

    Deviations: ages are in minibatches, not in samples (the authors count both in whole minibatches); resets are
    not made at every step; thresholds have a lower bound that can be chosen (the authors': one minibatch). As in
    their code, minibatches between which a unit did not fall silent are not counted as silences of length 0.

    Units must be able to fall silent: layers with another activation than ReLU are left alone, as are residual
    streams and output layers.

    Args:
        rejection: Share of longest silences that count as death, 0..1 (0: nothing is ever reset).
        first_threshold: Threshold of every unit at first, in minibatches.
        shortest, longest: Bounds of thresholds, in minibatches (>= 1). Memory: 4 bytes * longest for every unit.
        expansion: Factor on a threshold that was not too long (>= 1).
        tolerance: Share of a minibatch's rows and positions at which a silent unit may fire, in [0, 1).
        adapt_every: How often it acts between two adaptations of the thresholds (>= 1).
        common: See `Method`.
    """

    needs_when: ClassVar = True
    neutral: ClassVar = {"rejection": 0.0}
    strong: ClassVar = {"rejection": 0.5, "first_threshold": 1, "shortest": 1, "tolerance": 0.6}

    def __init__(
        self,
        *,
        rejection: float,
        first_threshold: int,
        shortest: int,
        longest: int,
        expansion: float,
        adapt_every: int,
        tolerance: float,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        here = f"method.{self.name}"
        if not 0.0 <= rejection < 1.0:
            raise UserError(
                f"{here}.rejection={rejection} must lie in [0, 1)", "usual values are 0.01 ... 0.05"
            )
        if not 1 <= shortest <= first_threshold <= longest:
            raise UserError(
                f"{here}: first_threshold={first_threshold} must lie between shortest={shortest} and "
                f"longest={longest}, and all must be at least 1"
            )
        if expansion < 1.0 or adapt_every < 1:
            raise UserError(f"{here}: expansion={expansion} and adapt_every={adapt_every} must be at least 1")
        if not 0.0 <= tolerance < 1.0:
            raise UserError(f"{here}.tolerance={tolerance} must lie in [0, 1)")
        self.rejection = rejection
        self.tolerance = tolerance
        self.first_threshold = first_threshold
        self.shortest = shortest
        self.longest = longest
        self.expansion = expansion
        self.adapt_every = adapt_every

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Age, threshold and counted silences of every unit, layer after layer of a network."""
        self._groups: dict[str, list[UnitGroup]] = {}
        for g in _able(anatomy):
            self._groups.setdefault(g.net, []).append(g)
        slot: Slot = {"acted": torch.zeros((), dtype=torch.int64)}
        for net, groups in self._groups.items():
            units, device = sum(g.units for g in groups), params[groups[0].weight].device
            slot[f"age/{net}"] = torch.zeros(units, dtype=torch.int64, device=device)
            slot[f"threshold/{net}"] = torch.full_like(slot[f"age/{net}"], self.first_threshold)
            slot[f"silences/{net}"] = torch.zeros(units, self.longest, dtype=torch.int32, device=device)
        return slot

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse rules before the first minibatch, and networks without a unit that could fall silent."""
        check_observed_before(self.name, self.when, plan)
        if not _able(anatomy):
            raise UserError(
                f"method {self.name!r} finds nothing to reset: no hidden layer in scope has ReLU units, all readers "
                "in scope, and stands outside of a residual stream",
                "use network.act=relu without a method that changes it, or widen the scope",
            )

    def observe(self, seen: Seen, slot: Slot, generator: Generator) -> None:
        """Count this minibatch."""
        for net in seen.sites:
            if net not in self._groups:
                continue
            now = torch.cat([silent(site_of(seen.sites, g).post, self.tolerance) for g in self._groups[net]])
            age = slot[f"age/{net}"]
            ended_silences(slot[f"silences/{net}"], age, ~now)
            age.add_(1).mul_(now)

    def intervene(self, op: Operation) -> dict[str, float]:
        """Reset the units whose silence has lasted too long; adapt thresholds when it is time."""
        groups = [g for found in self._groups.values() for g in found]
        if self.rejection == 0.0:
            return counted(groups, [])
        op.slot["acted"] += 1
        adapts = int(op.slot["acted"]) % self.adapt_every == 0
        marked: list[tuple[UnitGroup, Tensor]] = []
        for net, found in self._groups.items():
            age, threshold, silences = (op.slot[f"{what}/{net}"] for what in ("age", "threshold", "silences"))
            over = age >= threshold
            ended_silences(silences, age, over)
            age.masked_fill_(over, 0)
            marked += zip(found, over.split([g.units for g in found]), strict=True)
            if adapts:
                threshold.copy_(adapted(silences, threshold, self.rejection, self.expansion, self.shortest))
                silences.zero_()
        facts = counted(groups, marked)
        marked = [(g, units) for g, units in marked if bool(units.any())]
        redraw_incoming(marked, op.anatomy, op.surgeon, whole_draws(op.anatomy, op.generator))
        clear_outgoing(marked, op.surgeon)
        return facts


def _able(anatomy: Anatomy) -> list[UnitGroup]:
    return [g for g in replaceable(anatomy) if g.act in _CAN_BE_SILENT]
