"""Pictures of MuJoCo simulations without a window.

dm_control decides about its renderer once, when it is imported; here it is switched off then, since hardly any
process needs one. This renderer is independent of that decision. It draws without shadows and reflections, which
would cost most of the time where there is no graphics card.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
import sys
from typing import Any

import numpy as np

from plasticine.core.env import Array
from plasticine.errors import UserError

__all__ = ["OffscreenRenderer", "backend", "require_backend"]

#: Ways to draw without a window, in the order in which they are tried; values of MUJOCO_GL.
BACKENDS = ("egl", "osmesa") if sys.platform == "linux" else ("glfw",)
_PROBE = """
import sys, mujoco
context = __import__(f"mujoco.{sys.argv[1]}", fromlist=["GLContext"]).GLContext(16, 16)
context.make_current()
mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
print("drawn", flush=True)
__import__("os")._exit(0)
"""


@functools.cache
def _works(name: str) -> str:
    """Try a backend in a process of its own, as a graphics driver may crash; return what is wrong, or nothing."""
    # PyOpenGL, if something else has chosen for it, would refuse.
    environment = {k: v for k, v in os.environ.items() if k != "PYOPENGL_PLATFORM"}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", _PROBE, name],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return "no answer for a minute"
    if "drawn" in probe.stdout:
        return ""
    lines = [line.strip() for line in probe.stderr.splitlines() if line.strip()]
    return lines[-1] if lines else f"exit code {probe.returncode}"


def _candidates() -> tuple[str, ...]:
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    return (chosen,) if chosen in ("egl", "osmesa", "glfw") else BACKENDS


def backend() -> str | None:
    """The first way to draw that works on this machine (``MUJOCO_GL``, if it names one), None if there is none.

    Looking takes about a second, once in a process.
    """
    return next((name for name in _candidates() if not _works(name)), None)


def require_backend() -> str:
    """Return `backend`.

    Raises:
        UserError: There is none; says what to install.
    """
    found = backend()
    if found is None:
        reasons = "; ".join(f"{name}: {_works(name)}" for name in _candidates())
        raise UserError(
            f"MuJoCo cannot draw on this machine ({reasons})",
            "install a graphics library, e.g. `apt-get install libosmesa6` (without a graphics card) or libegl1 "
            "(with one), or set metrics.video=false",
        )
    return found


class OffscreenRenderer:
    """Draws one model.

    Args:
        model: ``mujoco.MjModel``.
        height, width: Size of the images.

    Attributes:
        size: Height and width.

    Raises:
        UserError: There is no way to draw on this machine.
    """

    def __init__(self, model: Any, height: int, width: int) -> None:
        import mujoco

        name = require_backend()
        if "OpenGL" not in sys.modules:  # else its choice has been made
            os.environ.pop("PYOPENGL_PLATFORM", None)
        self._mujoco, self._model = mujoco, model
        self.size = (height, width)
        # The model's own frame buffer may be smaller than the picture.
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self._gl = importlib.import_module(f"mujoco.{name}").GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(model, 2000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._options, self._camera = mujoco.MjvOption(), mujoco.MjvCamera()
        if model.ncam:
            self._camera.type, self._camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, 0
        else:
            mujoco.mjv_defaultFreeCamera(model, self._camera)
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._terrain = model.hfield_data.copy()
        self._image = np.zeros((height, width, 3), np.uint8)

    def draw(self, data: Any) -> Array:
        """RGB image [height, width, 3] of a state (``mujoco.MjData``), by the model's first camera if it has one."""
        mujoco, model, context = self._mujoco, self._model, self._context
        self._gl.make_current()
        if not np.array_equal(model.hfield_data, self._terrain):  # some tasks draw one for each episode
            for i in range(model.nhfield):
                mujoco.mjr_uploadHField(model, context, i)
            self._terrain = model.hfield_data.copy()
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(model, data, self._options, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, context)
        mujoco.mjr_readPixels(self._image, None, self._rect, context)
        return self._image[::-1].copy()  # OpenGL counts rows from below

    def close(self) -> None:
        """Free what the graphics library holds."""
        self._gl.make_current()
        self._context.free()
        self._gl.free()
