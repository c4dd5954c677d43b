"""Level of open-ended worlds: Craftax, where an agent that stops learning stops discovering."""

from __future__ import annotations

from typing import Any

from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec, Task, VecEnv
from plasticine.envs.craftax_jax import require_craftax
from plasticine.envs.craftax_sim import DOMAINS
from plasticine.envs.craftax_vec import CraftaxVecEnv
from plasticine.envs.stream import build_stream, check_count
from plasticine.errors import UserError, nearest

__all__ = ["OpenCraftax"]


class OpenCraftax(EnvLevel):
    """Craftax (arXiv 2402.16801): one task whose data change as the agent gets deeper into the world.

    Every episode is a new world. Rewards are raw: 1, 3, 5 or 8 for the first time an achievement is unlocked in
    an episode (always 1 in Classic), and a tenth of the change in health. Reaching the time limit truncates an
    episode; death, and victory over the last boss, terminate it.

    Args:
        domain: ``craftax_symbolic`` (8268 numbers, 43 actions), ``craftax_classic_symbolic`` (1345, 17),
            ``craftax_pixels`` (3 x 130 x 110) or ``craftax_classic_pixels`` (3 x 63 x 63).
        max_episode_steps: Time limit of an episode; None takes Craftax's (100,000, Classic 10,000).
        reset_batch: Worlds drawn in one call, 1 .. num_envs. Each serves one episode: no two share a world.
        each_achievement: Log the success rate of every single achievement, not only of the tiers.
        steps_per_task: Environment steps of the run, summed over environments.
        common: See `EnvLevel`.

    Raises:
        UserError: If craftax or jax is missing or too old, or a value is out of range.
    """

    level = "open"
    exact_state = True

    def __init__(
        self,
        *,
        domain: str,
        max_episode_steps: int | None,
        reset_batch: int,
        each_achievement: bool,
        steps_per_task: int,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        if domain not in DOMAINS:
            raise UserError(f"env.domain={domain!r} is unknown", nearest(str(domain), DOMAINS))
        require_craftax()
        variant = DOMAINS[domain]
        if max_episode_steps is None:
            max_episode_steps = variant.max_episode_steps
        self._limit = check_count("env.max_episode_steps", max_episode_steps)
        if check_count("env.reset_batch", reset_batch) > self.num_envs:
            raise UserError(
                f"env.reset_batch={reset_batch} draws more worlds than there are environments",
                f"set env.reset_batch={self.num_envs} or less",
            )
        self._domain = domain
        self._reset_batch = reset_batch
        self._each = each_achievement
        self._spec = EnvSpec(
            name=f"open_craftax/{domain}",
            obs_shape=variant.obs_shape,
            obs_dtype="uint8" if variant.pixels else "float32",
            action=ActionSpec("discrete", variant.actions),
            num_envs=self.num_envs,
            max_episode_steps=self._limit,
        )
        self._tasks = build_stream(
            [(domain, {})], cycles=1, order="sequential", steps_per_task=steps_per_task, stream_seed=0
        )

    def spec(self) -> EnvSpec:
        """Describe the spaces."""
        return self._spec

    def tasks(self) -> tuple[Task, ...]:
        """Return the single task."""
        return self._tasks

    def check_render(self) -> None:
        """Craftax brings all it needs."""

    def enter(self, task: Task, seed: int) -> VecEnv:
        """Prepare the worlds of `seed`.

        The first reset and step of a process compile: a minute, or seconds with the programs in the cache.
        """
        return CraftaxVecEnv(
            domain=self._domain,
            num_envs=self.num_envs,
            reset_batch=self._reset_batch,
            max_episode_steps=self._limit,
            each_achievement=self._each,
            seed=seed,
        )
