"""Tiny complete runs, recorded tensor by tensor."""

from __future__ import annotations

import copy
import functools
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from plasticine.api import configure
from plasticine.compose import assemble_parts
from plasticine.core.checkpoint import Checkpoints
from plasticine.core.tracker import NullTracker
from plasticine.core.trainer import Trainer

__all__ = ["Recording", "method_names", "method_nodes", "record", "tiny_config"]

Tensors = dict[str, Tensor]
Config = dict[str, Any]

_TOY = {
    "_target_": "plasticine.testing.level.ToyLevel",
    "actions": "discrete",
    "num_tasks": 3,
    "steps_per_task": 96,
    "num_envs": 2,
    "normalize_obs": True,
    "normalize_reward": True,
    "normalizer_on_switch": "carry",
}
#: An iteration of agents with a replay memory: 32 environment steps, 4 batches; the first 16 steps are idle.
_MEMORY: Config = {
    "batch_size": 8,
    "learning_starts": 16,
    "train_frequency": 8,
    "iteration_steps": 32,
    "capacity": 400,
    "lr": 1e-3,
    "checkpoint_replay": True,
}
#: Sizes under which an agent trains in a fraction of a second, by the name of its YAML file.
_AGENTS: dict[str, Config] = {
    "ppo": {"num_steps": 16, "num_minibatches": 2, "epochs": 2, "lr": 1e-3, "entropy_coef": 0.01},
    "pqn": {"num_steps": 16, "num_minibatches": 2, "epochs": 2, "lr": 1e-3, "layer_norm": False},
    "td3": _MEMORY,
    "c51": {**_MEMORY, "atoms": 11, "v_min": -8.0, "v_max": 8.0, "target_frequency": 24},
}
#: Networks as small, for images of 36 x 36.
_NETWORKS: dict[str, Config] = {
    "mlp": {"hidden": [8, 8]},
    "nature_cnn": {"channels": [4, 4, 4], "hidden": [8]},
    "impala": {"channels": [2, 3, 3], "hidden": [8]},
}


def method_names() -> list[str]:
    """Names of all method files on Hydra's search path, those of installed packages included."""
    from plasticine.cli.schema import Schema

    return Schema().options("method")


def method_nodes(method: str, config_dir: str | Path | None = None) -> Config:
    """The configuration of the methods in file `method`, by name; the file may be in a further `config_dir`."""
    nodes = configure("env=classic", f"method={method}", config_dir=config_dir)["method"]
    assert isinstance(nodes, dict)
    return nodes


@functools.cache
def _base(agent: str, network: str) -> Config:
    return configure(
        f"agent={agent}",
        f"network={network}",
        "env=classic",
        "method=vanilla",
        "metrics=none",
        "tracker=none",
    )


def tiny_config(
    methods: Mapping[str, Mapping[str, Any]],
    *,
    shared: bool = False,
    actions: str = "discrete",
    network: Mapping[str, Any] | None = None,
    agent: Mapping[str, Any] | None = None,
    agent_name: str = "ppo",
    network_name: str = "mlp",
) -> Config:
    """A run on `ToyLevel`: 3 tasks of 3 iterations of 4 optimizer steps, hidden layers of a few units.

    Args:
        methods: Nodes by name, in order; none at all is allowed.
        shared: One network for policy and value (PPO).
        actions: ``discrete`` or ``continuous``.
        network, agent: Values to change.
        agent_name: YAML file of the agent: ``ppo``, ``pqn``, ``td3`` or ``c51``.
        network_name: YAML file of the network. With ``nature_cnn`` and ``impala`` observations are images.
    """
    config = copy.deepcopy(_base(agent_name, network_name))
    config["env"] = {**_TOY, "actions": actions}
    if network_name != "mlp":
        config["env"] |= {"image_size": 36, "normalize_obs": False}
    config["agent"] |= {**_AGENTS[agent_name], **(agent or {})}
    if agent_name == "ppo":
        config["agent"]["shared_encoder"] = shared
    config["network"] |= {**_NETWORKS[network_name], **(network or {})}
    config["method"] = {name: copy.deepcopy(dict(node)) for name, node in methods.items()}
    return config


