"""Craftax as three compiled functions over a batch: draw worlds, put them into places, step."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from plasticine.envs.craftax_jax import load_textures, make_simulator, require_jax

__all__ = ["DOMAINS", "CraftaxSim", "Domain", "load_sim"]

#: Names of the groups of achievements, by the reward of one of them.
TIERS = {1: "basic", 3: "intermediate", 5: "advanced", 8: "very_advanced"}

_NEVER = 2**31 - 1


@dataclass(frozen=True)
class Domain:
    """What is known of a variant without JAX.

    Attributes:
        simulator: Craftax's name of it.
        obs_shape: Shape of one observation; images are channel first.
        actions: Number of actions.
        max_episode_steps: Craftax's own time limit.
    """

    simulator: str
    obs_shape: tuple[int, ...]
    actions: int
    max_episode_steps: int

    @property
    def pixels(self) -> bool:
        """Whether observations are images."""
        return len(self.obs_shape) == 3


DOMAINS = {
    "craftax_symbolic": Domain("Craftax-Symbolic-v1", (8268,), 43, 100_000),
    "craftax_classic_symbolic": Domain("Craftax-Classic-Symbolic-v1", (1345,), 17, 10_000),
    "craftax_pixels": Domain("Craftax-Pixels-v1", (3, 130, 110), 43, 100_000),
    "craftax_classic_pixels": Domain("Craftax-Classic-Pixels-v1", (3, 63, 63), 17, 10_000),
}


class CraftaxSim:
    """The compiled functions of one variant. Arrays in and out live on JAX's device.

    Args:
        domain: The variant.
        reset_batch: Worlds drawn in one call.
    """

    def __init__(self, domain: Domain, reset_batch: int) -> None:
        jax = require_jax()
        self._jax = jax
        self._env = make_simulator(domain.simulator)
        self._pixels = domain.pixels
        self.domain = domain
        self.reset_batch = reset_batch
        self.device: str = jax.devices()[0].platform
        #: worlds(key, first, params) -> (state, obs) of worlds first .. first + reset_batch - 1
        self.worlds = jax.jit(self._worlds)
        #: place(state, worlds, slots, rows) -> state with worlds[slots] in rows; rows out of range are ignored
        self.place = jax.jit(self._place, donate_argnums=0)
        #: step(key, count, state, actions, params)
        #:   -> state, obs, reward, terminated, truncated, achievements before any reset
        self.step = jax.jit(self._step, donate_argnums=2)
        self._package = type(self._env).__module__.split(".envs.")[0]
        self._constants = constants = importlib.import_module(f"{self._package}.constants")
        names = {a.value: a.name.lower() for a in constants.Achievement}
        #: Names of the achievements in the order of the flags.
        self.achievements = [names[i] for i in range(len(names))]
        #: Reward of each achievement; Classic pays 1 for all.
        self.weights: NDArray[np.int64] = np.asarray(
            getattr(constants, "ACHIEVEMENT_REWARD_MAP", np.ones(len(names))), np.int64
        )

    def params(self, max_episode_steps: int) -> Any:
        """Parameters of the simulator with this time limit."""
        return self._env.default_params.replace(max_timesteps=np.int32(max_episode_steps))

    def empty(self, num_envs: int) -> Any:
        """Build a state of `num_envs` environments without content."""
        shapes = self._jax.eval_shape(self._worlds, np.zeros(2, np.uint32), np.int32(0), self.params(1))[0]
        return self._jax.tree.map(
            lambda leaf: self._jax.device_put(np.zeros((num_envs, *leaf.shape[1:]), leaf.dtype)), shapes
        )

    @functools.cached_property
    def picture(self) -> Callable[[Any], NDArray[np.uint8]]:
        """From a state, what a person sees of the first world: RGB [height, width, 3].

        The first use in an account prepares Craftax's textures, which takes a minute.
        """
        jax = self._jax
        load_textures(self._constants)
        renderer = importlib.import_module(f"{self._package}.renderer")
        draw = renderer.make_craftax_pixel_renderer(self._constants.BLOCK_PIXEL_SIZE_IMG)
        one = jax.jit(lambda state: draw(jax.tree.map(lambda leaf: leaf[0], state)))
        return lambda state: np.asarray(one(state)).round().clip(0, 255).astype(np.uint8)

    def pack(self, state: Any) -> dict[str, NDArray[Any]]:
        """Copy a state into numpy arrays by path. Whole numbers take as few bytes as their values need."""
        leaves = self._jax.tree_util.tree_leaves_with_path(state)
        return {self._jax.tree_util.keystr(path): _narrow(np.array(leaf)) for path, leaf in leaves}

    def unpack(self, packed: dict[str, NDArray[Any]], num_envs: int) -> Any:
        """Invert `pack`."""
        leaves, tree = self._jax.tree_util.tree_flatten_with_path(self.empty(num_envs))
        found = [
            self._jax.device_put(packed[self._jax.tree_util.keystr(p)].astype(leaf.dtype))
            for p, leaf in leaves
        ]
        return self._jax.tree_util.tree_unflatten(tree, found)

    def _observe(self, obs: Any) -> Any:
        if not self._pixels:
            return obs
        jnp = self._jax.numpy
        return jnp.round(obs * 255.0).astype(jnp.uint8).transpose(0, 3, 1, 2)

    def _worlds(self, key: Any, first: Any, params: Any) -> tuple[Any, Any]:
        jax = self._jax
        numbers = first + jax.numpy.arange(self.reset_batch)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        obs, state = jax.vmap(self._env.reset_env, in_axes=(0, None))(keys, params)
        return state, self._observe(obs)

    def _place(self, state: Any, worlds: Any, slots: Any, rows: Any) -> Any:
        return self._jax.tree.map(lambda s, w: s.at[rows].set(w[slots], mode="drop"), state, worlds)

    def _step(self, key: Any, count: Any, state: Any, actions: Any, params: Any) -> tuple[Any, ...]:
        jax = self._jax
        keys = jax.random.split(jax.random.fold_in(key, count), len(actions))
        stepped = jax.vmap(self._env.step_env, in_axes=(0, 0, 0, None))(keys, state, actions, params)
        obs, state, reward, done, _ = stepped
        # Craftax mixes the time limit into `done`; without a limit only death and victory are left.
        endless = params.replace(max_timesteps=_NEVER)
        terminated = jax.vmap(self._env.is_terminal, in_axes=(0, None))(state, endless)
        flags = state.achievements.astype(bool)
        reward = reward.astype(jax.numpy.float32)
        return state, self._observe(obs), reward, terminated, done & ~terminated, flags


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    if array.dtype == np.int32 and array.size:
        for small in (np.int8, np.int16):
            info = np.iinfo(small)
            if info.min <= array.min() and array.max() <= info.max:
                return array.astype(small)
    return array


@functools.lru_cache(maxsize=2)
def load_sim(domain: str, reset_batch: int) -> CraftaxSim:
    """Return the compiled functions of a variant, built once in this process."""
    return CraftaxSim(DOMAINS[domain], reset_batch)
