"""What a data set says of a run, without what it would say about the machine and the people who made it."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any

import yaml

from plasticine.paths import config_dirs

__all__ = ["anonymous_config", "anonymous_facts"]

_ABOUT_MACHINES = frozenset({"host", "launch_dir", "root", "pid", "slurm_job", "user"})
_LEFT_OUT = "left-out"


def anonymous_facts(facts: Any) -> Any:
    """Facts without host names, folders and job numbers; paths and addresses in commands are left out."""
    if isinstance(facts, Mapping):
        return {
            key: _command(value) if key == "command" and isinstance(value, str) else anonymous_facts(value)
            for key, value in facts.items()
            if key not in _ABOUT_MACHINES
        }
    if isinstance(facts, list):
        return [anonymous_facts(value) for value in facts]
    return facts


def anonymous_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without addresses, folders and queues: everything that decides the outcome stays."""
    found = copy.deepcopy(dict(config))
    found["runs_dir"] = "runs"
    if isinstance(found.get("tracker"), dict):
        found["tracker"]["uri"] = None
    launcher = found.get("launcher")
    if isinstance(launcher, dict) and launcher.get("kind") != "local":
        local = config_dirs()[1] / "launcher" / "local.yaml"
        found["launcher"] = yaml.safe_load(local.read_text(encoding="utf-8"))
    return found


def _command(text: str) -> str:
    try:
        words = shlex.split(text)
    except ValueError:
        return _LEFT_OUT
    shown = []
    for k, word in enumerate(words):
        key, equals, value = word.partition("=")
        if k == 0:
            word = PurePath(word).name
        elif equals and (value.startswith(("/", "~")) or "://" in value):
            word = f"{key}={_LEFT_OUT}"
        elif word.startswith(("/", "~")) or "://" in word:
            word = _LEFT_OUT
        shown.append(word)
    return shlex.join(shown)
