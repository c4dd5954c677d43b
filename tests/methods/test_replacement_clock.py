"""When continual backprop replaces how many units, against bookkeeping step by step."""

from __future__ import annotations

import numpy as np
import pytest

from plasticine.methods.replacement_clock import NEVER, ReplacementClock, first_step


def counted_by_hand(units, rate, maturity, steps, rng):
    """Every step by the book, with units chosen at random among the mature ones."""
    born, gathered, replaced, events = np.zeros(units, int), 0, 0, []
    for t in range(1, steps + 1):
        mature = np.flatnonzero(t - born > maturity)
        gathered += len(mature)
        while (replaced + 1) <= gathered * rate + 1e-9:
            unit = rng.choice(np.flatnonzero(t - born > maturity))
            born[unit] = t
            replaced += 1
            events.append(t)
    return events


@pytest.mark.parametrize(
    ("units", "rate", "maturity"), [(8, 0.1, 2), (8, 0.05, 0), (5, 0.3, 7), (64, 0.001, 20), (3, 1.0, 4)]
)
def test_clock_counts_as_step_by_step_bookkeeping_does(units, rate, maturity):
    steps = 400
    slot = {}
    slot["births/a"], slot["account/a"] = ReplacementClock.start(units, rate, maturity)
    clock = ReplacementClock(rate=rate, maturity=maturity, slot=slot, key="a")
    events = []
    for t in range(1, steps + 1):
        if clock.due <= t:
            count = clock.take(t)
            assert count >= 1
            events += [t] * count
    assert events == counted_by_hand(units, rate, maturity, steps, np.random.default_rng(0))


def test_replaced_count_is_the_rate_times_the_time_without_a_maturity():
    slot = {}
    slot["births/a"], slot["account/a"] = ReplacementClock.start(50, 1e-3, 0)
    clock = ReplacementClock(rate=1e-3, maturity=0, slot=slot, key="a")
    count = sum(clock.take(t) for t in range(1, 4001) if clock.due <= t)
    assert abs(count - 1e-3 * 50 * 4000) <= 1 + count / 50  # a unit made at step t does not count at t


def test_never_is_never():
    _, account = ReplacementClock.start(8, 0.0, 5)
    assert int(account[3]) == NEVER
    assert first_step([3, 3, 9], 0, 4) == 4  # steps 3 and 4, two units each
    assert first_step([3, 3, 9], 0, 16) == 10  # 12 by step 8, 15 by step 9, 18 by step 10
