"""Access to dm_control's suite: what exists, whether it can work here, and how one task is built."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import os
import sys
import types
from typing import Any

import numpy as np

from plasticine.envs.dmc_reward import fast_tolerance
from plasticine.errors import UserError, nearest

__all__ = ["can_render", "check_task", "load_task", "require_suite"]

_INSTALL = "pip install 'plasticine[dmc]'"
_last_compiled: dict[bytes, Any] = {}  # at most one, by the digest of its XML and assets
# Values of MUJOCO_GL that switch rendering off.
_NO_RENDERER = ("disable", "disabled", "off", "false", "0")


@functools.cache
def require_suite() -> types.ModuleType:
    """Import ``dm_control.suite``.

    Raises:
        UserError: If dm_control is missing, or MuJoCo is of a version it does not work with.
    """
    if "MUJOCO_GL" not in os.environ and sys.platform == "linux" and not os.environ.get("DISPLAY"):
        # Without a display GLFW, the first choice, only prints warnings. A person who wants images sets it.
        os.environ["MUJOCO_GL"] = "disable"
    try:
        mujoco_version = importlib.metadata.version("mujoco")
        importlib.metadata.version("dm_control")
    except importlib.metadata.PackageNotFoundError as missing:
        raise UserError(f"the DMC levels need the package {missing.name}", _INSTALL) from missing
    if int(mujoco_version.split(".")[0]) >= 4:
        raise UserError(
            f"mujoco {mujoco_version} is installed, but dm_control reads model fields that MuJoCo 4 removed",
            f"in a new virtual environment: {_INSTALL} (it asks for mujoco<4; downgrading in place leaves "
            "the packages mujoco-core and mujoco-studio behind)",
        )
    return importlib.import_module("dm_control.suite")


def check_task(domain: str, task: str, keys: tuple[str, str]) -> None:
    """Check that the suite has a task.

    Args:
        domain: Name of the domain.
        task: Name of the task.
        keys: Configuration keys of the two, for messages.

    Raises:
        UserError: If it does not, with the nearest names that exist.
    """
    known: dict[str, tuple[str, ...]] = require_suite().TASKS_BY_DOMAIN
    if domain not in known:
        raise UserError(
            f"{keys[0]}={domain!r} is no domain of the DeepMind suite", nearest(str(domain), known)
        )
    if task not in known[domain]:
        raise UserError(
            f"{keys[1]}={task!r} is no task of the domain {domain}", nearest(str(task), known[domain])
        )


def can_render() -> bool:
    """Whether ``MUJOCO_GL`` leaves a renderer to dm_control. Meaningful after `require_suite`."""
    return os.environ.get("MUJOCO_GL", "").lower() not in _NO_RENDERER


def _from_xml_string(cls: Any, xml_string: bytes | str, assets: dict[str, bytes] | None = None) -> Any:
    """Stand in for ``Physics.from_xml_string``: the same model, copied if it was the last one compiled.

    The environments of a vector, and tasks that differ only in their reward, then share one compilation. Only
    the last model is kept, because a dog takes 70 MB.
    """
    wrapper = importlib.import_module("dm_control.mujoco.wrapper")
    digest = hashlib.blake2b(xml_string.encode() if isinstance(xml_string, str) else xml_string)
    for name in sorted(assets or {}):
        digest.update(name.encode() + b"\0" + (assets or {})[name])
    key = digest.digest()
    if key not in _last_compiled:
        _last_compiled.clear()
        _last_compiled[key] = wrapper.MjModel.from_xml_string(xml_string, assets=assets)
    return cls.from_model(_last_compiled[key].copy())


@functools.cache
def _private_domain(domain: str) -> types.ModuleType:
    """Execute the suite's module of `domain` a second time, with faster equivalents of two functions.

    The copy belongs to this package: the installed dm_control stays as it is for everybody else.
    """
    installed = importlib.import_module(f"dm_control.suite.{domain}")
    spec = importlib.util.spec_from_file_location(f"plasticine_dmc_{domain}", str(installed.__file__))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    rewards = getattr(module, "rewards", None)
    if rewards is not None:
        contents = {**vars(rewards), "tolerance": fast_tolerance(rewards.tolerance)}
        module.rewards = types.SimpleNamespace(**contents)  # type: ignore[attr-defined]
    if hasattr(module, "_find_non_contacting_height"):
        from plasticine.envs.dmc_height import fast_height_search

        search = fast_height_search(module._find_non_contacting_height)
        module._find_non_contacting_height = search  # type: ignore[attr-defined]
    module.Physics.from_xml_string = classmethod(_from_xml_string)
    if not can_render():
        # quadruped's `escape` sends its terrain to the renderer, and would create one only for that.
        module.Physics.contexts = None
    return module


def load_task(domain: str, task: str, random: np.random.RandomState) -> Any:
    """Build a ``dm_control.rl.control.Environment`` that behaves as ``suite.load`` does.

    Args:
        domain: Name of the domain, checked before.
        task: Name of the task, checked before.
        random: The task's generator; a few domains draw their model from it too.
    """
    require_suite()
    return _private_domain(domain).SUITE[task](random=random)
