"""The same configuration and seed give the same numbers: again, in another process, and next year."""

from __future__ import annotations

import functools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.agents import golden

ROOT = Path(__file__).resolve().parents[2]


first = functools.cache(golden.run)


@pytest.mark.parametrize("case", golden.CASES)
def test_numbers_are_those_that_were_kept(case):
    """If the change is meant: `python -m tests.agents.golden`, and an entry under Numerics in CHANGELOG.md."""
    assert golden.differences(case, first(case).values) == []


@pytest.mark.parametrize("case", golden.CASES)
def test_the_same_seed_gives_the_same_bits_and_another_one_does_not(case):
    """Whatever else has been drawn in the process."""
    one = first(case)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    assert golden.run(case) == one
    other = golden.run(case, seed=1)
    assert other.hash != one.hash
    assert golden.differences(case, other.values)


def subprocess_output(*command: str, **environment: str) -> str:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        [sys.executable, *command], cwd=ROOT, env=env, capture_output=True, text=True, check=True
    ).stdout


def test_another_process_gives_the_same_bits():
    lines = subprocess_output("-m", "tests.agents.golden", "--hash", PYTHONHASHSEED="77").splitlines()
    assert dict(reversed(line.split()) for line in lines) == {c: first(c).hash for c in golden.CASES}


_VALUES = """
import json
from tests.agents import golden
print(json.dumps({case: golden.run(case).values for case in golden.CASES}))
"""


def test_an_older_instruction_set_gives_the_same_numbers():
    """Not the same bits: other widths of vector instructions add up in another order."""
    found = json.loads(
        subprocess_output(
            "-c", _VALUES, ATEN_CPU_CAPABILITY="default", ONEDNN_MAX_CPU_ISA="SSE41", MKL_ENABLE_INSTRUCTIONS="SSE4_2"
        )
    )  # fmt: skip
    assert found.keys() == golden.CASES.keys()
    assert [d for case, values in found.items() for d in golden.differences(case, values)] == []


def test_every_case_is_kept_and_every_agent_has_one():
    assert {p.stem for p in golden.FOLDER.glob("*.json")} == set(golden.CASES)
    agents = {p.stem for p in (ROOT / "conf" / "agent").glob("*.yaml")}
    assert {case.split("_")[0] for case in golden.CASES} == agents
    for case in golden.CASES:
        values = golden.kept(case)
        looks = {int(k.split()[0]) for k in values}
        assert looks == set(golden.LOOKS)
        assert any("loss/" in k for k in values)
        params = [k for k in values if k.startswith("9 params:")]
        still = [k for k in params if values[k] == values[f"1{k[1:]}"]]
        assert len(params) > 5
        assert still == (
            ["9 params:q/body.6.weight"] if case == "pqn_images" else []
        )  # its four units are dead
