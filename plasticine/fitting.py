"""Which agents and networks fit a level: found by asking them, not from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from plasticine.compose import build_object
from plasticine.core.agent import Agent
from plasticine.core.env import EnvLevel, EnvSpec
from plasticine.errors import UserError
from plasticine.networks.build import check_layout
from plasticine.networks.spec import LayerSpec

__all__ = ["Misfit", "check_fit", "fitting"]

Node = Mapping[str, Any]


class Misfit(UserError):
    """Two parts of a configuration do not go together.

    Args:
        group: The part to exchange: ``agent`` or ``network``.
        what, fix: See `UserError`.
    """

    def __init__(self, group: str, what: str, fix: str = "") -> None:
        self.group = group
        super().__init__(what, fix)

    def __reduce__(self) -> tuple[type[Misfit], tuple[str, str, str]]:  # type: ignore[override]
        return type(self), (self.group, self.what, self.fix)


def check_fit(env: EnvSpec, agent: Node, network: Node) -> None:
    """Ask an agent about a level, and lay out its networks, without allocating anything.

    Args:
        env: The level's spaces.
        agent, network: Plain nodes of these groups.

    Raises:
        Misfit: The agent cannot act in the level, or the network cannot read what it is given.
        UserError: A node itself is wrong.
    """
    built: Agent = build_object(agent, Agent, "agent")
    body: Sequence[LayerSpec] = build_object(network, None, "network")
    try:
        built.check_env(env)
    except UserError as error:
        raise Misfit("agent", error.what, error.fix) from error
    for spec in built.networks(env, body):
        try:
            check_layout(spec)
        except UserError as error:
            raise Misfit("network", error.what, error.fix) from error


def fitting(config: Mapping[str, Any], group: str, options: Mapping[str, Node]) -> list[str]:
    """Return the names of the `options` that would fit in the place of ``config[group]``, in their order.

    Args:
        config: Plain configuration with ``env``, ``agent`` and ``network``.
        group: ``agent`` or ``network``.
        options: Plain node of each choice.
    """
    env = build_object(config["env"], EnvLevel, "env").spec()
    found = []
    for name, node in options.items():
        parts = {"agent": config["agent"], "network": config["network"], group: node}
        try:
            check_fit(env, **parts)
        except UserError:
            continue  # that is the answer
        found.append(name)
    return found
