"""What every method adds to an update of PPO, with an MLP and with an IMPALA network, one thread.

    python benchmarks/bench_methods.py [--rounds 9] [--case mlp|impala] [--only cbp,snr]

All learners live in one process and have the data of one rollout of noise. In every round each method is timed
between two blocks of the same updates without a method, in processor time, and its ratio to their mean is taken; the
table shows the median over rounds and the middle half of them. What a method does between iterations is not included.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch

from plasticine.api import configure
from plasticine.compose import assemble_parts
from plasticine.core.env import ActionSpec, EnvLevel, EnvSpec, StepOut, Task, VecEnv
from plasticine.core.learner import Learner
from plasticine.errors import UserError
from plasticine.testing import method_names, method_nodes


class Noise(VecEnv):
    """Random observations of the right shape."""

    def __init__(self, spec: EnvSpec) -> None:
        self._spec = spec
        self._rng = np.random.default_rng(0)

    def _obs(self) -> np.ndarray:
        shape = (self._spec.num_envs, *self._spec.obs_shape)
        if self._spec.obs_dtype == "uint8":
            return self._rng.integers(0, 256, shape, dtype=np.uint8)
        return self._rng.standard_normal(shape, dtype=np.float32)

    def reset(self) -> np.ndarray:
        return self._obs()

    def step(self, actions: np.ndarray) -> StepOut:
        n = self._spec.num_envs
        reward = self._rng.standard_normal(n).astype(np.float32)
        return StepOut(self._obs(), reward, np.zeros(n, bool), np.zeros(n, bool), None)

    def state(self) -> dict[str, Any]:
        return {}

    def load_state(self, state: dict[str, Any]) -> np.ndarray:
        return self._obs()


class NoiseLevel(EnvLevel):
    """One task of noise: 78 numbers and 12 continuous actions, or images of 3 x 64 x 64 and 15 discrete ones."""

    level = "standard"

    def __init__(self, *, images: bool, **common: Any) -> None:
        super().__init__(**common)
        self.images = images

    def spec(self) -> EnvSpec:
        if self.images:
            action = ActionSpec("discrete", 15)
            return EnvSpec("noise/images", (3, 64, 64), "uint8", action, self.num_envs, 1000)
        action = ActionSpec("continuous", 12, (-1.0,) * 12, (1.0,) * 12)
        return EnvSpec("noise/numbers", (78,), "float32", action, self.num_envs, 1000)

    def tasks(self) -> tuple[Task, ...]:
        return (Task(0, "noise", 1_000_000, options={}),)

    def enter(self, task: Task, seed: int) -> VecEnv:
        return Noise(self.spec())


class Case(NamedTuple):
    """One kind of learner."""

    title: str
    overrides: tuple[str, ...]
    images: bool
    num_envs: int


CASES = {
    "mlp": Case(
        "MLP 256-256, separate, minibatches of 64",
        ("network=mlp", "agent.num_steps=512", "agent.num_minibatches=8", "agent.epochs=2"),
        images=False,
        num_envs=1,
    ),
    "impala": Case(
        "IMPALA, shared, minibatches of 256 images",
        (
            *("network=impala", "agent.num_steps=16", "agent.num_minibatches=1", "agent.epochs=1"),
            "agent.shared_encoder=true",
        ),
        images=True,
        num_envs=16,
    ),
}
#: Arguments under which a method does in the first updates what it does on average later on.
STEADY: dict[str, dict[str, Any]] = {"cbp": {"maturity": 0}}
#: Rows beside the method files: the same method with other arguments.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "cbp per_element_step": ("cbp", {"per_element_step": True}),
    "regrama of=units": ("regrama", {"of": "units"}),
    "crelu half the units": ("crelu", {"keep_width": "columns"}),
    "crelu equal parameters": ("crelu", {"keep_width": "parameters"}),
    "dff twice as wide": ("dff", {"keep_width": "units"}),
    "dff equal parameters": ("dff", {"keep_width": "parameters"}),
}


def nodes(row: str) -> Mapping[str, Any]:
    """Configuration of the method in one row of the table."""
    method, changes = VARIANTS.get(row, (row, {}))
    return {name: {**node, **STEADY.get(name, {}), **changes} for name, node in method_nodes(method).items()}


def build(case: Case, methods: Mapping[str, Any]) -> Learner:
    """A learner with the data of one rollout."""
    config = configure("env=classic", "metrics=none", "tracker=none", *case.overrides)
    config["env"] = {
        "_target_": "__main__.NoiseLevel",
        "images": case.images,
        "num_envs": case.num_envs,
        "normalize_obs": False,
        "normalize_reward": False,
        "normalizer_on_switch": "carry",
    }
    config["method"] = dict(methods)
    parts = assemble_parts(config)
    parts.collector.enter(parts.level.enter(parts.level.tasks()[0], 0), 0, switch=False)
    parts.collector.collect(parts.learner.agent.collect_steps)
    parts.learner.agent.prepare(parts.collector.obs)
    return parts.learner


def clocked(learner: Learner) -> float:
    """Processor time of one update, in seconds, over one iteration's worth of them."""
    began = time.process_time()
    count = learner.learn(0.0)
    spent = time.process_time() - began
    learner.flush()
    return spent / count


def parameters(learner: Learner) -> int:
    return sum(p.numel() for p in learner.state.params.values())


def measured(case: Case, rows: list[str], rounds: int) -> None:
    """Print one table."""
    learners: dict[str, Learner] = {}
    refused = []
    for row in rows:
        try:
            learners[row] = build(case, nodes(row))
        except UserError as refusal:
            refused.append(f"{row}: {refusal.what}")
    plain = build(case, {})
    for learner in (plain, *learners.values()):
        clocked(learner)
    ratios: dict[str, list[float]] = {row: [] for row in learners}
    base = []
    for _ in range(rounds):
        before = clocked(plain)
        for row, learner in learners.items():
            own = clocked(learner)
            after = clocked(plain)
            ratios[row].append(2.0 * own / (before + after))
            base.append(before)
            before = after
    print(f"\nPPO, {case.title}: {1000 * statistics.median(base):.2f} ms an update without a method\n")
    print("| method | update | middle half of the rounds | parameters |\n|---|---|---|---|")
    size = parameters(plain)
    for row, found in sorted(ratios.items(), key=lambda item: statistics.median(item[1])):
        low, middle, high = (float(q) for q in np.quantile(found, (0.25, 0.5, 0.75)))
        own = parameters(learners[row]) / size
        print(f"| `{row}` | × {middle:.2f} | {low:.2f} - {high:.2f} | × {own:.2f} |")
    for line in refused:
        print(f"\nNot measured: {line}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--case", choices=CASES, help="only this kind of learner")
    parser.add_argument("--only", help="rows to measure, separated by commas")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = options.only.split(",") if options.only else [*method_names(), *VARIANTS]
    for name, case in CASES.items():
        if options.case in (None, name):
            measured(case, rows, options.rounds)


if __name__ == "__main__":
    main()
