"""What each level costs: seconds to its first step, memory, and steps a second with random actions.

    python benchmarks/bench_suites.py [--seconds 3] [NAME ...]

Every level is started in a process of its own, without an agent, so that the memory is the simulator's and its
libraries'. Seconds to the end of the first step are given by the clock and in processor time, which other load on the
machine disturbs less. The rate is in processor time of the whole process: with several threads it is that of one
core. Of worker processes only the memory is measured.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from plasticine.core.env import EnvLevel

CONF = Path(__file__).parents[1] / "conf" / "env"

#: Name -> (file in conf/env, changes). One core each, as many environments as a laptop would step.
SUITES: dict[str, tuple[str, dict[str, object]]] = {
    "classic, CartPole": ("classic", {}),
    "continual_dmc, quadruped": ("continual_dmc", {}),
    "... 8 environments": ("continual_dmc", {"num_envs": 8, "workers": 0}),
    "... and 1 worker": ("continual_dmc", {"num_envs": 8, "workers": 1}),
    "continual_dmc, dog": ("continual_dmc", {"domain": "dog"}),
    "standard_ale, breakout": ("standard_ale", {"num_envs": 8}),
    "continual_ale, modes": ("continual_ale", {"num_envs": 8, "shift": "mode", "game": "breakout"}),
    "standard_procgen, starpilot": ("standard_procgen", {"num_envs": 64, "num_threads": 0}),
    "open_craftax, classic symbolic": ("open_craftax", {"domain": "craftax_classic_symbolic"}),
    "open_craftax, symbolic": ("open_craftax", {"domain": "craftax_symbolic"}),
    "open_craftax, classic pixels": ("open_craftax", {"domain": "craftax_classic_pixels"}),
    "open_craftax, pixels": ("open_craftax", {"domain": "craftax_pixels"}),
}


def build(file: str, changes: dict[str, object]) -> EnvLevel:
    """Build the level of a YAML file with the laptop budget."""
    import importlib

    from omegaconf import OmegaConf

    from plasticine.cell import register_resolvers

    register_resolvers()
    content = yaml.safe_load((CONF / f"{file}.yaml").read_text())
    content.pop("defaults", None)
    root = OmegaConf.create({"budget": {"name": "laptop"}, "env": {**content, **changes}})
    arguments: Any = OmegaConf.to_container(root.env, resolve=True)
    module, _, name = arguments.pop("_target_").rpartition(".")
    level: EnvLevel = getattr(importlib.import_module(module), name)(**arguments)
    return level


def memory(pid: int | str, key: str) -> float:
    """MB of a process: ``Rss`` resident, or ``Private`` what only it has (shared libraries are not counted)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


def measure(name: str, seconds: float, began: float) -> dict[str, float]:
    """Carry out one measurement in this process."""
    from plasticine.envs.contract import scripted_actions

    level = build(*SUITES[name])
    env = level.enter(level.tasks()[0], 0)
    env.reset()
    actions = scripted_actions(level.spec(), 500, 0)
    env.step(actions[0])
    first, busy = time.time() - began, time.process_time()
    steps, start, end = 0, time.process_time(), time.perf_counter() + seconds
    while time.perf_counter() < end or steps < 20:
        env.step(actions[steps % len(actions)])
        steps += 1
    used = time.process_time() - start
    crew = getattr(getattr(env, "_crew", None), "pids", [])
    found = {
        "first": first,
        "busy": busy,
        "rate": steps * level.num_envs / used if not crew else float("nan"),
        "rss": memory("self", "Rss:"),
        "private": memory("self", "Private"),
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "others": sum(memory(pid, "Private") for pid in crew),
        "num_envs": level.num_envs,
    }
    env.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"some of: {'; '.join(SUITES)}")
    parser.add_argument("--seconds", type=float, default=3.0, help="time spent stepping each level")
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.inside:
        name, began = arguments.inside
        print(json.dumps(measure(name, arguments.seconds, float(began))))
        return
    print(f"load average {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores")
    print(f"{'':32}{'envs':>6}{'s to 1st step':>15}{'of processor':>14}{'resident MB':>13}{'private MB':>12}"
          f"{'peak MB':>9}{'env steps/s of a core':>23}")  # fmt: skip
    for name in arguments.names or SUITES:
        command = [sys.executable, __file__, "--seconds", str(arguments.seconds), "--inside", name]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        ran = subprocess.run(
            [*command, str(time.time())], env=environment, check=True, stdout=subprocess.PIPE, text=True
        )
        found = json.loads(ran.stdout.splitlines()[-1])
        private = f"{found['private']:.0f}" + (f"+{found['others']:.0f}" if found["others"] else "")
        rate = "-" if math.isnan(found["rate"]) else f"{found['rate']:,.0f}"
        print(f"{name:32}{found['num_envs']:>6}{found['first']:>15.1f}{found['busy']:>14.1f}{found['rss']:>13.0f}{private:>12}"
              f"{found['peak']:>9.0f}{rate:>23}")  # fmt: skip


if __name__ == "__main__":
    main()
