"""The contract finds the mistakes it is there to find."""

from typing import Any

import numpy as np
import pytest

from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec, StepOut, Task, VecEnv
from plasticine.envs.contract import ContractError, check_env_level, check_plain, check_seeding


class ToyEnv(VecEnv):
    """Random walk of ten steps, with a defect of choice."""

    exact_state = True

    def __init__(self, task: Task, seed: int, defect: str) -> None:
        self.rng = np.random.default_rng(0 if defect == "seed ignored" else seed)
        self.name, self.defect, self.steps = task.name, defect, 0
        self.at = np.zeros((2, 3), dtype=np.float32)

    def reset(self) -> Any:
        self.steps = 0
        self.at = self.rng.normal(size=(2, 3)).astype(np.float64 if self.defect == "dtype" else np.float32)
        if self.defect == "shared stream":
            self.at[1] = self.at[0]
        return self.at

    def step(self, actions: Any) -> StepOut:
        self.steps += 1
        self.at = (self.at + self.rng.normal(size=(2, 3))).astype(self.at.dtype)
        reward = self.at[:, 0].astype(np.float32)
        if self.defect == "nan":
            reward[0] = np.nan
        limit = 12 if self.defect == "limit" else 10
        ended = np.full(2, self.steps >= limit)
        final = None
        if ended.any():
            final = self.at.copy()
            self.reset()
            if self.defect == "final is first":
                final = self.at.copy()
        terminated = ended if self.defect == "both flags" else np.zeros(2, dtype=np.bool_)
        lost = None
        if self.steps == 5 and final is None:
            lost = np.array([True, False])
        if self.defect == "life lost at the end" and final is not None:
            lost = ended
        if self.defect == "no life lost":
            lost = np.zeros(2, dtype=np.bool_)
        if self.defect == "lives as numbers":
            lost = np.ones(2, dtype=np.int64)
        return StepOut(self.at, reward, terminated, ended, final, lost)

    def state(self) -> Any:
        random = self.rng.bit_generator.state["state"]
        packed = {"at": self.at.copy(), "steps": self.steps, "random": [str(v) for v in random.values()]}
        if self.defect == "state is not plain":
            return {**packed, "object": object()}
        if self.defect == "forgets steps":
            packed["steps"] = 0
        return packed

    def load_state(self, state: Any) -> Any:
        self.at, self.steps = state["at"].copy(), state["steps"]
        if self.defect != "forgets random":
            whole = self.rng.bit_generator.state
            whole["state"] = dict(zip(("state", "inc"), map(int, state["random"]), strict=True))
            self.rng.bit_generator.state = whole
        return np.zeros_like(self.at) if self.defect == "wrong observation" else self.at

    def facts(self) -> Any:
        return {"task": "a" if self.defect == "never switches" else self.name}


class Toy(EnvLevel):
    level = "continual"
    exact_state = True

    def __init__(self, defect: str) -> None:
        super().__init__(
            num_envs=2, normalize_obs=False, normalize_reward=False, normalizer_on_switch="carry"
        )
        self.defect = defect
        self.exact_state = defect != "exactness denied"

    def spec(self) -> EnvSpec:
        shape = (4,) if self.defect == "shape" else (3,)
        return EnvSpec("toy/walk", shape, "float32", ActionSpec("discrete", 2), 2, 10)

    def tasks(self) -> tuple[Task, ...]:
        if self.defect == "starts at 1":
            return (Task(1, "a", 5), Task(2, "b", 5))
        return (Task(0, "a", 5), Task(1, "b", 5), Task(2, "a", 5, visit=0 if self.defect == "visit" else 1))

    def enter(self, task: Task, seed: int) -> VecEnv:
        return ToyEnv(task, seed, self.defect)


def check(defect: str) -> None:
    check_env_level(Toy(defect), episode_steps=15, state_before=5, state_after=12)


def test_a_sound_level_passes():
    check("")


@pytest.mark.parametrize(
    ("defect", "message"),
    [
        ("dtype", "reset.. must be a float32"),
        ("shape", "reset.. must be a float32 array of shape .2, 4."),
        ("nan", "rewards must be finite"),
        ("both flags", "terminated and truncated at once"),
        ("limit", "exceeds the time limit"),
        ("life lost at the end", "life_lost is False where the episode ended"),
        ("no life lost", "life_lost is None unless a life was lost"),
        ("lives as numbers", "life_lost must be a bool array"),
        ("final is first", "final_obs is the last observation"),
        ("seed ignored", "another seed"),
        ("shared stream", "independent streams"),
        ("never switches", "the same in the simulator"),
        ("starts at 1", "counts from 0"),
        ("visit", "visit counts"),
        ("state is not plain", "object is not plain data"),
        ("forgets steps", "goes on exactly"),
        ("forgets random", "goes on exactly"),
        ("wrong observation", "observation to act on next"),
        ("exactness denied", "exact_state=False, but its environments say True"),
    ],
)
def test_defects_are_found(defect, message):
    with pytest.raises(ContractError, match=message):
        check(defect)


def test_a_level_without_chance_ignores_the_seed():
    check_seeding(Toy("seed ignored"), random=False)
    with pytest.raises(ContractError, match="ignores the seed"):
        check_seeding(Toy(""), random=False)


def test_plain_state_has_no_integer_beyond_64_bits():
    with pytest.raises(ContractError, match="64 bits"):
        check_plain({"random": [2**100]})
