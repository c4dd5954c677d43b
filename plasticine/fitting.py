"""Which agents and networks fit a level: found by asking them, not from a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from plasticine.compose import build_methods, build_object
from plasticine.core.agent import Agent
from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec
from plasticine.core.learner import Learner
from plasticine.core.noise import Streams
from plasticine.core.schedule import RunPlan
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.build import build, check_layout
from plasticine.networks.spec import LayerSpec

__all__ = ["Misfit", "check_fit", "check_method", "fitting"]

Node = Mapping[str, Any]

_ACTIONS = (ActionSpec("discrete", 3), ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0)))
#: Levels of every kind, small: vectors and images, discrete and continuous actions.
_KINDS = (
    *(EnvSpec("sample", (4,), "float32", action, num_envs=1) for action in _ACTIONS),
    *(EnvSpec("sample", (4, 40, 40), "uint8", action, num_envs=1) for action in _ACTIONS),
)
_WIDTH = 4  # units of every hidden layer while a method is tried: what fits does not depend on it


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


def check_method(methods: Mapping[str, Node], agent: Node, network: Node) -> bool:
    """Build a small learner with methods, and ask them about a run of three tasks.

    Args:
        methods: Plain nodes of the methods to use together.
        agent, network: Plain nodes of these groups.

    Returns:
        False if agent and network do not go together in any kind of level, so that there is nothing to say.

    Raises:
        UserError: The methods do not fit.
    """
    body: Sequence[LayerSpec] = build_object(network, None, "network")
    body = tuple(replace(layer, width=min(layer.width, _WIDTH)) for layer in body)
    for env in _KINDS:
        try:
            check_fit(env, agent, network)
        except Misfit:
            continue
        built: Agent = build_object(agent, Agent, "agent")
        learner = Learner.build(
            agent=built,
            methods=build_methods(methods),
            env=env,
            body=body,
            build_network=build,
            merge_anatomies=Anatomy.merge,
            streams=Streams(0),
            device=torch.device("cpu"),
        )
        steps = built.collects_per_iteration * built.collect_steps * env.num_envs
        learner.check(RunPlan((100,) * 3, steps, built.updates_per_iteration(env), built.idle_updates(env)))
        return True
    return False
