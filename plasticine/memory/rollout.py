"""Storage for one on-policy rollout."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plasticine.core.env import EnvSpec

__all__ = ["Rollout"]


class Rollout:
    """[steps, num_envs] transitions in preallocated arrays that numpy and torch share.

    Attributes:
        obs: Observations acted on [T, N, *obs_shape].
        actions: [T, N] int64 or [T, N, n] float32.
        rewards: [T, N] float32, the rewards to learn from.
        terminated, truncated: [T, N] bool; how the step ended its episode, if it did.
        valid: [T, N] bool; False for rows that are never learnt from.
        finals: (t, n, observation) of truncated episodes, whose value is still owed.
    """

    def __init__(self, env: EnvSpec, steps: int) -> None:
        n = env.num_envs
        dtype = torch.uint8 if env.obs_dtype == "uint8" else torch.float32
        self.obs = torch.zeros(steps, n, *env.obs_shape, dtype=dtype)
        discrete = env.action.kind == "discrete"
        shape = (steps, n) if discrete else (steps, n, env.action.n)
        self.actions = torch.zeros(shape, dtype=torch.int64 if discrete else torch.float32)
        self.rewards = torch.zeros(steps, n)
        self.terminated = torch.zeros(steps, n, dtype=torch.bool)
        self.truncated = torch.zeros(steps, n, dtype=torch.bool)
        self.valid = torch.ones(steps, n, dtype=torch.bool)
        self.finals: list[tuple[int, int, NDArray[Any]]] = []
        # Rows as separate views: slicing a tensor costs microseconds, indexing a list does not.
        self.obs_rows = list(self.obs.unbind(0))
        self.action_rows = list(self.actions.unbind(0))
        self._obs_np = [row.numpy() for row in self.obs_rows]
        self._actions_np = [row.numpy() for row in self.action_rows]
        self._rewards_np = self.rewards.numpy()
        self._terminated_np = self.terminated.numpy()
        self._truncated_np = self.truncated.numpy()
        self._valid_np = self.valid.numpy()
        self.t = 0

    def begin(self) -> None:
        """Start a new rollout."""
        self.t = 0
        self.finals.clear()

    def put_obs(self, obs: NDArray[Any]) -> Tensor:
        """Store the observations acted on at this step; return the stored row [N, *obs_shape]."""
        self._obs_np[self.t][...] = obs
        return self.obs_rows[self.t]

    def action_np(self) -> NDArray[Any]:
        """The stored actions of this step as numpy (shared memory)."""
        return self._actions_np[self.t]

    def record(
        self,
        reward: NDArray[Any],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_obs: NDArray[Any] | None,
        valid: NDArray[np.bool_] | None,
    ) -> None:
        """Store what followed, and move to the next step."""
        t = self.t
        self._rewards_np[t] = reward
        self._terminated_np[t] = terminated
        self._truncated_np[t] = truncated
        self._valid_np[t] = True if valid is None else valid
        if final_obs is not None:
            for i in np.flatnonzero(truncated & ~terminated):
                self.finals.append((t, int(i), final_obs[i].copy()))
        self.t = t + 1
