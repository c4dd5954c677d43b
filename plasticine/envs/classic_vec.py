"""Gymnasium's classic-control simulators stepped together, without wrappers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from plasticine.core.env import ActionSpec, Array, StepOut, VecEnv
from plasticine.envs.classic_draw import draw

__all__ = ["DOMAINS", "ClassicDomain", "ClassicVecEnv", "ObservationShift", "action_spec"]


@dataclass(frozen=True)
class ClassicDomain:
    """What Gymnasium registers for a simulator.

    Attributes:
        class_name: Class in ``gymnasium.envs.classic_control``.
        max_episode_steps: Time limit of the current registration.
        gravity: Attribute that holds the gravity; empty if the simulator has it hard-wired.
    """

    class_name: str
    max_episode_steps: int
    gravity: str

    def make(self) -> Any:
        """Build one simulator (never its renderer)."""
        import gymnasium.envs.classic_control as classic_control

        return getattr(classic_control, self.class_name)()


DOMAINS: dict[str, ClassicDomain] = {
    "cartpole": ClassicDomain("CartPoleEnv", 500, "gravity"),
    "acrobot": ClassicDomain("AcrobotEnv", 500, ""),
    "mountain_car": ClassicDomain("MountainCarEnv", 200, "gravity"),
    "mountain_car_continuous": ClassicDomain("Continuous_MountainCarEnv", 999, ""),
    "pendulum": ClassicDomain("PendulumEnv", 200, "g"),
}


@dataclass(frozen=True)
class ObservationShift:
    """Fixed change of the observation: entry i becomes ``obs[permutation[i]] + offset[i]``.

    Attributes:
        permutation: Source index of each entry; empty for none.
        offset: Constant added to each entry, in the units of the observation; empty for none.
    """

    permutation: tuple[int, ...] = ()
    offset: tuple[float, ...] = ()


class ClassicVecEnv(VecEnv):
    """`num_envs` copies of a classic-control simulator, stepped in a Python loop.

    Episodes end by the simulator's own termination or, after `max_episode_steps`, by truncation; the step
    that ends an episode returns the first observation of the next one.

    Args:
        domain: Key of `DOMAINS`.
        num_envs: Number of copies.
        seed: Seeds one independent stream of start states for each copy.
        shift: Change of the observations.
        gravity_scale: Factor on the simulator's gravity (1 leaves it alone).
    """

    exact_state: ClassVar[bool] = True

    def __init__(
        self, *, domain: str, num_envs: int, seed: int, shift: ObservationShift, gravity_scale: float
    ) -> None:
        self._domain = domain
        self._limit = DOMAINS[domain].max_episode_steps
        self._shift = shift
        self._sims: list[Any] = [DOMAINS[domain].make() for _ in range(num_envs)]
        for sim, child in zip(self._sims, np.random.SeedSequence(seed).spawn(num_envs), strict=True):
            sim.np_random = np.random.Generator(np.random.PCG64(child))
            if gravity_scale != 1.0:
                name = DOMAINS[domain].gravity
                setattr(sim, name, getattr(sim, name) * gravity_scale)
        self.steps_per_second = float(self._sims[0].metadata["render_fps"])
        self._elapsed = [0] * num_envs
        self._obs_size = int(self._sims[0].observation_space.shape[0])
        self._permutation = np.asarray(shift.permutation, dtype=np.intp) if shift.permutation else None
        self._offset = np.asarray(shift.offset, dtype=np.float32) if shift.offset else None
        space = self._sims[0].action_space
        self._bounds = None if hasattr(space, "n") else (space.low, space.high)
        self._current = np.zeros((num_envs, self._obs_size), dtype=np.float32)

    def reset(self) -> Array:
        """Start new episodes everywhere; observations [num_envs, d] float32."""
        raw = np.empty((len(self._sims), self._obs_size), dtype=np.float32)
        for i, sim in enumerate(self._sims):
            raw[i] = sim.reset()[0]
            self._elapsed[i] = 0
        self._current = self._observe(raw)
        return self._current

    def step(self, actions: Array) -> StepOut:
        """Advance every copy by one step; actions are clipped to the simulator's bounds."""
        num = len(self._sims)
        if len(actions) != num:
            raise ValueError(f"expected {num} actions, got {len(actions)}")
        batch: Sequence[Any]
        if self._bounds is None:
            batch = np.asarray(actions).reshape(num).tolist()
        else:
            batch = list(np.clip(np.asarray(actions, dtype=np.float32), *self._bounds))
        raw = np.empty((num, self._obs_size), dtype=np.float32)
        reward = np.empty(num, dtype=np.float32)
        terminated = np.zeros(num, dtype=np.bool_)
        truncated = np.zeros(num, dtype=np.bool_)
        last: Array | None = None
        for i, sim in enumerate(self._sims):
            raw[i], reward[i], ended, _, _ = sim.step(batch[i])
            self._elapsed[i] += 1
            if ended or self._elapsed[i] >= self._limit:
                terminated[i] = ended
                truncated[i] = not ended
                if last is None:
                    last = np.zeros_like(raw)
                last[i] = raw[i]
                raw[i] = sim.reset()[0]
                self._elapsed[i] = 0
        self._current = self._observe(raw)
        final = None if last is None else self._observe(last)
        return StepOut(self._current, reward, terminated, truncated, final)

    def _observe(self, raw: Array) -> Array:
        if self._permutation is not None:
            raw = raw[:, self._permutation]
        return raw if self._offset is None else raw + self._offset

    def state(self) -> dict[str, Any]:
        """Simulator states, elapsed steps and random states of all copies, and the current observations."""
        return {
            "sims": [np.array(sim.state) for sim in self._sims],
            "elapsed": list(self._elapsed),
            "random": [_pack_generator(sim.np_random) for sim in self._sims],
            "obs": self._current.copy(),
        }

    def load_state(self, state: dict[str, Any]) -> Array:
        """Go on from `state`, which must come from an environment of the same task and `num_envs`."""
        if len(state["sims"]) != len(self._sims):
            raise ValueError(f"state of {len(state['sims'])} environments, this has {len(self._sims)}")
        for i, sim in enumerate(self._sims):
            # Kept with its dtype: some simulators start in float64 and go on in float32.
            sim.state = np.array(state["sims"][i])
            if hasattr(sim, "steps_beyond_terminated"):
                sim.steps_beyond_terminated = None
            self._elapsed[i] = int(state["elapsed"][i])
            _unpack_generator(sim.np_random, state["random"][i])
        self._current = np.array(state["obs"], dtype=np.float32)
        return self._current

    def facts(self) -> dict[str, Any]:
        """Simulator, observation shift and gravity as they are in force."""
        facts: dict[str, Any] = {"domain": self._domain}
        if self._permutation is not None:
            facts["permutation"] = self._permutation.tolist()
        if self._offset is not None:
            facts["offset"] = [float(v) for v in self._offset]
        if DOMAINS[self._domain].gravity:
            facts["gravity"] = float(getattr(self._sims[0], DOMAINS[self._domain].gravity))
        return facts

    def render(self) -> Array:
        """RGB image [160, 240, 3] of the first simulator, whatever is done to the observations."""
        return draw(self._domain, self._sims[0])

    def close(self) -> None:
        """Close the simulators."""
        for sim in self._sims:
            sim.close()


def action_spec(sim: Any) -> ActionSpec:
    """Describe the action space of a Gymnasium simulator with a Discrete or a one-dimensional Box space."""
    space = sim.action_space
    if hasattr(space, "n"):
        return ActionSpec("discrete", int(space.n))
    low, high = (tuple(float(v) for v in side) for side in (space.low, space.high))
    return ActionSpec("continuous", int(space.shape[0]), low, high)


def _pack_generator(generator: np.random.Generator) -> dict[str, Any]:
    """State of a PCG64 generator; its 128-bit integers become text, which every file format can hold."""
    state = generator.bit_generator.state
    return {
        "state": str(state["state"]["state"]),
        "inc": str(state["state"]["inc"]),
        "has_uint32": int(state["has_uint32"]),
        "uinteger": int(state["uinteger"]),
    }


def _unpack_generator(generator: np.random.Generator, packed: dict[str, Any]) -> None:
    generator.bit_generator.state = {
        "bit_generator": "PCG64",
        "state": {"state": int(packed["state"]), "inc": int(packed["inc"])},
        "has_uint32": int(packed["has_uint32"]),
        "uinteger": int(packed["uinteger"]),
    }
