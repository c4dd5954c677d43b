"""Levels built from the shipped YAML files, as a run builds them."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from plasticine.cell import register_resolvers
from plasticine.core.env import EnvLevel

CONF = Path(__file__).parents[2] / "conf" / "env"


def settings(name: str, budget: str = "smoke", **overrides: Any) -> dict[str, Any]:
    """Constructor arguments in conf/env/<name>.yaml, with some replaced."""
    register_resolvers()
    root = OmegaConf.create({"budget": {"name": budget}, "env": OmegaConf.load(CONF / f"{name}.yaml")})
    found = OmegaConf.to_container(root, resolve=True)["env"]
    found.pop("defaults", None)  # the network that comes with the level; Hydra's business
    unknown = set(overrides) - set(found)
    assert not unknown, f"not in {name}.yaml: {unknown}"
    return {**found, **overrides}


def level(name: str, budget: str = "smoke", **overrides: Any) -> EnvLevel:
    """Build the level of conf/env/<name>.yaml."""
    arguments = settings(name, budget, **overrides)
    module, _, cls = arguments.pop("_target_").rpartition(".")
    return getattr(importlib.import_module(module), cls)(**arguments)


def child_random(seed: int, index: int = 0, num_envs: int = 1) -> np.random.RandomState:
    """Generator of environment `index` that a DMC level entered with `seed` uses."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed).spawn(num_envs)[index]))
