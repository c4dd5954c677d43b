"""Which actions an agent can choose."""

from __future__ import annotations

from typing import Literal

from plasticine.core.env import EnvSpec
from plasticine.errors import UserError

__all__ = ["require_actions"]


def require_actions(agent: str, env: EnvSpec, kind: Literal["discrete", "continuous"]) -> None:
    """Refuse an environment whose actions are of the other kind.

    Args:
        agent: Name of the agent.
        env: Where it is to act.
        kind: What it can choose.

    Raises:
        UserError: The environment has the other kind of actions.
    """
    if env.action.kind == kind:
        return
    there = (
        f"{env.action.n} discrete actions"
        if kind == "continuous"
        else f"{env.action.n} continuous components"
    )
    raise UserError(
        f"agent {agent} chooses {kind} actions, but {env.name} has {there}",
        f"choose an agent for {env.action.kind} actions, or an environment with {kind} ones",
    )
