"""What levels are like and what goes with what, found by building and asking; remembered until a file changes."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from plasticine.cell import plain
from plasticine.cli.schema import Schema
from plasticine.errors import UserError

__all__ = ["Facts", "facts"]

#: ``levels``: name -> what the built level says of itself, or ``{"problem": why it cannot be built}``.
#: ``agents``, ``networks``: level -> option -> "" if it fits, else why not.
#: ``methods``: method -> agent -> network -> the same; a network that never goes with the agent is left out.
Facts = dict[str, dict[str, Any]]

_GROUPS = ("agent", "budget", "env", "local", "method", "network", "tuned")
_SOURCES = Path(__file__).resolve().parents[1]


def facts(schema: Schema) -> tuple[Facts, bool]:
    """Return the facts, and whether they had to be found anew (seconds) or were remembered."""
    fingerprint, store = _fingerprint(schema), _store()
    if store is not None and store.is_file():
        kept = json.loads(store.read_text(encoding="utf-8"))
        if kept["of"] == fingerprint:
            return kept["facts"], False
    found = _find(schema)
    if store is not None:
        partial = store.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps({"of": fingerprint, "facts": found}), encoding="utf-8")
        partial.replace(store)
    return found, True


def _fingerprint(schema: Schema) -> str:
    """Changes with every YAML file in reach, every source file of ours, and what is installed beside it."""
    digest = hashlib.sha1(sys.version.encode())
    for group in _GROUPS:
        for name in schema.options(group):
            digest.update(f"{group}/{name}\0{schema.text(group, name)}\0".encode())
    folders = [Path(entry or ".") for entry in sys.path]
    for path in [*sorted(_SOURCES.rglob("*.py")), *folders]:
        if path.exists():
            state = path.stat()
            digest.update(f"{path}\0{state.st_mtime_ns}\0{state.st_size}\0".encode())
    for folder in folders:  # modules of a user's own that lie beside the YAML files
        if folder.is_dir() and "site-packages" not in str(folder) and folder != _SOURCES.parent:
            for path in sorted(folder.glob("*.py")):
                digest.update(f"{path}\0{path.stat().st_mtime_ns}\0".encode())
    return digest.hexdigest()


def _store() -> Path | None:
    """File for the facts of this installation; None if nothing can be kept on this machine."""
    from plasticine.envs.craftax_jax import cache_folder

    try:
        folder = cache_folder()
    except UserError:
        return None
    installation = hashlib.sha1(f"{sys.prefix}\0{_SOURCES}".encode()).hexdigest()[:8]
    return folder / f"facts-{installation}.json" if os.access(folder, os.W_OK) else None


def _find(schema: Schema) -> Facts:
    import torch

    from plasticine.fitting import check_method

    torch.set_num_threads(1)  # everything here is tiny
    agents, networks, methods = (
        {name: _node(schema, group, name) for name in schema.options(group)}
        for group in ("agent", "network", "method")
    )
    found: Facts = {"levels": {}, "agents": {}, "networks": {}, "methods": {}}
    for level in schema.options("env"):
        config = plain(schema.compose([f"env={level}"]))
        found["levels"][level] = _described(config)
        if "problem" not in found["levels"][level]:
            acting, reading = _around(schema, level, config, agents, networks)
            found["agents"][level], found["networks"][level] = acting, reading
    for method, nodes in methods.items():
        found["methods"][method] = {}
        for agent, agent_node in agents.items():
            asked = {n: _why_not(check_method, nodes, agent_node, node) for n, node in networks.items()}
            told = {name: reason for name, reason in asked.items() if reason is not None}
            found["methods"][method][agent] = told
    return found


def _around(
    schema: Schema,
    level: str,
    config: Mapping[str, Any],
    agents: Mapping[str, Any],
    networks: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Why each agent cannot act in a level, and why each network cannot read it; empty where it can."""
    from plasticine.fitting import check_fit

    env, tuned = _spec(config["env"]), schema.options("tuned")
    acting: dict[str, Any] = {}
    for name, node in agents.items():
        acting[name] = _why_not(check_fit, env, node, config["network"])
        if acting[name] and f"{name}-{level}" in tuned:  # the pair's file may choose another simulator
            pair = plain(schema.compose([f"agent={name}", f"env={level}"]))
            acting[name] = _why_not(check_fit, _spec(pair["env"]), pair["agent"], pair["network"])
    actor = next((agents[name] for name, reason in acting.items() if not reason), None)
    reading: dict[str, Any] = {}
    if actor is not None:
        reading = {name: _why_not(check_fit, env, actor, node) for name, node in networks.items()}
    return acting, reading


def _node(schema: Schema, group: str, name: str) -> dict[str, Any]:
    """Plain node of an option at the smallest budget. Composing takes long: left out where it changes nothing."""
    from omegaconf import OmegaConf

    text = schema.text(group, name)
    if "${" in text or "defaults:" in text:
        return plain(schema.compose([f"{group}={name}", "budget=smoke"]))[group]
    return dict(OmegaConf.to_container(OmegaConf.create(text)))  # type: ignore[arg-type]


def _described(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a level says of itself at the budget of published results."""
    from plasticine.compose import build_object
    from plasticine.core.env import EnvLevel

    try:
        level = build_object(config["env"], EnvLevel, "env")
        spec, tasks = level.spec(), level.tasks()
    except UserError as error:
        return {"problem": error.what, "fix": error.fix}
    return {
        "level": level.level,
        "simulator": spec.name,
        "observations": list(spec.obs_shape),
        "images": spec.obs_dtype == "uint8",
        "actions": spec.action.kind,
        "num_actions": spec.action.n,
        "tasks": len({task.name for task in tasks}),
        "visits": len(tasks),
        "env_steps": sum(task.env_steps for task in tasks),
        "network": config["network"]["_target_"].rpartition(".")[2],
    }


def _spec(node: Mapping[str, Any]) -> Any:
    from plasticine.compose import build_object
    from plasticine.core.env import EnvLevel

    return build_object(node, EnvLevel, "env").spec()


def _why_not(check: Callable[..., Any], *arguments: Any) -> str | None:
    """Empty if the check passes, its reason if it refuses, None if there is nothing to check."""
    try:
        return None if check(*arguments) is False else ""
    except UserError as error:
        return error.what
    except Exception as error:  # noqa: BLE001 - of somebody's own part; the table says so in its place
        return f"{type(error).__name__}: {error}"
