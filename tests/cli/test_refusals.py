"""What makes no sense is refused before any work, with the names of what does."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from plasticine import paths
from plasticine.api import configure
from plasticine.cli.run import main
from plasticine.compose import build_object
from plasticine.core.env import EnvLevel

CONF = paths.config_dirs()[0]
LEVELS = [(path.stem,) for path in sorted((CONF / "env").glob("*.yaml"))]
#: Levels whose simulators differ in what agents can do.
OTHERS = [
    ("classic", "env.domain=cartpole"),
    ("classic", "env.domain=mountain_car_continuous"),
    ("continual_procgen", "env.shift=task", "env.game=all"),
    ("open_craftax", "env.domain=craftax_classic_pixels"),
]


def fits(agent, spec):
    """What the papers say, independent of the agents' own checks."""
    if agent in ("c51", "pqn"):
        return spec.action.kind == "discrete"
    if agent == "td3":
        return spec.action.kind == "continuous" and len(spec.obs_shape) == 1
    return agent == "ppo"


AGENTS = sorted(path.stem for path in (CONF / "agent").glob("*.yaml"))


@pytest.mark.parametrize("level", [*LEVELS, *OTHERS], ids=" ".join)
def test_every_pair_that_makes_no_sense_is_refused(level, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for agent in AGENTS:
        words = [f"agent={agent}", f"env={level[0]}", *level[1:], "budget=smoke", "tracker=none"]
        spec = build_object(configure(*words)["env"], EnvLevel, "env").spec()
        if fits(agent, spec):
            continue
        assert main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 2
        assert agent in error.splitlines()[0]
        assert re.findall(r"agent=(\w+)", error) == [name for name in AGENTS if fits(name, spec)]
        assert list(tmp_path.iterdir()) == []


def test_some_pairs_are_refused_and_some_are_not():
    """Guard of the test above."""
    kinds = {
        level[0]: build_object(configure(f"env={level[0]}", *level[1:])["env"], EnvLevel, "env").spec()
        for level in [*LEVELS, OTHERS[1]]
    }
    for agent in AGENTS:
        assert any(fits(agent, spec) for spec in kinds.values())
    assert sum(not fits(agent, spec) for agent in AGENTS for spec in kinds.values()) >= 9


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("agent=td3 env=standard_ale", "agent=c51, agent=ppo, agent=pqn"),
        ("-m seed=0,1 agent=c51 env=classic env.domain=pendulum", "agent=ppo, agent=td3"),
        ("network=impala env=classic", "network=mlp"),
        ("env=continual_procgen env.shift=task env.game=[maze,labyrinth]", "labyrinth"),
        ("env=standard_procgen method=snp_hard", "snp_hard"),  # there is no switch at which it could act
        ("env=continual_procgen method=[trac,adam_rel]", "method=[adam_rel,...]"),
    ],
)
def test_the_command_as_a_process_refuses(line, words, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "plasticine.cli.run", *line.split(), "budget=smoke", "tracker=none"],
        cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
