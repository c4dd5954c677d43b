"""Tiny off-policy learners and runs for tests."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch

from plasticine.agents.off_policy import OffPolicy
from plasticine.api import configure
from plasticine.compose import build_object
from plasticine.core.agent import Agent
from plasticine.core.env import ActionSpec, EnvSpec, StepOut
from plasticine.core.learner import Learner
from plasticine.core.noise import Streams
from plasticine.networks.anatomy import Anatomy
from plasticine.networks.build import build
from plasticine.networks.catalog import mlp
from plasticine.testing import method_nodes

BODY = {
    "hidden": [12, 9],
    "act": "tanh",
    "norm": None,
    "init": "orthogonal",
    "gain": 1.4,
    "bias_init": "zeros",
}
CONTINUOUS = ActionSpec("continuous", 2, (-1.0, -3.0), (1.0, 5.0))
DISCRETE = ActionSpec("discrete", 3)
_SMALL = {
    "batch_size": 8,
    "learning_starts": 16,
    "train_frequency": 1,
    "iteration_steps": 16,
    "capacity": 500,
}


def make_agent(name: str, **changes: Any) -> OffPolicy:
    """The agent of a YAML file, made small."""
    node = configure(f"agent={name}", "budget=paper")["agent"]
    return build_object({**node, **_SMALL, **changes}, Agent, "agent")


def make_learner(
    agent: OffPolicy,
    action: ActionSpec,
    *,
    num_envs: int = 1,
    autoreset: Literal["same_step", "next_step"] = "same_step",
) -> Learner:
    """A learner on vectors of 5, away from its initial values; slow copies differ from the online networks."""
    env = EnvSpec("test/env", (5,), "float32", action, num_envs, autoreset=autoreset)
    learner = Learner.build(
        agent=agent,
        methods=(),
        env=env,
        body=mlp(**BODY),
        build_network=build,
        merge_anatomies=Anatomy.merge,
        streams=Streams(0),
        device=torch.device("cpu"),
    )
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in (*learner.state.params.values(), *learner.state.targets.values()):
            tensor.add_(0.3 * torch.randn(tensor.shape, generator=g))
    return learner


def numpy_net(tensors: dict[str, torch.Tensor], net: str, head: str, x: np.ndarray) -> np.ndarray:
    """A network of `BODY` evaluated in float64."""
    p = {
        k.split("/", 1)[1]: v.detach().double().numpy() for k, v in tensors.items() if k.startswith(net + "/")
    }
    for i in range(2):
        x = np.tanh(x @ p[f"body.{i}.weight"].T + p[f"body.{i}.bias"])
    return x @ p[f"head.{head}.weight"].T + p[f"head.{head}.bias"]


def step(agent: OffPolicy, rng: np.random.Generator, num_envs: int = 1, *, terminal: float = 0.2) -> None:
    """One round of collecting in a world of random numbers."""
    agent.begin_collect()
    for _ in range(agent.collect_steps):
        agent.act(rng.normal(size=(num_envs, 5)).astype(np.float32))
        terminated, truncated = rng.random(num_envs) < terminal, np.zeros(num_envs, bool)
        obs, reward = (rng.normal(size=s).astype(np.float32) for s in ((num_envs, 5), num_envs))
        agent.record(StepOut(obs, reward, terminated, truncated, None), reward, None, None)
    agent.prepare(rng.normal(size=(num_envs, 5)).astype(np.float32))


def toy_config(
    name: str, method: str | None = None, *, env: dict | None = None, **agent: Any
) -> dict[str, Any]:
    """A run on `ToyLevel`: 3 tasks of 6 iterations of 16 environment steps; learning starts in the third."""
    actions = "continuous" if name == "td3" else "discrete"
    config = configure(
        f"agent={name}", "network=mlp", "env=classic", "method=vanilla", "metrics=none", "tracker=none"
    )
    config["env"] = {
        "_target_": "plasticine.testing.level.ToyLevel",
        "actions": actions,
        "num_tasks": 3,
        "steps_per_task": 96,
        "num_envs": 2,
        "normalize_obs": False,
        "normalize_reward": False,
        "normalizer_on_switch": "carry",
        **(env or {}),
    }
    small = {**_SMALL, "learning_starts": 40, "train_frequency": 4, "lr": 1e-3, "checkpoint_replay": True}
    if name == "c51":
        small |= {"v_min": -8.0, "v_max": 8.0, "atoms": 11, "target_frequency": 20}
    config["agent"] |= {**small, **agent}
    config["network"] |= BODY | {"hidden": [8, 8]}
    config["method"] = {} if method is None else method_nodes(method)
    return config
