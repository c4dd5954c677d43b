"""When continual backprop replaces how many units: whole-number bookkeeping that needs no look at the units."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from plasticine.core.state import Slot

__all__ = ["NEVER", "ReplacementClock", "first_step"]

#: A step that never comes.
NEVER = 2**62


def first_step(ripe: Sequence[int], step: int, missing: int) -> int:
    """The step at which `missing` unit-steps have gathered, counting from the one after `step`.

    Args:
        ripe: Ascending, one entry a unit: the first step at which it counts.
        step: Everything up to here is settled.
        missing: Unit-steps still to gather (>= 1).
    """
    units = bisect_right(ripe, step + 1)
    while True:
        last = ripe[units] - 1 if units < len(ripe) else NEVER  # until then the number of units stays
        if units and missing <= units * (last - step):
            return step - -missing // units
        missing -= units * (last - step)
        step = last
        units = bisect_right(ripe, step + 1)


class ReplacementClock:
    """Decides for one layer at which steps how many units are due.

    At every step each unit older than `maturity` steps adds `rate` to an account; whenever that has reached a whole
    number, so many units are replaced. How many units are how old follows from earlier decisions alone, whichever
    units were chosen: only mature ones are, and among these age makes no difference. So the device is never asked.

    Its state are host tensors of the method's slot, all int64: ``births`` [units] (the steps at which units were
    made, ascending), ``account`` [4] (steps that are settled; unit-steps gathered; units replaced; the step at which
    the next is due).

    Args:
        rate: Share of the mature units to be replaced at each step, 0..1.
        maturity: Age, in steps, that a unit must exceed.
        slot, key: Where the state is kept.
    """

    def __init__(self, *, rate: float, maturity: int, slot: Slot, key: str) -> None:
        self._rate = rate
        self._maturity = maturity
        self._births = slot[f"births/{key}"]
        self._account = slot[f"account/{key}"]

    @staticmethod
    def start(units: int, rate: float, maturity: int) -> tuple[Tensor, Tensor]:
        """``births`` and ``account`` of a layer at step 0."""
        births = torch.zeros(units, dtype=torch.int64)
        account = torch.tensor([0, 0, 0, NEVER])
        if rate > 0.0:
            account[3] = first_step([maturity + 1] * units, 0, _unit_steps(1, rate))
        return births, account

    @property
    def due(self) -> int:
        """The step at which the next unit is to be replaced."""
        return int(self._account[3])

    def take(self, step: int) -> int:
        """How many units are to be replaced at `step`; counts them as replaced."""
        settled, gathered, replaced, _ = self._account.tolist()
        ripe = self._births + (self._maturity + 1)
        gathered += int((step + 1 - ripe.clamp_min(settled + 1)).clamp_min(0).sum())
        count = 0
        while _unit_steps(replaced + count + 1, self._rate) <= gathered:
            count += 1
        replaced += count
        births = torch.cat((self._births[count:], torch.full((count,), step)))
        self._births.copy_(births)
        missing = _unit_steps(replaced + 1, self._rate) - gathered
        due = first_step((births + (self._maturity + 1)).tolist(), step, missing)
        self._account.copy_(torch.tensor([step, gathered, replaced, due]))
        return count


def _unit_steps(replaced: int, rate: float) -> int:
    """After how many unit-steps so many units have been replaced."""
    return math.ceil(replaced / rate - 1e-9)
