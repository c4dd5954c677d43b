"""Failures that show as a trend of one metric."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from plasticine.diagnosis.curves import Curves
from plasticine.diagnosis.returns import blocks, stalled
from plasticine.diagnosis.signature import Evidence, Signature, Unknown
from plasticine.diagnosis.statistics import change_point, mann_kendall, mostly_beyond, theil_sen
from plasticine.errors import UserError

__all__ = ["Trend"]

Floats = NDArray[np.float64]
_LEAST = 10  # points for a trend
_LEAST_LEVEL = 8  # points in the second half for a level that holds
_KEPT = 0.7  # of the largest excursion that the end must still have: otherwise it has recovered


class Trend(Signature):
    """A metric moves one way, far enough, does not come back, and the agent no longer learns.

    It is there if either

    - the trend is significant (Mann-Kendall, corrected for autocorrelation, one-sided at `alpha` over the number of
      networks), the medians of the first and the last eighth are `change` apart, the last is beyond `limit` and at
      least 70 % of the largest excursion away from the first, and, with ``returns: stalled``, returns have stalled
      since the change point (Pettitt); or
    - the values of the second half lie beyond `severe` (sign test at `alpha`), whatever returns do.

    Each network is judged by itself.

    Args:
        key: Of the metric, e.g. ``plasticity/rdu``.
        direction: In which it fails.
        scale: ``log``: changes are ratios, so `change` is the logarithm of one.
        alpha: Significance level, in (0, 0.5).
        change: Smallest change, > 0, on the scale.
        limit: Value that the end must be beyond; null for none.
        severe: Value beyond which it is a failure in any case; null for none.
        returns: ``stalled``: a change alone is none, unless it is severe; ``any``: it is.
        plateau: Losses of which the first one there is must not fall after the change; empty: none.
        common: See `Signature`.

    Raises:
        UserError: A number out of its range.
    """

    def __init__(
        self,
        *,
        key: str,
        direction: Literal["rising", "falling"],
        scale: Literal["linear", "log"],
        alpha: float,
        change: float,
        limit: float | None,
        severe: float | None,
        returns: Literal["stalled", "any"],
        plateau: list[str],
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if not 0.0 < alpha < 0.5:
            raise UserError(f"diagnosis, {key}: alpha={alpha} is not in (0, 0.5)", "0.01 is usual")
        if not change > 0.0:
            raise UserError(
                f"diagnosis, {key}: change={change} is not positive", "the direction is said apart"
            )
        self.key = key
        self.rising = direction == "rising"
        self.logarithmic = scale == "log"
        self.alpha = alpha
        self.change = change
        self.limit = limit
        self.severe = severe
        self.needs_stall = returns == "stalled"
        self.plateau = tuple(plateau)

    def reads(self) -> tuple[str, ...]:
        """The metric, and the losses."""
        return (self.key, *self.plateau)

    def judge(self, curves: Curves) -> Evidence | Unknown | None:
        """Judge each network; the one with the smallest p-value speaks for all."""
        names = curves.networks(self.key)
        verdicts = [self._network(curves, name, len(names)) for name in names]
        found = [verdict for verdict in verdicts if isinstance(verdict, Evidence)]
        if found:
            return min(found, key=lambda evidence: evidence.p)
        if not names:
            return Unknown(f"{self.key} was not measured")
        return next((verdict for verdict in verdicts if isinstance(verdict, Unknown)), None)

    def transform(self, curves: Curves, values: Floats) -> Floats | Unknown:
        """Values as they are judged; as they are, unless a subclass knows better."""
        return values

    def _network(self, curves: Curves, name: str, networks: int) -> Evidence | Unknown | None:
        line = curves.lines[name]
        values = self.transform(curves, line.values)
        if isinstance(values, Unknown):
            return values
        if values.size < _LEAST:
            return Unknown(f"{name} has only {values.size} measurements, {_LEAST} are needed")
        return self._trend(curves, name, line.steps, values, self.alpha / networks) or self._level(
            name, line.steps, values, self.alpha / networks
        )

    def _trend(
        self, curves: Curves, name: str, steps: Floats, values: Floats, alpha: float
    ) -> Evidence | None:
        scaled = np.log(np.maximum(values, 1e-300)) if self.logarithmic else values
        signed = scaled if self.rising else -scaled
        levels = blocks(signed)
        changed = levels[-1] - levels[0]
        if changed < max(self.change, _KEPT * (levels.max() - levels[0])):
            return None
        end = float(blocks(values)[-1])
        if self.limit is not None and not self._beyond(end, self.limit):
            return None
        test = mann_kendall(signed)
        if test.rising >= alpha:
            return None
        began = int(steps[change_point(signed).first])
        if self.needs_stall and not self._is_severe(end) and not stalled(curves, began):
            return None
        if not self._plateaued(curves, began):
            return None
        rate = theil_sen(values, steps) * 1e6
        text = (
            f"Mann-Kendall tau {test.tau if self.rising else -test.tau:+.2f}, p {test.rising:.1g}, "
            f"Theil-Sen slope {rate:+.3g} per million steps"
        )
        return Evidence(name, began, test.rising, float(blocks(values)[0]), end, text)

    def _level(self, name: str, steps: Floats, values: Floats, alpha: float) -> Evidence | None:
        if self.severe is None:
            return None
        late = values[values.size // 2 :]
        if late.size < _LEAST_LEVEL:
            return None
        p = mostly_beyond(late, self.severe, self.rising)
        if p >= alpha or not self._is_severe(float(np.median(late[-3:]))):
            return None
        inside = np.flatnonzero(~self._beyond_all(values, self.severe))
        inside = inside[inside < values.size // 2]
        began = int(steps[min(inside[-1] + 1 if inside.size else 0, steps.size - 1)])
        text = f"sign test against {self.severe:g}, p {p:.1g}"
        return Evidence(name, began, p, float(blocks(values)[0]), float(blocks(values)[-1]), text)

    def _beyond(self, value: float, bound: float) -> bool:
        return value >= bound if self.rising else value <= bound

    def _beyond_all(self, values: Floats, bound: float) -> NDArray[np.bool_]:
        return values >= bound if self.rising else values <= bound

    def _is_severe(self, end: float) -> bool:
        return self.severe is not None and self._beyond(end, self.severe)

    def _plateaued(self, curves: Curves, began: int) -> bool:
        for key in self.plateau:
            line = curves.line(key)
            if line is not None:
                later = line.values[line.steps >= began]
                return bool(later.size < 4 or mann_kendall(later).falling >= 0.05)
        return True


class Entropy(Trend):
    """The entropy of a policy, in a unit in which 0 means that it is certain of its action.

    Discrete: divided by ``ln n``, the entropy of chance among n actions. Continuous: the spread of an action relative
    to that of the first eighth of the run, ``exp((H - H_0) / n)`` with n components (a geometric mean over them).
    """

    def transform(self, curves: Curves, values: Floats) -> Floats | Unknown:
        """Entropy in nats to the unit above."""
        actions = curves.facts.get("actions")
        if not actions:
            return Unknown("the record does not say what actions there are")
        if values.size == 0:
            return values
        n = int(actions["n"])
        if actions["kind"] == "discrete":
            return values / math.log(n) if n > 1 else Unknown("there is only one action")
        return np.exp((values - blocks(values)[0]) / n)
