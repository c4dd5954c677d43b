"""The learners on which every method is checked: each agent, both kinds of actions, three kinds of networks."""

from __future__ import annotations

from typing import Any, NamedTuple

__all__ = ["VARIANTS", "Variant"]


class Variant(NamedTuple):
    """One learner.

    Attributes:
        title: For messages.
        options: Arguments of `tiny_config`.
        scope: A part of its networks, to confine a method to.
        env: Changes to the level.
        independent: Whether a network out of scope learns the same at first whatever happens to those in scope.
        thorough: Whether everything is checked; where not, only training (what is left out depends on the method
            and not on the kind of network).
    """

    title: str
    options: dict[str, Any]
    scope: list[str]
    env: dict[str, Any] = {}  # noqa: RUF012 - never written to
    independent: bool = False
    thorough: bool = True


_SHORT = {"num_tasks": 2}
VARIANTS: tuple[Variant, ...] = (
    Variant("PPO, separate encoders", {"actions": "continuous"}, ["actor/*"], independent=True),
    Variant("PPO, shared encoder", {"shared": True}, ["shared/body.*"]),
    Variant("PQN", {"agent_name": "pqn"}, ["q/body.*"], _SHORT),
    Variant("TD3", {"agent_name": "td3", "actions": "continuous"}, ["actor/*"], _SHORT),
    Variant("C51", {"agent_name": "c51"}, ["q/body.*"], _SHORT),
    Variant(
        "PPO, IMPALA",
        {"shared": True, "network_name": "impala"},
        ["shared/*"],
        {**_SHORT, "image_size": 16},
        thorough=False,
    ),
    Variant(
        "C51, Nature CNN",
        {
            "agent_name": "c51",
            "network_name": "nature_cnn",
            "network": {"channels": [8, 8, 8], "hidden": [16]},
            "agent": {"frame_stack": 2},
        },
        ["q/*"],
        _SHORT,
        thorough=False,
    ),
)
