"""A faster search for the height at which a quadruped touches nothing, with the same outcome to the last bit.

The suite lifts the body centimetre by centimetre and simulates twice at each height, although only the number of
contacts is looked at: up to 20 ms an episode. Here the search computes contacts alone, and the height found is
then set as the suite does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np

__all__ = ["fast_height_search"]

_STEP = 0.01  # metres a try, as in the suite
_MOST_TRIES = 10_000


def fast_height_search(original: Callable[..., None]) -> Callable[..., None]:
    """Wrap ``quadruped._find_non_contacting_height``, which is called if no height is found."""

    def find(physics: Any, orientation: np.ndarray, x_pos: float = 0.0, y_pos: float = 0.0) -> None:
        model, data = physics.model.ptr, physics.data.ptr
        root = physics.named.data.qpos["root"]
        height = 0.0
        for _ in range(_MOST_TRIES):
            mujoco.mj_resetData(model, data)
            root[:3] = x_pos, y_pos, height
            root[3:] = orientation
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_collision(model, data)
            if data.ncon == 0:
                break
            height += _STEP
        else:
            original(physics, orientation, x_pos, y_pos)
            return
        with physics.reset_context():
            root[:3] = x_pos, y_pos, height
            root[3:] = orientation

    return find
