"""What every environment level must do, as checks that run on any `EnvLevel`.

Write ``check_env_level(MyLevel(...))`` in a test of a new level. The checks drive the environments with actions
that depend only on the spec and a seed, and raise `ContractError` with the promise that was broken.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from plasticine.core.env import Array, EnvLevel, EnvSpec, StepOut, Task, VecEnv

__all__ = [
    "ContractError",
    "Trace",
    "check_env_level",
    "check_episode_end",
    "check_plain",
    "check_seeding",
    "check_state",
    "check_stream",
    "check_switch",
    "check_tasks",
    "record",
    "scripted_actions",
]


class ContractError(AssertionError):
    """A level broke a promise of `plasticine.core.env`."""


def _require(holds: Any, promise: str) -> None:
    if not holds:
        raise ContractError(promise)


def scripted_actions(spec: EnvSpec, steps: int, seed: int) -> Array:
    """Draw actions: int64 [steps, num_envs], or float32 [steps, num_envs, n] inside the bounds.

    Unbounded components are drawn from -1..1.
    """
    rng = np.random.default_rng(seed)
    if spec.action.kind == "discrete":
        return rng.integers(0, spec.action.n, size=(steps, spec.num_envs))
    low = np.where(np.isinf(spec.action.low), -1.0, spec.action.low)
    high = np.where(np.isinf(spec.action.high), 1.0, spec.action.high)
    return rng.uniform(low, high, size=(steps, spec.num_envs, spec.action.n)).astype(np.float32)


@dataclass
class Trace:
    """What happened when `record` drove an environment.

    Attributes:
        obs: [steps, num_envs, *obs_shape] after each step.
        reward, terminated, truncated: [steps, num_envs].
        finals: (step, environment, final observation) of each episode end with a final observation.
        episodes: (environment, return, length) of each episode that ended, the return in float64.
    """

    obs: Array
    reward: Array
    terminated: Array
    truncated: Array
    life_lost: Array
    finals: list[tuple[int, int, Array]] = field(default_factory=list)
    episodes: list[tuple[int, float, int]] = field(default_factory=list)

    def same(self, other: Trace) -> bool:
        """Whether both are equal to the last bit."""
        return (
            all(
                np.array_equal(getattr(self, name), getattr(other, name))
                for name in ("obs", "reward", "terminated", "truncated", "life_lost")
            )
            and len(self.finals) == len(other.finals)
            and all(
                a[:2] == b[:2] and np.array_equal(a[2], b[2])
                for a, b in zip(self.finals, other.finals, strict=True)
            )
        )


def record(env: VecEnv, spec: EnvSpec, actions: Array) -> Trace:
    """Step through `actions` [steps, num_envs, ...]; the environment must have been reset or restored."""
    steps, num = len(actions), spec.num_envs
    trace = Trace(
        np.empty((steps, num, *spec.obs_shape), dtype=spec.obs_dtype),
        np.empty((steps, num), dtype=np.float32),
        np.empty((steps, num), dtype=np.bool_),
        np.empty((steps, num), dtype=np.bool_),
        np.zeros((steps, num), dtype=np.bool_),
    )
    returns, lengths = np.zeros(num), np.zeros(num, dtype=np.int64)
    for i, action in enumerate(actions):
        out = env.step(action)
        _check_out(out, spec)
        trace.obs[i], trace.reward[i] = out.obs, out.reward
        trace.terminated[i], trace.truncated[i] = out.terminated, out.truncated
        if out.life_lost is not None:
            trace.life_lost[i] = out.life_lost
        returns += out.reward
        lengths += 1
        for e in np.flatnonzero(out.terminated | out.truncated).tolist():
            if out.final_obs is not None:
                trace.finals.append((i, e, out.final_obs[e].copy()))
            trace.episodes.append((e, float(returns[e]), int(lengths[e])))
            returns[e], lengths[e] = 0.0, 0
    return trace


def _check_out(out: StepOut, spec: EnvSpec) -> None:
    _check_obs(out.obs, spec, "step().obs")
    wanted = {"reward": np.float32, "terminated": np.bool_, "truncated": np.bool_}
    if out.life_lost is not None:
        wanted["life_lost"] = np.bool_
    for name, dtype in wanted.items():
        array = getattr(out, name)
        _require(
            isinstance(array, np.ndarray) and array.dtype == dtype and array.shape == (spec.num_envs,),
            f"step().{name} must be a {np.dtype(dtype).name} array of shape ({spec.num_envs},)",
        )
    _require(np.isfinite(out.reward).all(), "rewards must be finite")
    _require(not (out.terminated & out.truncated).any(), "a step cannot be terminated and truncated at once")
    if out.life_lost is not None:
        _require(out.life_lost.any(), "life_lost is None unless a life was lost")
        _require(
            not (out.life_lost & (out.terminated | out.truncated)).any(),
            "life_lost is False where the episode ended",
        )
    if out.final_obs is not None:
        _check_obs(out.final_obs, spec, "step().final_obs")
        _require((out.terminated | out.truncated).any(), "final_obs is None unless an episode ended")


def _check_obs(obs: Any, spec: EnvSpec, what: str) -> None:
    shape = (spec.num_envs, *spec.obs_shape)
    _require(
        isinstance(obs, np.ndarray) and obs.shape == shape and obs.dtype == np.dtype(spec.obs_dtype),
        f"{what} must be a {spec.obs_dtype} array of shape {shape}, not "
        f"{getattr(obs, 'dtype', type(obs).__name__)} {getattr(obs, 'shape', '')}",
    )
    _require(np.isfinite(obs).all(), f"{what} must be finite")


def check_stream(level: EnvLevel) -> None:
    """The stream is finite, ordered, fixed in advance, starts at task 0 and consists of plain data."""
    tasks = level.tasks()
    _require(tasks, "a stream has at least one task")
    _require(tasks == level.tasks() and level.spec() == level.spec(), "tasks() and spec() never change")
    _require([t.index for t in tasks] == list(range(len(tasks))), "Task.index counts from 0")
    visits: dict[str, int] = {}
    for task in tasks:
        _require(task.name, "a task has a name")
        _require(task.env_steps >= 1, "a task lasts at least one step")
        _require(task.visit == visits.get(task.name, 0), f"{task.name}: visit counts the earlier visits")
        visits[task.name] = task.visit + 1
        options = dict(task.options)
        _require(json.loads(json.dumps(options)) == options, f"{task.name}: options must be plain data")
    spec = level.spec()
    _require(spec.num_envs == level.num_envs >= 1, "the spec has the level's num_envs")
    _require("/" in spec.name, "EnvSpec.name is <level>/<domain>")
    if spec.action.kind == "continuous":
        _require(
            len(spec.action.low) == len(spec.action.high) == spec.action.n, "continuous actions have bounds"
        )


def _distinct(level: EnvLevel) -> list[Task]:
    return list({task.name: task for task in reversed(level.tasks())}.values())[::-1]


def _held_out(level: EnvLevel) -> list[Task]:
    found = []
    for task in _distinct(level):
        for name, variant in level.evaluations(task).items():
            where = f"{task.name}: the evaluation {name!r}"
            _require(re.fullmatch(r"[A-Za-z0-9_.\-]+", name), f"{where} is named by letters, digits and _.-")
            _require(name != "training_task", f"{where} has the name of the task itself")
            _require(variant.options != task.options, f"{where} differs from the task in its options")
            found.append(variant)
    return found


def check_tasks(level: EnvLevel, *, steps: int = 20, seed: int = 0) -> None:
    """Every task of the stream, and what is held out for evaluation, has the spaces of the spec in shape and type."""
    spec = level.spec()
    for task in [*_distinct(level), *_held_out(level)]:
        env = level.enter(task, seed)
        _check_obs(env.reset(), spec, f"{task.name}: reset()")
        record(env, spec, scripted_actions(spec, steps, seed))
        _require(level.spec() == spec, "entering a task must not change the spec")
        env.close()


def _run(level: EnvLevel, task: Task, seed: int, actions: Array) -> tuple[Array, Trace]:
    env = level.enter(task, seed)
    first = env.reset().copy()
    trace = record(env, level.spec(), actions)
    env.close()
    return first, trace


def check_seeding(level: EnvLevel, *, steps: int = 50, seed: int = 3, random: bool = True) -> None:
    """The same (task, seed) gives the same stream, another seed and another environment another one.

    Args:
        level: The level; its first task is played.
        steps: Steps compared.
        seed: Seed of the environment and the actions.
        random: False if the task leaves nothing to chance: then the seed must change nothing.
    """
    task, spec = level.tasks()[0], level.spec()
    actions = scripted_actions(spec, steps, seed)
    first, trace = _run(level, task, seed, actions)
    first_again, again = _run(level, task, seed, actions)
    _require(np.array_equal(first, first_again) and trace.same(again), "the same seed gives the same stream")
    first_other, other = _run(level, task, seed + 1, actions)
    if not random:
        _require(
            np.array_equal(first, first_other) and trace.same(other), "a task without chance ignores the seed"
        )
        return
    _require(
        not (np.array_equal(first, first_other) and trace.same(other)), "another seed gives another stream"
    )
    if spec.num_envs > 1:
        _require(not np.array_equal(first[0], first[1]), "environments have independent streams")


def check_switch(level: EnvLevel, *, seed: int = 0) -> None:
    """Two tasks of different names differ in what `VecEnv.facts` reads back from the simulator."""
    seen: dict[str, str] = {}
    for task in _distinct(level):
        env = level.enter(task, seed)
        env.reset()
        facts = env.facts()
        env.close()
        _require(
            isinstance(facts, Mapping) and facts, f"{task.name}: facts() reports what the simulator runs"
        )
        text = json.dumps(facts, sort_keys=True)
        _require(text not in seen, f"{task.name} and {seen.get(text)} are the same in the simulator: {text}")
        seen[text] = task.name


def check_episode_end(level: EnvLevel, *, steps: int, seed: int = 0) -> None:
    """Episodes end in `steps` steps, within the time limit, and the final observation is not the next first.

    Args:
        level: The level; its first task is played.
        steps: Steps to play; at least one episode must end in them.
        seed: Seed of the environment and the actions.
    """
    spec = level.spec()
    _, trace = _run(level, level.tasks()[0], seed, scripted_actions(spec, steps, seed))
    _require(trace.episodes, f"no episode ended in {steps} steps: raise `steps`")
    if spec.max_episode_steps is not None:
        longest = max(length for _, _, length in trace.episodes)
        _require(longest <= spec.max_episode_steps, f"an episode of {longest} steps exceeds the time limit")
    if spec.autoreset == "same_step":
        for step, env, final in trace.finals:
            _require(
                not np.array_equal(final, trace.obs[step, env]),
                "final_obs is the last observation of the episode, obs the first of the next one",
            )


def check_state(level: EnvLevel, *, before: int = 30, after: int = 60, seed: int = 5) -> None:
    """`VecEnv.state` restores the simulator exactly into a new environment (if ``exact_state``).

    Args:
        level: The level; its last task is played.
        before: Steps until the state is taken.
        after: Steps compared; choose them so that an episode ends in between.
        seed: Seed of the environment and the actions.
    """
    spec, task = level.spec(), level.tasks()[-1]
    actions = scripted_actions(spec, before + after, seed)
    env = level.enter(task, seed)
    _require(
        level.exact_state == env.exact_state,
        f"EnvLevel.exact_state={level.exact_state}, but its environments say {env.exact_state}",
    )
    env.reset()
    # Not the first episode after entering, which a new environment would repeat without any state.
    current = env.reset().copy()
    if before:
        current = record(env, spec, actions[:before]).obs[-1]
    state = env.state()
    if not env.exact_state:
        _require(state == {}, "an environment without exact_state returns an empty state")
        env.close()
        return
    check_plain(state)
    expected = record(env, spec, actions[before:])
    env.close()
    for reset_first in (False, True):
        other = level.enter(task, seed)
        if reset_first:  # a restored environment may have lived before
            other.reset()
            record(other, spec, actions[: before // 2])
        obs = other.load_state(state)
        _check_obs(obs, spec, "load_state()")
        _require(
            obs is not None and np.array_equal(obs, current),
            "load_state() returns the observation to act on next",
        )
        found = record(other, spec, actions[before:])
        _require(expected.same(found), "a restored environment goes on exactly as the saved one")
        other.close()


def check_plain(state: Any, path: str = "state") -> None:
    """A state consists of nested dicts and lists of numpy arrays, str, int, float and bool."""
    if isinstance(state, dict):
        for key, value in state.items():
            _require(isinstance(key, str), f"{path}: keys are texts")
            check_plain(value, f"{path}.{key}")
    elif isinstance(state, list):
        for i, value in enumerate(state):
            check_plain(value, f"{path}[{i}]")
    elif isinstance(state, np.ndarray):
        _require(state.dtype.kind in "biuf", f"{path}: arrays are numeric, not {state.dtype}")
    else:
        _require(type(state) in (str, int, float, bool), f"{path}: {type(state).__name__} is not plain data")
        _require(type(state) is not int or -(2**63) <= state < 2**64, f"{path}: integers fit in 64 bits")
        _require(type(state) is not float or not math.isnan(state), f"{path}: is not a number")


def check_env_level(
    level: EnvLevel, *, episode_steps: int, state_before: int, state_after: int, random: bool = True
) -> None:
    """Run all checks.

    Args:
        level: The level under test.
        episode_steps: Steps in which at least one episode of the first task ends.
        state_before: Steps before the state is saved.
        state_after: Steps compared afterwards.
        random: See `check_seeding`.
    """
    check_stream(level)
    check_tasks(level)
    check_seeding(level, random=random)
    check_switch(level)
    check_episode_end(level, steps=episode_steps)
    check_state(level, before=state_before, after=state_after)
