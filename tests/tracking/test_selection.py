"""How much of a record is forwarded."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest

from plasticine.errors import UserError
from plasticine.tracking.selection import ForwardSettings, Selection

SETTINGS = ForwardSettings(per_network=False, max_keys=40, max_points=2000)


def entry(step: int, **values: float) -> dict:
    return {"t": 1000 + step, "s": step, "m": {k.replace("__", "/"): v for k, v in values.items()}}


def run(lines: list[dict], settings: ForwardSettings, planned: int | None) -> list:
    selection = Selection()
    points = [p for line in lines for p in selection.take(line, settings, planned)]
    return points + selection.rest(settings)


def test_everything_of_a_short_run_is_forwarded_once():
    points = run([entry(s, loss__a=s, task__index=0) for s in range(100)], SETTINGS, 100)
    assert [p.step for p in points if p.key == "loss/a"] == list(range(100))
    assert points[4] == ("loss/a", 1002, 2, 2)


def test_per_network_values_only_if_wanted():
    lines = [entry(1, plasticity__rank=1.0, plasticity__rank__actor=2.0)]
    assert [p.key for p in run(lines, SETTINGS, 1)] == ["plasticity/rank"]
    wanted = ForwardSettings(per_network=True, max_keys=40, max_points=2000)
    assert [p.key for p in run(lines, wanted, 1)] == ["plasticity/rank", "plasticity/rank/actor"]


def test_too_many_keys_leave_the_important_ones():
    settings = ForwardSettings(per_network=True, max_keys=5, max_points=100)
    selection = Selection()
    many = {f"method__x{i}": 1.0 for i in range(4)}
    first = selection.take(entry(1, **many, plasticity__rank__actor=1, loss__a=1), settings, 10)
    assert {p.key for p in first} == {"method/x0", "method/x1", "method/x2", "method/x3", "loss/a"}
    second = selection.take(
        entry(2, **many, loss__a=1, health__nonfinite=1, train__r=1, plasticity__rank=1, summary__r=1),
        settings,
        10,
    )
    assert {p.key for p in second} == {
        *("train/r", "loss/a", "plasticity/rank", "health/nonfinite", "method/x0", "summary/r")
    }
    assert selection.left_out(settings) == ["method/x1", "method/x2", "method/x3", "plasticity/rank/actor"]


@pytest.mark.parametrize("planned", [4500, 20_001])
def test_a_long_run_is_thinned_and_rare_keys_survive(planned):
    settings = ForwardSettings(per_network=False, max_keys=40, max_points=2000)
    lines = [
        entry(
            s,
            loss__a=s,
            **({"plasticity__rank": s} if s % 10 == 9 else {}),
            **({"summary__x": s} if s % 7 == 0 else {}),
        )
        for s in range(planned)
    ]
    points = run(lines, settings, planned)
    losses = [p.step for p in points if p.key == "loss/a"]
    assert 1400 <= len(losses) <= 2000
    assert losses[0] == 0
    assert losses[-1] == planned - 1  # the last value is always there
    ranks = [p.step for p in points if p.key == "plasticity/rank"]
    assert len(ranks) >= min(450, planned // 20)
    assert len([p for p in points if p.key == "summary/x"]) == -(-planned // 7)


def test_lines_beyond_the_plan_are_thinned_more():
    settings = ForwardSettings(per_network=False, max_keys=40, max_points=100)
    points = run([entry(s, loss__a=s) for s in range(1000)], settings, None)
    assert 85 <= len(points) <= 100
    steps = [p.step for p in points]
    assert steps[:50] == list(range(50))
    assert max(b - a for a, b in pairwise(steps)) < 450
    assert steps[-1] == 999


def test_the_same_state_gives_the_same_points():
    settings = ForwardSettings(per_network=False, max_keys=3, max_points=10)
    lines = [entry(s, loss__a=s, loss__b=s, train__r=s, **{f"m__x{s}": 1.0}) for s in range(50)]
    selection = Selection()
    for line in lines[:20]:
        selection.take(line, settings, 50)
    copied = copy.deepcopy(selection)
    assert [selection.take(x, settings, 50) for x in lines[20:]] == [
        copied.take(x, settings, 50) for x in lines[20:]
    ]
    assert selection.rest(settings) == copied.rest(settings)
    assert selection.rest(settings) == []


def test_values_that_are_not_finite_are_never_forwarded():
    assert run([entry(1, a=float("nan"), b=float("inf"), c=1.0)], SETTINGS, 1) == [("c", 1001, 1, 1.0)]


def test_settings_come_from_the_config_and_are_checked():
    config = {"kind": "mlflow", "per_network": True, "max_keys": 7, "max_points": 9}
    assert ForwardSettings.from_config(config) == ForwardSettings(per_network=True, max_keys=7, max_points=9)
    with pytest.raises(UserError, match="max_points is not set"):
        ForwardSettings.from_config({"per_network": True, "max_keys": 7})
    with pytest.raises(UserError, match="forwards nothing"):
        ForwardSettings.from_config({**config, "max_keys": 0})


def test_a_plan_that_was_far_too_short_gives_no_more_points():
    settings = ForwardSettings(per_network=False, max_keys=40, max_points=100)
    points = run([entry(s, loss__a=s) for s in range(5000)], settings, 100)
    assert len(points) == 100
    assert points[-1].step == 4999
