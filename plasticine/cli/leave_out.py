"""Leaving runs out of a multirun whose parts do not go together."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from plasticine.cell import agent_name, env_name, method_label
from plasticine.errors import UserError
from plasticine.fitting import Tried

__all__ = ["fitting_runs"]

Config = dict[str, Any]


def fitting_runs(configs: Sequence[Config], *, swap: bool) -> tuple[list[Config], list[str]]:
    """Return the runs whose parts go together, and a line for each combination that is left out.

    Args:
        configs: Plain configurations.
        swap: Two methods that go together in the other order only are used in that order.

    Raises:
        UserError: A part by itself is wrong, or nothing goes together.
    """
    tried = Tried()
    kept: list[Config] = []
    told: dict[str, None] = {}
    answers: dict[str, tuple[str, bool]] = {}
    for config in configs:
        parts = {group: config[group] for group in ("env", "agent", "network", "method")}
        text = json.dumps(parts)  # not sorted: the order of methods matters
        if text not in answers:
            answers[text] = _answer(tried, config, swap)
            reason, swapped = answers[text]
            name = f"{method_label(config)} with {agent_name(config)} in {env_name(config)}"
            if reason:
                note = " (used in the other order)" if swapped else ""
                told[f"left out: {name}{note}: {reason}"] = None
        reason, swapped = answers[text]
        if swapped:
            kept.append({**config, "method": _other_order(config)})
        elif not reason:
            kept.append(config)
    if not kept:
        raise UserError("nothing of this multirun goes together", next(iter(told), ""))
    return kept, list(told)


def _answer(tried: Tried, config: Config, swap: bool) -> tuple[str, bool]:
    """Why a configuration is left out (empty: it is not), and whether it is used in the other order."""
    reason = tried.why_not(config)
    if not reason or not swap or len(config["method"]) != 2:
        return reason, False
    return reason, not tried.why_not({**config, "method": _other_order(config)})


def _other_order(config: Config) -> Config:
    return dict(reversed(config["method"].items()))
