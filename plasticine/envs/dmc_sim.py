"""One dm_control task, stepped without the parts of dm_control that a learner does not need."""

from __future__ import annotations

import logging
import math
from typing import Any, Literal

import numpy as np

from plasticine.core.env import ActionSpec, Array
from plasticine.envs.dmc_render import OffscreenRenderer
from plasticine.envs.dmc_suite import load_task, require_suite

__all__ = ["DmcSim", "Dynamics", "Ending"]

_log = logging.getLogger(__name__)

#: How a step ended: the episode goes on, ended inside the task, or was cut.
Ending = Literal["", "terminated", "truncated"]
#: A change of the model: (property, value), see `plasticine.envs.dmc_dynamics`.
Dynamics = tuple[str, float]


class DmcSim:
    """A simulation with the observations, rewards and episode ends of ``suite.load(domain, task)``, bit by bit.

    Observations are the values of the task's observation dictionary in the order of its sorted keys, flattened
    and rounded to float32. Rewards are float64 and raw. An episode that reaches the time limit is truncated; it
    is terminated only where the task says that nothing follows (discount 0).

    If MuJoCo reports an invalid state (the simulation diverged), stock dm_control raises. Here the episode is
    truncated with reward 0 and the last valid observation, a warning is logged and `diverged` counts it.

    Args:
        domain, task: Names in the suite.
        seed: Source of the task's start states, and of its model where the domain draws one.
        dynamics: Change of the model, or ``None``.
    """

    def __init__(
        self, *, domain: str, task: str, seed: np.random.SeedSequence, dynamics: Dynamics | None
    ) -> None:
        require_suite()
        import mujoco
        from dm_control.rl import control
        from dm_control.suite import base

        from plasticine.envs import dmc_dynamics, dmc_state
        from plasticine.envs.dmc_index import cache_named_indices

        self._mujoco = mujoco
        self._dmc_state = dmc_state
        self._random = np.random.RandomState(np.random.MT19937(seed))
        env = load_task(domain, task, self._random)
        self.physics: Any = env.physics
        self.task: Any = env.task
        if dynamics is not None:
            dmc_dynamics.apply(self.physics, *dynamics)
        cache_named_indices(self.physics)
        self._model, self._data = self.physics.model.ptr, self.physics.data.ptr
        self._ctrl = self._data.ctrl
        self._warnings = self._data.warning.number
        self._substeps = round(env.control_timestep() / self.physics.timestep())
        self._limit: float = env._step_limit
        self._rk4 = self._model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4.value
        self._built = dmc_state.ModelSnapshot(self._model)
        # Methods that the task did not override do nothing beyond what `step` does itself.
        cls = type(self.task)
        self._own_before_step = cls.before_step is not base.Task.before_step
        self._own_after_step = cls.after_step is not base.Task.after_step
        self._own_termination = cls.get_termination is not control.Task.get_termination
        bounds = env.action_spec()
        self.low = np.broadcast_to(np.asarray(bounds.minimum, dtype=np.float64), bounds.shape).copy()
        self.high = np.broadcast_to(np.asarray(bounds.maximum, dtype=np.float64), bounds.shape).copy()
        self.steps_per_second = 1.0 / env.control_timestep()
        self._renderer: OffscreenRenderer | None = None
        self._steps = 0
        self._keys: list[str] = []
        self._to_flatten: list[int] = []  # positions in `_keys` of values that are no vectors
        self.diverged = 0

    @property
    def max_episode_steps(self) -> int | None:
        """Steps until an episode is truncated, ``None`` if the task has no time limit."""
        return None if math.isinf(self._limit) else math.ceil(self._limit)

    def action_spec(self) -> ActionSpec:
        """Describe the actuators."""
        low, high = (tuple(float(v) for v in side) for side in (self.low, self.high))
        return ActionSpec("continuous", len(low), low, high)

    def reset(self) -> Array:
        """Start an episode; observation float32 [n]."""
        self._steps = 0
        with self.physics.reset_context():
            self.task.initialize_episode(self.physics)
        parts = self.task.get_observation(self.physics)
        if not self._keys:
            self._keys = sorted(parts)
            self._to_flatten = [i for i, key in enumerate(self._keys) if np.ndim(parts[key]) != 1]
        return np.concatenate(self._vectors(parts)).astype(np.float32)

    def _vectors(self, parts: dict[str, Any]) -> list[Array]:
        values = [parts[key] for key in self._keys]
        for i in self._to_flatten:
            values[i] = np.asarray(values[i]).reshape(-1)
        return values

    def step(self, action: Array, obs: Array) -> tuple[float, Ending]:
        """Advance by one control step.

        Args:
            action: float64 [n] inside the bounds.
            obs: float32 [d], filled with the observation after the step (on divergence it is left as it is).

        Returns:
            The raw reward and how the episode ended, if it did. The caller resets.

        Raises:
            FloatingPointError: If the action is not finite.
        """
        physics, task, mujoco = self.physics, self.task, self._mujoco
        model, data = self._model, self._data
        if self._own_before_step:
            task.before_step(action, physics)
        else:
            self._ctrl[:] = action
        before = self._warnings.tobytes()
        if self._rk4:
            mujoco.mj_step(model, data, self._substeps)
        else:
            # The position and velocity stage of this state was computed at the end of the previous step.
            mujoco.mj_step2(model, data)
            if self._substeps > 1:
                mujoco.mj_step(model, data, self._substeps - 1)
        mujoco.mj_step1(model, data)
        self._steps += 1
        if self._warnings.tobytes() != before:
            return self._invalid(action, before)
        if self._own_after_step:
            task.after_step(physics)
        reward = task.get_reward(physics)
        values = self._vectors(task.get_observation(physics))
        np.concatenate(values, out=obs, casting="same_kind")
        if self._steps >= self._limit:
            return reward, "truncated"
        if self._own_termination:
            discount = task.get_termination(physics)
            if discount is not None:
                return reward, "terminated" if discount == 0.0 else "truncated"
        return reward, ""

    def _invalid(self, action: Array, before: bytes) -> tuple[float, Ending]:
        if not np.isfinite(action).all():
            raise FloatingPointError(f"the agent's action is not finite: {action}")
        counts = np.frombuffer(before, dtype=self._warnings.dtype)
        names = [n for n, more in zip(self._mujoco.mjtWarning.__members__, self._warnings > counts, strict=False)
                 if more]  # fmt: skip
        self.diverged += 1
        _log.warning(
            "simulation is invalid after %d steps (%s): episode truncated", self._steps, ", ".join(names)
        )
        return 0.0, "truncated"

    def state(self) -> dict[str, Any]:
        """Everything the following steps and episodes depend on, as plain data."""
        pack = self._dmc_state
        return {
            "physics": pack.physics_state(self._model, self._data),
            "changes": self._built.changes(),
            "task": pack.pack_task(self.task),
            "random": pack.pack_random(self._random),
            "steps": self._steps,
            "diverged": self.diverged,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from `state`, which must come from a simulation built with the same arguments."""
        unpack = self._dmc_state
        if not self._keys:
            self.reset()
        self._built.apply(state["changes"])
        unpack.unpack_task(self.task, state["task"])
        unpack.unpack_random(self._random, state["random"])
        unpack.restore_physics(self._model, self._data, state["physics"])
        self._steps = int(state["steps"])
        self.diverged = int(state["diverged"])

    def render(self, height: int, width: int) -> Array:
        """RGB image [height, width, 3] uint8 by the model's first camera.

        Raises:
            UserError: This machine cannot draw.
        """
        if self._renderer is None or self._renderer.size != (height, width):
            self._end_renderer()
            self._renderer = OffscreenRenderer(self._model, height, width)
        return self._renderer.draw(self._data)

    def _end_renderer(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def close(self) -> None:
        """Free the native memory."""
        self._end_renderer()
        self.physics.free()
