"""Which agents and networks fit a level: found by asking them, not from a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from plasticine.compose import build_methods, build_object, run_plan
from plasticine.core.agent import Agent
from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec
from plasticine.core.learner import Learner
from plasticine.core.method import Method
from plasticine.core.noise import Streams
from plasticine.core.schedule import RunPlan
from plasticine.errors import UserError
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.build import build, check_layout
from plasticine.networks.spec import LayerSpec

__all__ = ["Misfit", "Tried", "check_fit", "check_method", "fitting"]

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
    for env in _KINDS:
        try:
            check_fit(env, agent, network)
        except Misfit:
            continue
        built: Agent = build_object(agent, Agent, "agent")
        learner = _small(built, build_methods(methods), env, network)
        steps = built.collects_per_iteration * built.collect_steps * env.num_envs
        plan = RunPlan((100,) * 3, steps, built.updates_per_iteration(env), built.idle_updates(env))
        learner.check(plan)
        return True
    return False


def _small(agent: Agent, methods: Sequence[Method], env: EnvSpec, network: Node) -> Learner:
    """A learner with few units. Raises UserError if the methods do not fit."""
    body: Sequence[LayerSpec] = build_object(network, None, "network")
    return Learner.build(
        agent=agent,
        methods=methods,
        env=env,
        body=tuple(replace(layer, width=min(layer.width, _WIDTH)) for layer in body),
        build_network=build,
        merge_anatomies=Anatomy.merge,
        streams=Streams(0),
        device=torch.device("cpu"),
    )


class Tried:
    """Says of configurations whether their parts go together; levels are built once."""

    def __init__(self) -> None:
        self._levels: dict[str, tuple[EnvLevel, str]] = {}

    def why_not(self, config: Node) -> str:
        """Return why agent, network, level and methods of a run do not go together; empty if they do.

        Builds a small learner and asks the methods about the run's tasks; what depends on the width of layers or on
        a simulator is not found.

        Args:
            config: Plain configuration.

        Raises:
            UserError: A part by itself is wrong: an unknown key, a number out of its range, a level that is not
                installed.
        """
        parts = {group: config[group] for group in ("env", "agent", "network")}
        text = json.dumps(parts, sort_keys=True)
        if text not in self._levels:
            self._levels[text] = self._level(parts)
        level, reason = self._levels[text]
        methods = build_methods(config["method"])
        if reason:
            return reason
        agent: Agent = build_object(config["agent"], Agent, "agent")
        try:
            learner = _small(agent, methods, level.spec(), config["network"])
        except UserError as error:
            return error.what
        plan = run_plan(level, agent)
        try:
            learner.check(plan)
        except UserError as error:
            return error.what
        return ""

    @staticmethod
    def _level(parts: Mapping[str, Node]) -> tuple[EnvLevel, str]:
        level: EnvLevel = build_object(parts["env"], EnvLevel, "env")
        try:
            check_fit(level.spec(), parts["agent"], parts["network"])
        except Misfit as misfit:
            return level, misfit.what
        return level, ""
