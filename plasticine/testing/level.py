"""A level that runs in microseconds and restores exactly."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec, StepOut, Task, VecEnv

__all__ = ["ToyLevel"]

_EPISODE = 8


class _ToyEnv(VecEnv):
    """A point on a circle is to be moved to the task's goal. One random number per environment and step."""

    exact_state: ClassVar = True

    def __init__(self, num_envs: int, actions: str, goal: float, image_size: int | None, seed: int) -> None:
        self._image_size = image_size
        self._discrete = actions == "discrete"
        self._goal = goal
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._x = np.zeros(num_envs)
        self._t = np.zeros(num_envs, np.int64)
        self._noise = np.zeros(num_envs)

    def _obs(self) -> NDArray[Any]:
        return self._numbers() if self._image_size is None else self._picture(self._image_size)

    def _picture(self, size: int) -> NDArray[np.uint8]:
        """The point as a bright spot, its clock as the grey of the background; the noise on a second channel."""
        line = np.linspace(-1.3, 1.3, size)
        far_x = line[None, None, :] - np.cos(self._x)[:, None, None]
        far_y = line[None, :, None] - np.sin(self._x)[:, None, None]
        spot = 200.0 * np.exp(-8.0 * (far_x**2 + far_y**2)) + 50.0 * (self._t / _EPISODE)[:, None, None]
        noise = np.broadcast_to(128.0 + 30.0 * np.clip(self._noise, -4, 4)[:, None, None], spot.shape)
        return np.stack((spot, noise), axis=1).astype(np.uint8)

    def _numbers(self) -> NDArray[np.float32]:
        columns = (np.cos(self._x), np.sin(self._x), self._noise, self._t / _EPISODE, np.ones_like(self._x))
        return np.stack(columns, axis=1).astype(np.float32)

    def reset(self) -> NDArray[Any]:
        """Start at angle 0."""
        self._x[...] = 0.0
        self._t[...] = 0
        self._noise = self._rng.standard_normal(self._x.shape[0])
        return self._obs()

    def step(self, actions: NDArray[Any]) -> StepOut:
        """Move by up to half a radian; an episode ends at the goal or after 8 steps."""
        push = actions - 1.0 if self._discrete else np.clip(actions[:, 0], -1.0, 1.0)
        self._x += 0.5 * push
        self._t += 1
        self._noise = self._rng.standard_normal(self._x.shape[0])
        reward = np.cos(self._x - self._goal)
        terminated = reward > 0.99
        truncated = ~terminated & (self._t >= _EPISODE)
        done = terminated | truncated
        final = self._obs() if done.any() else None
        self._x[done] = 0.0
        self._t[done] = 0
        return StepOut(self._obs(), reward.astype(np.float32), terminated, truncated, final)

    def state(self) -> dict[str, Any]:
        """Positions, clocks and the random stream."""
        return {
            "x": self._x.copy(),
            "t": self._t.copy(),
            "noise": self._noise.copy(),
            "rng": self._rng.bit_generator.state,
        }

    def load_state(self, state: dict[str, Any]) -> NDArray[Any]:
        """Restore `state`."""
        self._x[...] = state["x"]
        self._t[...] = state["t"]
        self._noise = np.array(state["noise"])
        self._rng.bit_generator.state = state["rng"]
        return self._obs()


class ToyLevel(EnvLevel):
    """A stream of goals on a circle. Observations are vectors of 5 numbers, or images of 2 channels.

    The environment draws the same random numbers whatever the agent does, so that two runs can be compared.

    Args:
        actions: ``discrete`` (3 of them) or ``continuous`` (2 components in -1..1).
        num_tasks, steps_per_task: Size of the stream, in environment steps summed over environments.
        image_size: Height and width of the images; None for vectors.
        common: See `EnvLevel`.
    """

    level = "continual"
    exact_state = True

    def __init__(
        self,
        *,
        actions: Literal["discrete", "continuous"],
        num_tasks: int,
        steps_per_task: int,
        image_size: int | None = None,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        self.actions = actions
        self.num_tasks = num_tasks
        self.steps_per_task = steps_per_task
        self.image_size = image_size

    def spec(self) -> EnvSpec:
        """Five observed numbers or an image; three actions or two components."""
        if self.actions == "discrete":
            action = ActionSpec("discrete", 3)
        else:
            action = ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))
        name, size = f"toy/{self.actions}", self.image_size
        if size is not None:
            return EnvSpec(name, (2, size, size), "uint8", action, self.num_envs, _EPISODE)
        return EnvSpec(name, (5,), "float32", action, self.num_envs, _EPISODE)

    def tasks(self) -> tuple[Task, ...]:
        """Goals one radian apart."""
        return tuple(
            Task(i, f"goal={i + 1}", self.steps_per_task, options={"goal": float(i + 1)})
            for i in range(self.num_tasks)
        )

    def enter(self, task: Task, seed: int) -> VecEnv:
        """Environments with the goal of `task`."""
        return _ToyEnv(self.num_envs, self.actions, task.options["goal"], self.image_size, seed)
