"""Uniform replay memory: a ring of observations in which every observation is stored once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from plasticine.core.env import EnvSpec
from plasticine.errors import UserError

__all__ = ["Replay", "Transitions"]

Array = NDArray[Any]


class Transitions(NamedTuple):
    """What was sampled: observations [n, *obs_shape], int64 [n] or float32 [n, k] actions, and [n] each."""

    obs: Tensor
    actions: Tensor
    rewards: Tensor
    next_obs: Tensor
    terminated: Tensor


class Replay:
    """The latest transitions of every environment.

    Each environment owns a ring of slots. An observation takes one slot; the one that follows it takes the next,
    so that it serves as next observation and as observation. At a time limit the final observation gets a slot of
    its own. Observations that are stacks of `frames` images take one slot per *new* image: where an observation is
    the one before moved on by one image, only that image is stored, otherwise (a new episode) all of them. What is
    sampled is equal to what was put in, whatever the observations look like.

    Rows that are never learnt from are not stored, nor is a transition that ends by truncation if the simulator
    does not tell its final observation.

    Args:
        env: Spaces and number of environments.
        capacity: Slots in all, shared evenly between the environments: one for each transition, and up to
            ``1 + frames`` more for each episode.
        frames: Images in one observation, oldest first along its first axis; 1 = store observations whole.
        device: Where observations, actions and rewards are kept.

    Attributes:
        stored: Transitions stored since the memory was last empty, those overwritten since included.
        transitions: Transitions that can be sampled now.
    """

    def __init__(self, env: EnvSpec, capacity: int, *, frames: int, device: torch.device) -> None:
        n = self._envs = env.num_envs
        length = self._length = capacity // n
        if length < 4 * frames:
            raise UserError(
                f"a memory of {capacity} slots is too small for {n} environments",
                f"set agent.capacity to {4 * frames * n} or more",
            )
        self._frames = frames
        self._obs_shape = env.obs_shape
        self._plane = env.obs_shape if frames == 1 else (env.obs_shape[0] // frames, *env.obs_shape[1:])
        discrete = env.action.kind == "discrete"
        slots = n * length
        stores = {
            "planes": np.zeros((slots, *self._plane), env.obs_dtype),
            "actions": np.zeros(slots, np.int64) if discrete else np.zeros((slots, env.action.n), np.float32),
            "rewards": np.zeros(slots, np.float32),
            "terminated": np.zeros(slots, bool),
        }  # numpy's zeros take no memory before they are written
        self._device = device
        self._stores = {k: torch.from_numpy(v).to(device) for k, v in stores.items()}
        self._host = {k: v.numpy() for k, v in self._stores.items()} if device.type == "cpu" else None
        # Slots from an observation to the one that follows; 0 = no transition begins here.
        self._jump = np.zeros((n, length), np.int8)
        self._flat_jump = self._jump.reshape(-1)
        self._lanes = np.arange(n)
        self._bases = self._lanes * length
        self._reach = np.arange(frames)
        self._back = torch.arange(1 - frames, 1)
        self._last = np.zeros((n, *env.obs_shape), env.obs_dtype)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._jump[...] = 0
        self._written = np.zeros(self._envs, np.int64)  # slots ever written, by environment
        self._open = np.full(self._envs, -1)  # position of a transition that waits for its next observation
        self._known = False  # whether `_last` is the newest observation, and belongs to no transition yet
        self.stored = 0
        self.transitions = 0

    # -- writing ---------------------------------------------------------------------------------------------
    def observe(self, obs: Array) -> None:
        """Store observations [num_envs, *obs_shape] to act on next; the ones just stored may be given again.

        Others than those, without a step in between, belong to new episodes (another task, a simulator that began
        anew): they follow nothing.
        """
        if self._known and np.array_equal(obs, self._last):
            return
        self._append(obs, self._lanes)
        waiting = self._open >= 0
        if waiting.any():
            self._link(self._lanes[waiting], self._open[waiting])
            self._open[...] = -1
        self._known = True

    def _append(self, obs: Array, lanes: Array) -> None:
        """Store one observation of each of these environments."""
        frames = self._frames
        if frames == 1:
            self._write(obs, lanes)
        else:
            k = self._plane[0]
            moved = (obs[:, :-k] == self._last[lanes, k:]).reshape(len(lanes), -1).all(1)
            moved &= self._written[lanes] > 0
            stack = obs.reshape(len(lanes), frames, *self._plane)
            if not moved.all():
                for i in range(frames - 1):
                    self._write(stack[~moved, i], lanes[~moved])
            self._write(stack[:, -1], lanes)
        self._last[lanes] = obs

    def _write(self, planes: Array, lanes: Array) -> None:
        at = self._written[lanes] % self._length
        self._put("planes", self._bases[lanes] + at, planes)
        # The slot's old content is gone: so are the transitions that read it, as their own or as a part of a stack.
        gone = self._bases[lanes][:, None] + (at[:, None] + self._reach) % self._length
        self.transitions -= int(np.count_nonzero(self._flat_jump[gone]))
        self._flat_jump[gone] = 0
        self._written[lanes] += 1

    def _put(self, store: str, slots: Array, values: Array) -> None:
        if self._host is not None:
            self._host[store][slots] = values
        else:
            index = torch.from_numpy(slots).to(self._device)
            self._stores[store][index] = torch.from_numpy(np.ascontiguousarray(values)).to(self._device)

    def _link(self, lanes: Array, positions: Array) -> None:
        """Transitions at these positions lead to the newest observation."""
        steps = (self._written[lanes] - 1 - positions) % self._length
        self._jump[lanes, positions] = steps
        self.transitions += len(lanes)
        self.stored += len(lanes)

    def record(
        self,
        actions: Array,
        reward: Array,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        final_obs: Array | None,
        valid: NDArray[np.bool_] | None,
    ) -> None:
        """Store what followed the observations stored last (see `plasticine.core.agent.Agent.record`).

        Args:
            actions: [num_envs] or [num_envs, k], those to learn from.
            terminated: [num_envs]; nothing that follows has value, whether or not the episode goes on.
        """
        at = (self._written - 1) % self._length
        slots = self._bases + at
        self._put("actions", slots, actions)
        self._put("rewards", slots, reward)
        self._put("terminated", slots, terminated)
        self._open[...] = at
        self._known = False
        if valid is not None:
            self._open[~valid] = -1
        cut = truncated & ~terminated & (self._open >= 0)
        if cut.any():
            if final_obs is not None:
                lanes = self._lanes[cut]
                self._append(final_obs[cut], lanes)
                self._link(lanes, self._open[cut])
            self._open[cut] = -1

    # -- reading ---------------------------------------------------------------------------------------------
    def sample(self, count: int, generator: Generator, device: torch.device) -> Transitions:
        """Draw transitions uniformly, with replacement. The memory must hold at least one."""
        span = int(min(self._length, self._written.max()))
        drawn = self._draw(
            2 * count, span, generator
        )  # more than needed: the slots between episodes hold nothing
        picks = drawn[self._flat_jump[drawn] > 0]
        if len(picks) < count:
            # From a stream of its own, so that what is drawn from the given one never depends on what is stored.
            generator = Generator().manual_seed(int(drawn @ np.arange(1, len(drawn) + 1)))
        while len(picks) < count:
            more = self._draw(2 * count, span, generator)
            picks = np.concatenate((picks, more[self._flat_jump[more] > 0]))
        return self._gather(picks[:count], device)

    def _draw(self, count: int, span: int, generator: Generator) -> NDArray[np.int64]:
        picks = torch.randint(self._envs * span, (count,), generator=generator).numpy()
        if span == self._length or self._envs == 1:
            return picks
        return picks // span * self._length + picks % span

    def distinct(self, count: int, generator: Generator, device: torch.device) -> Transitions:
        """Draw up to `count` transitions uniformly, without replacement."""
        rows = np.flatnonzero(self._flat_jump)
        order = torch.randperm(len(rows), generator=generator)[:count].numpy()
        return self._gather(rows[order], device)

    def _gather(self, picks: NDArray[np.int64], device: torch.device) -> Transitions:
        lane = picks - picks % self._length if self._envs > 1 else 0
        follows = lane + (picks - lane + self._flat_jump[picks]) % self._length
        index = torch.from_numpy(picks).to(self._device)
        rows = [
            self._stores[k].index_select(0, index).to(device) for k in ("actions", "rewards", "terminated")
        ]
        obs, next_obs = (self._observations(p, lane).to(device) for p in (picks, follows))
        return Transitions(obs, rows[0], rows[1], next_obs, rows[2])

    def _observations(self, slots: NDArray[np.int64], lane: Array | int) -> Tensor:
        planes = self._stores["planes"]
        if self._frames == 1:
            return planes.index_select(0, torch.from_numpy(slots).to(self._device))
        within = torch.from_numpy(slots - lane)[:, None] + self._back
        start = torch.as_tensor(lane)[:, None] if self._envs > 1 else 0
        index = (start + within % self._length).flatten().to(self._device)
        return planes.index_select(0, index).view(len(slots), *self._obs_shape)

    # -- saving ----------------------------------------------------------------------------------------------
    def state(self) -> dict[str, Any]:
        """Contents and positions; what was never written is left out."""
        span = int(min(self._length, self._written.max()))
        stores = {k: v.view(self._envs, self._length, *v.shape[1:]) for k, v in self._stores.items()}
        full = span == self._length  # then nothing needs to be copied
        return {
            "stores": {k: v if full else v[:, :span].clone() for k, v in stores.items()},
            "jump": self._jump[:, :span].copy(),
            "written": self._written.copy(),
            "open": self._open.copy(),
            "known": self._known,
            "last": self._last.copy(),
            "stored": self.stored,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        span = state["jump"].shape[1]
        for k, v in self._stores.items():
            v.view(self._envs, self._length, *v.shape[1:])[:, :span].copy_(state["stores"][k])
        self._jump[...] = 0
        self._jump[:, :span] = state["jump"]
        self._written[...] = state["written"]
        self._open[...] = state["open"]
        self._known = bool(state["known"])
        self._last[...] = state["last"]
        self.stored = int(state["stored"])
        self.transitions = int(np.count_nonzero(self._jump))
