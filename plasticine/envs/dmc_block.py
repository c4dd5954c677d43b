"""A few dm_control simulations of one task that read their actions from arrays and write results into them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from plasticine.envs.dmc_sim import DmcSim, Dynamics

__all__ = ["GOES_ON", "TERMINATED", "TRUNCATED", "Rows", "SimBlock"]

#: Values of `Rows.ending`.
GOES_ON, TERMINATED, TRUNCATED = 0, 1, 2


class Rows(NamedTuple):
    """What goes in and out of a step, a row for each simulation.

    Attributes:
        actions: float64 [n, a], inside the bounds.
        obs: float32 [n, d], to act on next.
        final: float32 [n, d]; rows whose episode ended hold its last observation.
        reward: float32 [n].
        ending: uint8 [n]: `GOES_ON`, `TERMINATED` or `TRUNCATED`.
        diverged: int64 [n], episodes cut because the simulation diverged.
    """

    actions: NDArray[np.float64]
    obs: NDArray[np.float32]
    final: NDArray[np.float32]
    reward: NDArray[np.float32]
    ending: NDArray[np.uint8]
    diverged: NDArray[np.int64]

    @classmethod
    def size(cls, num: int, actions: int, obs: int) -> int:
        """Bytes that `inside` needs."""
        return num * (8 * actions + 2 * 4 * obs + 4 + 1 + 8)

    @classmethod
    def inside(cls, buffer: Any, num: int, actions: int, obs: int) -> Rows:
        """Lay the rows of `num` simulations out in a writable buffer of `size` bytes."""
        at = 0

        def take(dtype: type, *shape: int) -> NDArray[Any]:
            nonlocal at
            array: NDArray[Any] = np.ndarray(shape, dtype, buffer=buffer, offset=at)
            at += array.nbytes
            return array

        # Eight-byte numbers first, so that everything is aligned.
        wide, diverged = take(np.float64, num, actions), take(np.int64, num)
        now, final, reward = take(np.float32, num, obs), take(np.float32, num, obs), take(np.float32, num)
        return cls(wide, now, final, reward, take(np.uint8, num), diverged)

    def part(self, first: int, last: int) -> Rows:
        """Rows ``first:last``, sharing memory."""
        return Rows(
            self.actions[first:last],
            self.obs[first:last],
            self.final[first:last],
            self.reward[first:last],
            self.ending[first:last],
            self.diverged[first:last],
        )


class SimBlock:
    """Simulations `first` .. `last` - 1 of `num_envs`; which others exist, and where, changes nothing.

    Args:
        domain, task: Names in the suite.
        num_envs: Number of simulations of the whole vector.
        first, last: Which of them are here.
        seed: Each simulation has its own stream of start states, spawned from this seed.
        dynamics: Change of the model, the same in all simulations, or ``None``.
    """

    rows: Rows  # of these simulations; set before the first step

    def __init__(
        self,
        *,
        domain: str,
        task: str,
        num_envs: int,
        first: int,
        last: int,
        seed: int,
        dynamics: Dynamics | None,
    ) -> None:
        self.sims = [
            DmcSim(domain=domain, task=task, seed=child, dynamics=dynamics)
            for child in np.random.SeedSequence(seed).spawn(num_envs)[first:last]
        ]

    def reset(self) -> NDArray[np.float32]:
        """Start new episodes; observations [n, d]."""
        return np.stack([sim.reset() for sim in self.sims])

    def step(self) -> None:
        """Advance by one control step; where an episode ends, begin the next one."""
        actions, obs, final, reward, ending, diverged = self.rows
        for i, sim in enumerate(self.sims):
            reward[i], how = sim.step(actions[i], obs[i])
            if how:
                ending[i] = TERMINATED if how == "terminated" else TRUNCATED
                diverged[i] = sim.diverged
                final[i] = obs[i]
                obs[i] = sim.reset()
            else:
                ending[i] = GOES_ON

    def state(self) -> list[dict[str, Any]]:
        """States of the simulations."""
        return [sim.state() for sim in self.sims]

    def load_state(self, states: list[dict[str, Any]]) -> None:
        """Go on from `state`; the observations are the caller's part."""
        for i, (sim, state) in enumerate(zip(self.sims, states, strict=True)):
            sim.load_state(state)
            self.rows.diverged[i] = sim.diverged

    def properties(self) -> dict[str, float]:
        """Physical properties read from the first simulation's model."""
        from plasticine.envs import dmc_dynamics

        return dmc_dynamics.read(self.sims[0].physics)

    def close(self) -> None:
        """Free the native memory."""
        for sim in self.sims:
            sim.close()
        self.sims.clear()
