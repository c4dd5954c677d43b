"""Several dm_control simulations of one task, stepped one after the other in this process."""

from __future__ import annotations

import gc
from typing import Any, ClassVar

import numpy as np

from plasticine.core.env import ActionSpec, Array, StepOut, VecEnv
from plasticine.envs.dmc_sim import DmcSim, Dynamics
from plasticine.envs.dmc_suite import can_render

__all__ = ["DmcVecEnv"]

_IMAGE = (240, 320)  # height, width; the size dm_control renders by default


class DmcVecEnv(VecEnv):
    """`num_envs` independent simulations; a step that ends an episode returns the next one's first observation.

    Args:
        domain, task: Names in the suite.
        num_envs: Number of simulations.
        seed: Each simulation has its own stream of start states, spawned from this seed.
        dynamics: Change of the model, the same in all simulations, or ``None``.
    """

    exact_state: ClassVar[bool] = True

    def __init__(
        self, *, domain: str, task: str, num_envs: int, seed: int, dynamics: Dynamics | None
    ) -> None:
        self._domain, self._task = domain, task
        self._sims = [
            DmcSim(domain=domain, task=task, seed=child, dynamics=dynamics)
            for child in np.random.SeedSequence(seed).spawn(num_envs)
        ]
        self._low, self._high = self._sims[0].low, self._sims[0].high
        self._actions = np.empty((num_envs, len(self._low)), dtype=np.float64)
        self._obs: Array | None = None

    @property
    def max_episode_steps(self) -> int | None:
        """Steps until an episode is truncated, ``None`` if the task has no time limit."""
        return self._sims[0].max_episode_steps

    def action_spec(self) -> ActionSpec:
        """Describe the actuators."""
        return self._sims[0].action_spec()

    def reset(self) -> Array:
        """Start new episodes everywhere; observations [num_envs, d] float32."""
        self._obs = np.stack([sim.reset() for sim in self._sims])
        return self._obs

    def step(self, actions: Array) -> StepOut:
        """Advance every simulation by one control step; actions [num_envs, n] are clipped to the bounds."""
        before = self._obs
        if before is None:
            raise RuntimeError("call reset() or load_state() before step()")
        num = len(self._sims)
        if np.shape(actions) != self._actions.shape:
            raise ValueError(f"expected actions of shape {self._actions.shape}, got {np.shape(actions)}")
        # Clipped in float64, so that rounding cannot push a bound over the actuator's.
        self._actions[:] = actions
        np.maximum(self._actions, self._low, out=self._actions)
        np.minimum(self._actions, self._high, out=self._actions)
        # New arrays each step: what an earlier step returned stays valid.
        obs = before.copy()
        reward = np.empty(num, dtype=np.float32)
        terminated = np.zeros(num, dtype=np.bool_)
        truncated = np.zeros(num, dtype=np.bool_)
        final: Array | None = None
        for i, sim in enumerate(self._sims):
            reward[i], ending = sim.step(self._actions[i], obs[i])
            if ending:
                (terminated if ending == "terminated" else truncated)[i] = True
                if final is None:
                    final = np.zeros_like(obs)
                final[i] = obs[i]
                obs[i] = sim.reset()
        self._obs = obs
        return StepOut(obs, reward, terminated, truncated, final)

    def state(self) -> dict[str, Any]:
        """States of all simulations and the current observations."""
        if self._obs is None:
            raise RuntimeError("call reset() before state()")
        return {"sims": [sim.state() for sim in self._sims], "obs": self._obs.copy()}

    def load_state(self, state: dict[str, Any]) -> Array:
        """Go on from `state`, which must come from an environment of the same task, seed and `num_envs`."""
        if len(state["sims"]) != len(self._sims):
            raise ValueError(f"state of {len(state['sims'])} environments, this has {len(self._sims)}")
        for sim, part in zip(self._sims, state["sims"], strict=True):
            sim.load_state(part)
        self._obs = np.array(state["obs"], dtype=np.float32)
        return self._obs

    def facts(self) -> dict[str, Any]:
        """Task and physical properties read from the first simulation's model; episodes cut by divergence."""
        from plasticine.envs import dmc_dynamics

        return {
            "domain": self._domain,
            "task": self._task,
            **dmc_dynamics.read(self._sims[0].physics),
            "diverged": sum(sim.diverged for sim in self._sims),
        }

    def render(self) -> Array | None:
        """RGB image of the first simulation, ``None`` where ``MUJOCO_GL`` disables rendering."""
        return self._sims[0].render(*_IMAGE) if can_render() else None

    def close(self) -> None:
        """Free the simulators."""
        for sim in self._sims:
            sim.close()
        self._sims.clear()
        # dm_control's index classes hold the native memory in reference cycles: up to 100 MB a simulation.
        gc.collect()
