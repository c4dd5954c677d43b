"""When rules fire, and which are refused."""

from __future__ import annotations

import pytest

from plasticine.core.schedule import Moment, RunPlan, When, parse_when
from plasticine.core.state import Counters
from plasticine.errors import UserError

PLAN = RunPlan(task_iterations=(4, 6), env_steps_per_iteration=100, updates_per_iteration=8)


def fired(rule: When) -> list[tuple[str, int]]:
    """Walk through a run as the trainer does; (event, iterations done) at each firing."""
    found, c = [], Counters()

    def at(event):
        if rule.due(Moment(event, c), PLAN):
            found.append((event, c.iteration))

    at("run_start")
    for task, iterations in enumerate(PLAN.task_iterations):
        c.task, c.task_iteration = task, 0
        if task:
            at("task_switch")
        at("task_start")
        for _ in range(iterations):
            c.iteration += 1
            c.task_iteration += 1
            at("iteration")
        at("task_end")
    return found


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"on": "run_start"}, [("run_start", 0)]),
        ({"on": "task_start"}, [("task_start", 0), ("task_start", 4)]),
        ({"on": "task_switch"}, [("task_switch", 4)]),
        ({"on": "task_end"}, [("task_end", 4), ("task_end", 10)]),
        ({"every": 3, "unit": "iterations"}, [("iteration", i) for i in (3, 6, 9)]),
        ({"every": 20, "unit": "updates"}, [("iteration", i) for i in (3, 5, 8, 10)]),
        ({"every": 250, "unit": "env_steps"}, [("iteration", i) for i in (3, 5, 8, 10)]),
        ({"at": 0.5, "of": "run"}, [("iteration", 5)]),
        ({"at": 0.5, "of": "task"}, [("iteration", 2), ("iteration", 7)]),
        ({"at": 0.01, "of": "run"}, [("iteration", 1)]),
        ({"at": 1.0, "of": "task"}, [("iteration", 4), ("iteration", 10)]),
    ],
)
def test_rules_fire_when_they_say(rule, expected):
    (parsed,) = parse_when(rule, "m")
    assert fired(parsed) == expected
    assert parsed.count(PLAN) == len(expected)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"evry": 3}, "unknown key 'evry'"),
        ({"every": 3, "on": "task_end"}, "exactly one"),
        ({}, "exactly one"),
        ({"every": 0}, "whole number"),
        ({"every": 2.5}, "whole number"),
        ({"on": "task_swich"}, "did you mean 'task_switch'"),
        ({"every": 3, "unit": "update"}, "did you mean 'updates'"),
        ({"at": 1.5}, "must lie in"),
        ({"at": 0.5, "of": "life"}, "of='life'"),
    ],
)
def test_malformed_rules_are_refused(rule, message):
    with pytest.raises(UserError, match=message):
        parse_when(rule, "m")


def test_a_period_finer_than_an_iteration_is_refused():
    (rule,) = parse_when({"every": 5, "unit": "updates"}, "m")
    with pytest.raises(UserError, match="one iteration of this agent is 8 updates"):
        rule.check(PLAN, "m")


def test_several_rules_are_joined():
    rules = parse_when([{"on": "task_end"}, {"every": 2}], "m")
    assert len(rules) == 2
    assert parse_when(None, "m") == parse_when([], "m") == ()
