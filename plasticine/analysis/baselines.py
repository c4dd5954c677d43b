"""The fresh agent that a run's tasks are held against: how it is asked for, and where it is among other runs.

A fresh agent plays the same stream with the same seeds and budget, but starts every task with new networks, a new
optimizer, new statistics of observations and rewards and an empty memory. That is ``method=full_reset`` with
``env.normalizer_on_switch=reset`` and, where the agent has a memory, ``agent.on_switch=clear``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from plasticine.analysis.record import RunRecord
from plasticine.analysis.scores import FreshTask
from plasticine.analysis.task_curve import task_curve

__all__ = ["Baseline", "find_baseline", "fresh_tasks", "what_carries_over"]

#: What may differ between a run and its baseline: parts of the configuration that do not change training ...
_UNRELATED = ("metrics", "evaluation", "diagnosis", "budget")
#: ... and those that say what is carried from task to task.
_CARRYING = ("env.normalizer_on_switch", "agent.on_switch")
_RESET = "plasticine.methods.layer_reset.LayerReset"


class Baseline(NamedTuple):
    """Runs of the fresh agent (finished, one a seed), and why there are none if there are none."""

    runs: tuple[RunRecord, ...]
    reason: str


def find_baseline(record: RunRecord, others: Sequence[RunRecord], *, own_method: bool = False) -> Baseline:
    """Find the fresh agent for a run among other runs, by what they are configured to do.

    The agent, network and stream must be the same number for number, lengths included. What is only looked at
    (metrics, evaluation) may differ.

    Args:
        record: The run.
        others: Candidates, e.g. all runs of a study; the run itself may be among them.
        own_method: Hold a run with a method against a fresh agent that uses this method, too
            (``method=[layer_norm,full_reset]``), instead of one that uses none. That separates what a method does to
            learning at all from what it does to the ability to go on learning.
    """
    wanted = _without_methods(record)
    methods = _methods(record) if own_method else {}
    methods = {name: node for name, node in methods.items() if not _is_full_reset(node)}
    same = [other for other in others if _without_methods(other) == wanted and _resets(other)]
    same = [other for other in same if _others(other) == methods]
    found = [other for other in same if other.state == "finished" and not what_carries_over(other)]
    if found:
        return Baseline(tuple(sorted(found, key=lambda run: run.seed)), "")
    if not same:
        return Baseline((), f"no run of this stream with {_request(record)}")
    carrying = sorted({key for other in same for key in what_carries_over(other)})
    if carrying:
        return Baseline((), f"the run with full_reset is no fresh agent, it lacks {' '.join(carrying)}")
    return Baseline((), "the fresh agent's runs are not finished")


def what_carries_over(record: RunRecord) -> tuple[str, ...]:
    """What a run with ``full_reset`` would have to set to carry nothing from task to task (empty: nothing)."""
    params = record.card.get("params") or {}
    normalised = any(_is_on(params.get(f"env.normalize_{what}")) for what in ("obs", "reward"))
    missing = []
    if normalised and params.get("env.normalizer_on_switch") != "reset":
        missing.append("env.normalizer_on_switch=reset")
    if params.get("agent.on_switch", "clear") != "clear":
        missing.append("agent.on_switch=clear")
    return tuple(missing)


def fresh_tasks(runs: Sequence[RunRecord]) -> dict[int, FreshTask]:
    """Average what fresh agents reached on each task over their seeds; tasks not played to the end do not count."""
    auc: dict[int, list[float]] = {}
    final: dict[int, list[float]] = {}
    for run in runs:
        for span in run.tasks:
            curve = task_curve(run, span)
            if span.complete and math.isfinite(curve.auc()):
                auc.setdefault(span.index, []).append(curve.auc())
                final.setdefault(span.index, []).append(curve.final())
    return {k: FreshTask(float(np.mean(auc[k])), float(np.mean(final[k])), len(auc[k])) for k in sorted(auc)}


def _request(record: RunRecord) -> str:
    params = record.card.get("params") or {}
    words = ["method=full_reset", "env.normalizer_on_switch=reset"]
    return " ".join([*words, *(["agent.on_switch=clear"] if "agent.on_switch" in params else [])])


def _without_methods(record: RunRecord) -> dict[str, Any]:
    """The flattened configuration that a run and its fresh agent have in common."""
    return {
        key: value
        for key, value in (record.card.get("params") or {}).items()
        if key.partition(".")[0] not in (*_UNRELATED, "method") and key not in _CARRYING
    }


def _methods(record: RunRecord) -> dict[str, dict[str, Any]]:
    """Flattened nodes by name, without one that does nothing."""
    nodes: dict[str, dict[str, Any]] = {}
    for key, value in (record.card.get("params") or {}).items():
        group, _, rest = key.partition(".")
        if group == "method" and rest:
            name, _, option = rest.partition(".")
            nodes.setdefault(name, {})[option] = value
    return {name: node for name, node in nodes.items() if not _is_nothing(node)}


def _is_nothing(node: Mapping[str, Any]) -> bool:
    return str(node.get("_target_", "")).endswith(".Vanilla")


def _is_full_reset(node: Mapping[str, Any]) -> bool:
    rules = node.get("when")
    rules = json.loads(rules) if isinstance(rules, str) else rules
    return (
        node.get("_target_") == _RESET
        and node.get("layers") == "all"
        and node.get("moments") == "reset"
        and node.get("targets") == "copy"
        and node.get("scope") in ('["*"]', ["*"])
        and rules == [{"on": "task_switch"}]
    )


def _resets(record: RunRecord) -> bool:
    return any(_is_full_reset(node) for node in _methods(record).values())


def _others(record: RunRecord) -> dict[str, dict[str, Any]]:
    return {name: node for name, node in _methods(record).items() if not _is_full_reset(node)}


def _is_on(value: Any) -> bool:
    return value in (True, "true")
