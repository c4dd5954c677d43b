"""Exact state of a dm_control simulation: what MuJoCo's own state leaves out included.

A suite task may change its model when an episode starts (targets, terrain, gains) and keep numbers of its own.
Both are found by comparison with the model as it was built, not by a list of known cases.
"""

from __future__ import annotations

from typing import Any

import mujoco
import numpy as np

__all__ = ["ModelSnapshot", "pack_random", "pack_task", "physics_state", "restore_physics", "unpack_random",
           "unpack_task"]  # fmt: skip

# Only used to draw pictures or to compile; megabytes that no task changes.
_SKIPPED = ("tex_", "skin_", "mesh_", "bvh_", "oct_", "name_", "names", "paths", "text_")
_PLAIN = (bool, int, float, str, np.bool_, np.integer, np.floating, np.ndarray)


def _numeric_fields(struct: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name in dir(struct):
        if name.startswith(("_", *_SKIPPED)):
            continue
        value = getattr(struct, name)
        is_array = isinstance(value, np.ndarray) and value.size > 0 and value.dtype.kind in "biuf"
        if is_array or isinstance(value, int | float):
            fields[name] = value
    return fields


class ModelSnapshot:
    """The numbers of a model at one moment, and the difference of the model to them later.

    Args:
        model: A ``mujoco.MjModel``, whose arrays are copied.
    """

    def __init__(self, model: mujoco.MjModel) -> None:
        self._model = model
        self._structs = {"model": model, "opt": model.opt}
        self._original: dict[str, dict[str, Any]] = {}
        for label, struct in self._structs.items():
            fields = _numeric_fields(struct)
            self._original[label] = {
                k: np.copy(v) if isinstance(v, np.ndarray) else v for k, v in fields.items()
            }

    def changes(self) -> dict[str, dict[str, Any]]:
        """Return ``{"model": {field: value}, "opt": {field: value}}`` of the fields that differ now."""
        found: dict[str, dict[str, Any]] = {}
        for label, struct in self._structs.items():
            found[label] = {}
            for name, before in self._original[label].items():
                now = getattr(struct, name)
                if isinstance(now, np.ndarray):
                    if not np.array_equal(now, before):
                        found[label][name] = now.copy()
                elif now != before:
                    found[label][name] = now
        return found

    def apply(self, changes: dict[str, dict[str, Any]]) -> None:
        """Make the model differ from the snapshot by exactly `changes`."""
        wanted = {label: {**self._original[label], **changes[label]} for label in self._structs}
        current = self.changes()
        for label, struct in self._structs.items():
            for name in set(current[label]) | set(changes[label]):
                value = wanted[label][name]
                if isinstance(value, np.ndarray):
                    getattr(struct, name)[...] = value
                else:
                    setattr(struct, name, value)


def physics_state(model: mujoco.MjModel, data: mujoco.MjData) -> np.ndarray:
    """Return everything the next step depends on, float64 [n]."""
    spec = mujoco.mjtState.mjSTATE_INTEGRATION.value
    state = np.empty(mujoco.mj_stateSize(model, spec), dtype=np.float64)
    mujoco.mj_getState(model, data, state, spec)
    return state


def restore_physics(model: mujoco.MjModel, data: mujoco.MjData, state: np.ndarray) -> None:
    """Set `state` and everything that is derived from it."""
    spec = mujoco.mjtState.mjSTATE_INTEGRATION.value
    mujoco.mj_resetData(model, data)
    mujoco.mj_setState(model, data, np.asarray(state, dtype=np.float64), spec)
    # The first half of the next step was done before the state was taken: contacts, Jacobians, bias forces.
    mujoco.mj_forward(model, data)


def pack_random(random: np.random.RandomState) -> dict[str, Any]:
    """State of a Mersenne twister as plain data."""
    state = random.get_state(legacy=False)
    assert isinstance(state, dict)
    return {
        "key": np.array(state["state"]["key"]),
        "pos": int(state["state"]["pos"]),
        "has_gauss": int(state["has_gauss"]),
        "gauss": float(state["gauss"]),
    }


def unpack_random(random: np.random.RandomState, packed: dict[str, Any]) -> None:
    """Restore `pack_random`."""
    random.set_state(
        {
            "bit_generator": "MT19937",
            "state": {"key": np.asarray(packed["key"], dtype=np.uint32), "pos": int(packed["pos"])},
            "has_gauss": int(packed["has_gauss"]),
            "gauss": float(packed["gauss"]),
        }
    )


def pack_task(task: Any) -> dict[str, Any]:
    """Plain attributes of a task (numbers, texts, arrays), e.g. the timeout of an episode."""
    packed: dict[str, Any] = {}
    for name, value in vars(task).items():
        if isinstance(value, _PLAIN):
            packed[name] = value.copy() if isinstance(value, np.ndarray) else _python(value)
    return packed


def _python(value: Any) -> Any:
    # A numpy number is kept as an array of no dimension, so that its type comes back as well.
    return np.asarray(value) if isinstance(value, np.generic) else value


def unpack_task(task: Any, packed: dict[str, Any]) -> None:
    """Restore `pack_task`; attributes that did not exist at that time are removed."""
    for name in [n for n, v in vars(task).items() if isinstance(v, _PLAIN) and n not in packed]:
        delattr(task, name)
    for name, value in packed.items():
        if isinstance(value, np.ndarray):
            setattr(task, name, value[()] if value.ndim == 0 else value.copy())
        else:
            setattr(task, name, value)
