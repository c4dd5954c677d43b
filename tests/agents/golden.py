"""Short runs of every agent, boiled down to a few numbers that are kept in ``golden/``.

``python -m tests.agents.golden`` writes them anew, which belongs into a change that has an entry under *Numerics* in
CHANGELOG.md. ``python -m tests.agents.golden --hash`` prints a hash of every bit of every tensor instead: the same
before and after a change on one machine means that not even the last digit has changed.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plasticine.compose import assemble_parts
from plasticine.testing import tiny_config
from tests.core.runs import trainer
from tests.core.test_trainer import Memory

FOLDER = Path(__file__).with_name("golden")
#: Case -> arguments of `tiny_config`.
CASES: dict[str, dict[str, Any]] = {
    "ppo_discrete": {"agent": {"anneal_lr": True}},
    "ppo_continuous": {"actions": "continuous"},
    "ppo_shared": {"shared": True},
    "ppo_images": {"shared": True, "network_name": "nature_cnn"},
    "pqn": {"agent_name": "pqn", "agent": {"layer_norm": True, "epsilon_fraction": 0.8}},
    "pqn_images": {"agent_name": "pqn", "network_name": "impala", "network": {"channels": [4, 4, 4]}},
    "td3": {"agent_name": "td3", "actions": "continuous"},
    "c51": {"agent_name": "c51", "agent": {"epsilon_fraction": 0.8}},
    "c51_images": {"agent_name": "c51", "network_name": "nature_cnn", "agent": {"frame_stack": 2}},
}
#: Adam's constant, so large that a gradient of nearly nothing makes a step of nearly nothing: with the usual one the
#: sign of a rounding error would decide about it, and processors differ in those.
_EPS = 1e-3
#: Iterations (of 9) after which values are taken.
LOOKS = (1, 4, 9)


#: Agreement that is asked for, relative to 1 + size: ten times what instruction sets were seen to differ by.
TOLERANCE = 2e-5


class Run(NamedTuple):
    """Numbers by name, and a hash of every tensor after every iteration."""

    values: dict[str, float]
    hash: str


def run(case: str, *, seed: int = 0) -> Run:
    """Train from a fixed seed."""
    config = {**tiny_config({}, **CASES[case]), "seed": seed}
    config["agent"]["adam_eps"] = _EPS
    memory, digest, values = Memory(), hashlib.sha256(), {}
    t = trainer(assemble_parts(config), tracker=memory, seed=seed)

    def look(facts: dict[str, Any]) -> None:
        tensors = t.learner.state.tensors()
        for name, tensor in tensors.items():
            digest.update(name.encode() + tensor.detach().contiguous().numpy().tobytes())
        done = len(memory.lines)
        if done not in LOOKS:
            return
        scalars = {k: v for k, v in memory.lines[-1][1].items() if not k.startswith("speed/")}
        numbers = {k: v for k, v in scalars.items() if math.isfinite(v)}
        numbers |= {k: fingerprint(v) for k, v in tensors.items() if k.startswith(("params:", "targets:"))}
        values.update({f"{done} {k}": v for k, v in numbers.items()})

    t._progress = look
    t.fit()
    return Run(values, digest.hexdigest())


def fingerprint(tensor: Tensor) -> float:
    """One number in which every entry counts, and no two alike."""
    weights = torch.cos(torch.arange(1, tensor.numel() + 1, dtype=torch.float64))
    return float(tensor.detach().double().flatten() @ weights)


def kept(case: str) -> dict[str, float]:
    """The values in the repository."""
    values: dict[str, float] = json.loads((FOLDER / f"{case}.json").read_text(encoding="utf-8"))
    return values


def differences(case: str, values: dict[str, float]) -> list[str]:
    """Where a run departs from what is kept."""
    expected = kept(case)
    found = [f"{k} is only in one of them" for k in sorted(expected.keys() ^ values.keys())]
    for k in expected.keys() & values.keys():
        if abs(values[k] - expected[k]) > TOLERANCE * (1.0 + abs(expected[k])):
            found.append(f"{k}: {values[k]} instead of {expected[k]}")
    return found


def main() -> None:
    for case in CASES:
        result = run(case)
        if "--hash" in sys.argv[1:]:
            print(result.hash, case)
        else:
            text = json.dumps(result.values, indent=1) + "\n"
            (FOLDER / f"{case}.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
