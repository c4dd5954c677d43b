"""Craftax worlds stepped together, with their final observations kept and their achievements counted."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from plasticine.core.env import Array, StepOut, VecEnv
from plasticine.envs.craftax_jax import require_craftax
from plasticine.envs.craftax_sim import TIERS, load_sim

__all__ = ["CraftaxVecEnv"]


class CraftaxVecEnv(VecEnv):
    """`num_envs` worlds of one Craftax variant.

    Craftax's own automatic reset draws a new world for every environment at every step and drops the last
    observation. Here worlds are drawn `reset_batch` at a time when one is needed, and each is used once: world
    number w of a seed is the same whoever gets it, and no two episodes start in the same world.

    Args:
        domain: Key of `plasticine.envs.craftax_sim.DOMAINS`.
        num_envs: Worlds stepped together.
        reset_batch: Worlds drawn in one call.
        max_episode_steps: Time limit; an episode that reaches it is truncated.
        each_achievement: Whether `episode_extras` also lists every achievement.
        seed: Seed of worlds and of everything that happens in them.
    """

    exact_state: ClassVar[bool] = True
    steps_per_second = 8.0

    def __init__(
        self,
        *,
        domain: str,
        num_envs: int,
        reset_batch: int,
        max_episode_steps: int,
        each_achievement: bool,
        seed: int,
    ) -> None:
        self._sim = sim = load_sim(domain, reset_batch)
        self._num_envs = num_envs
        self._limit = max_episode_steps
        self._params = sim.params(max_episode_steps)
        self._each = each_achievement
        # Two raw keys: of the worlds, and of what happens in them.
        self._keys = np.random.SeedSequence(seed).generate_state(4, np.uint32).reshape(2, 2)
        self._world = 0  # number of the next world
        self._batch = -1  # which batch of worlds `_fresh` holds
        self._fresh: Any = None
        self._count = 0  # steps taken
        self._state = sim.empty(num_envs)
        self._obs: Array = np.zeros(0)
        self._returns = np.zeros(num_envs)
        self._restart_tally()

    def _restart_tally(self) -> None:
        self._episodes = 0
        self._return_sum = 0.0
        self._unlocked = np.zeros(len(self._sim.achievements), np.int64)

    def reset(self) -> Array:
        """Start every environment in a world of its own."""
        self._obs = np.zeros((self._num_envs, *self._sim.domain.obs_shape), self._dtype)
        self._renew(np.arange(self._num_envs), self._obs)
        self._returns[...] = 0.0
        return self._obs

    @property
    def _dtype(self) -> type:
        return np.uint8 if self._sim.domain.pixels else np.float32

    def _renew(self, rows: NDArray[np.int64], obs: Array) -> None:
        """Put the next worlds into the environments `rows` and their observations into `obs`."""
        size = self._sim.reset_batch
        while len(rows):
            batch, slot = divmod(self._world, size)
            if batch != self._batch:
                self._fresh = self._sim.worlds(self._keys[0], np.int32(batch * size), self._params)
                self._batch = batch
            worlds, first = self._fresh
            now, rows = rows[: size - slot], rows[size - slot :]
            taken = np.arange(slot, slot + len(now))
            slots = np.zeros(size, np.int32)
            places = np.full(size, self._num_envs, np.int32)  # out of range: dropped
            slots[: len(now)], places[: len(now)] = taken, now
            self._state = self._sim.place(self._state, worlds, slots, places)
            obs[now] = np.asarray(first)[taken]
            self._world += len(now)

    def step(self, actions: Array) -> StepOut:
        """Take one action in every world; arrays returned are views of the simulator's."""
        self._state, *out = self._sim.step(
            self._keys[1], np.uint32(self._count), self._state, actions.astype(np.int32), self._params
        )
        obs, reward, terminated, truncated, unlocked = (np.asarray(array) for array in out)
        self._count += 1
        self._returns += reward
        final, done = None, terminated | truncated
        if done.any():
            final, obs = obs, obs.copy()
            self._tally(done, unlocked)
            self._renew(np.flatnonzero(done), obs)
        self._obs = obs
        return StepOut(obs, reward, terminated, truncated, final)

    def _tally(self, done: NDArray[np.bool_], unlocked: NDArray[np.bool_]) -> None:
        self._episodes += int(done.sum())
        self._return_sum += float(self._returns[done].sum())
        self._unlocked += unlocked[done].sum(axis=0)
        self._returns[done] = 0.0

    def episode_extras(self) -> dict[str, float]:
        """Percentages over the episodes that ended since the last call.

        ``score``: return as a share of what all achievements pay (226; Classic 22). ``success_<tier>``: how many
        of the tier's achievements an episode unlocked. ``success/<achievement>``: in how many episodes it was
        unlocked. ``achievements`` is no percentage but their mean number.
        """
        if not self._episodes:
            return {}
        weights, rates = self._sim.weights, 100.0 * self._unlocked / self._episodes
        extras = {
            "score": 100.0 * self._return_sum / self._episodes / int(weights.sum()),
            "achievements": float(rates.sum() / 100.0),
        }
        extras |= {
            f"success_{tier}": float(rates[weights == pay].mean())
            for pay, tier in TIERS.items()
            if pay in weights
        }
        if self._each:
            named = zip(self._sim.achievements, rates, strict=True)
            extras |= {f"success/{name}": float(rate) for name, rate in named}
        self._restart_tally()
        return extras

    def state(self) -> dict[str, Any]:
        """Worlds, random streams, running returns and the tally."""
        return {
            "worlds": self._sim.pack(self._state),
            "keys": self._keys.copy(),
            "world": self._world,
            "count": self._count,
            "obs": self._obs.copy(),
            "returns": self._returns.copy(),
            "episodes": self._episodes,
            "return_sum": self._return_sum,
            "unlocked": self._unlocked.copy(),
        }

    def load_state(self, state: dict[str, Any]) -> Array:
        """Restore `state` and return the observations to act on."""
        self._state = self._sim.unpack(state["worlds"], self._num_envs)
        self._keys = np.array(state["keys"])
        self._world, self._batch = int(state["world"]), -1
        self._count = int(state["count"])
        self._obs = np.array(state["obs"])
        self._returns = np.array(state["returns"])
        self._episodes = int(state["episodes"])
        self._return_sum = float(state["return_sum"])
        self._unlocked = np.array(state["unlocked"])
        return self._obs

    def facts(self) -> dict[str, Any]:
        """The simulator, its versions and device, and what can be earned in it."""
        return {
            "simulator": self._sim.domain.simulator,
            "device": self._sim.device,
            "max_episode_steps": self._limit,
            "achievements": len(self._sim.achievements),
            "max_return": int(self._sim.weights.sum()),
            **require_craftax(),
        }

    def render(self) -> Array | None:
        """RGB image of the first world; ``None`` before the first reset. The variants do not differ in it."""
        return self._sim.picture(self._state) if len(self._obs) else None
