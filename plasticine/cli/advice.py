"""A refusal because two parts do not go together, completed by the names of those that would."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plasticine.cell import plain
from plasticine.cli.schema import Schema
from plasticine.errors import UserError

__all__ = ["advise"]


def advise(error: UserError, configs: Sequence[Mapping[str, Any]], schema: Schema) -> UserError:
    """Return `error`, or the same with a fix that names the options that fit.

    Every option of the group in question is tried, those of other packages included.

    Args:
        error: Why a run was refused.
        configs: Plain configurations of the runs; one of them was refused.
        schema: The YAML files in reach.
    """
    from plasticine.compose import build_object
    from plasticine.core.env import EnvLevel
    from plasticine.fitting import Misfit, check_fit, fitting

    tried: list[Any] = []
    for config in configs:
        parts = [config[group] for group in ("env", "agent", "network")]
        if parts in tried:
            continue
        tried.append(parts)
        try:
            env = build_object(config["env"], EnvLevel, "env").spec()
            check_fit(env, config["agent"], config["network"])
        except Misfit as misfit:
            if misfit.what != error.what:
                continue
            group = misfit.group
            nodes = {
                name: plain(schema.compose([f"{group}={name}"]))[group] for name in schema.options(group)
            }
            names = fitting(config, group, nodes)
            if any(nodes[name]["_target_"] == config[group]["_target_"] for name in names):
                return error  # it is a number that does not fit
            listed = ", ".join(f"{group}={name}" for name in names) or f"no {group} there is"
            return UserError(error.what, f"what fits {env.name}: {listed}")
        except UserError:
            continue  # refused for a reason that says it all
    return error