def global_random_states() -> list[bytes]:
    """State of the process-wide generators of torch, numpy and Python."""
    numpy_state: Any = np.random.get_state()
    return [
        torch.get_rng_state().numpy().tobytes(),
        numpy_state[1].tobytes() + str(numpy_state[2:]).encode(),
        repr(random.getstate()).encode(),
    ]


@dataclass
class Recording:
    """What happened in a tiny run.

    Attributes:
        trainer: After the run.
        outcome: ``finished`` or ``interrupted``.
        initial: Copy of every tensor before the run.
        iterations: Copy of every tensor after each iteration, interventions included.
        learnt: For each iteration, the trainable and frozen tensors before and after its optimizer steps.
        overwritten: For each iteration, full names of the tensors written through the surgeon after the steps of
            the previous one and before the end of this one.
        moved: Names of the tensors whose storage or identity changed; must be empty.
        draws: Whether a process-wide random generator was used; must be False.
    """

    trainer: Trainer
    outcome: str
    initial: Tensors
    iterations: list[Tensors] = field(default_factory=list)
    learnt: list[tuple[Tensors, Tensors]] = field(default_factory=list)
    overwritten: list[set[str]] = field(default_factory=list)
    moved: list[str] = field(default_factory=list)
    draws: bool = False

    @property
    def params(self) -> Tensors:
        """The parameters at the end."""
        return {k: v.detach() for k, v in self.trainer.learner.state.params.items()}


class _After:
    """Asks to stop once so many iterations are recorded."""

    def __init__(self, iterations: list[Tensors], limit: int | None) -> None:
        self._iterations, self._limit = iterations, limit

    def is_set(self) -> bool:
        return self._limit is not None and len(self._iterations) >= self._limit


def clones(tensors: Mapping[str, Tensor]) -> Tensors:
    """Detached copies."""
    return {k: v.detach().clone() for k, v in tensors.items()}


def record(config: Config, *, folder: Path | None = None, stop_after: int | None = None) -> Recording:
    """Train and record.

    Args:
        config: See `tiny_config`.
        folder: Keep checkpoints there, and continue from the newest one.
        stop_after: Interrupt after that many iterations (a task's last iteration is followed by one more).

    Raises:
        UserError: The configuration cannot work.
    """
    states = global_random_states()
    parts = assemble_parts(config)
    learner = parts.learner
    iterations: list[Tensors] = []
    trainer = Trainer(
        level=parts.level,
        learner=learner,
        collector=parts.collector,
        measurement=parts.measurement,
        tracker=NullTracker(),
        checkpoints=None if folder is None else Checkpoints(folder),
        plan=parts.plan,
        seed=int(config["seed"]),
        save_every=float("inf"),
        stop=_After(iterations, stop_after),
        progress=lambda facts: end_iteration(),
    )
    result = Recording(trainer, "", clones(learner.state.tensors()), iterations)
    writes: set[str] = set()
    learn, write = learner.learn, learner.surgeon.write

    def watched_learn(progress: float) -> int:
        networks = learner.state.params | learner.state.frozen
        first = len(result.learnt) == len(iterations)  # of the rounds of this iteration
        before = clones(networks) if first else result.learnt.pop()[0]
        count = learn(progress)
        result.learnt.append((before, clones(networks)))
        return count

    def watched_write(name: str, *args: Any, **kwargs: Any) -> None:
        writes.add(name)
        write(name, *args, **kwargs)

    def end_iteration() -> None:
        iterations.append(clones(learner.state.tensors()))
        result.overwritten.append(set(writes))
        writes.clear()

    learner.learn = watched_learn  # type: ignore[method-assign]
    learner.surgeon.write = watched_write  # type: ignore[method-assign]
    places = {k: (id(v), v.data_ptr()) for k, v in learner.state.tensors().items()}
    result.outcome = trainer.fit()
    now = {k: (id(v), v.data_ptr()) for k, v in learner.state.tensors().items()}
    result.moved = sorted(k for k in places.keys() | now.keys() if places.get(k) != now.get(k))
    result.draws = states != global_random_states()
    return result
