"""Steps a second of the environments: stock dm_control, ours, and MuJoCo alone, measured in alternation.

    python benchmarks/bench_envs.py [--seconds 2] [quadruped-walk dog-walk ...]

All three step the same simulation with the same actions, in short blocks one after the other, and the best block
of each counts, in processor time: other load on the machine then disturbs the comparison least. What processes gain
(`env.workers`) shows in wall-clock time only, and only with as many idle cores.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from plasticine.core.cores import run_cores
from plasticine.envs.classic_vec import DOMAINS, ClassicVecEnv, ObservationShift
from plasticine.envs.dmc_sim import DmcSim
from plasticine.envs.dmc_suite import require_suite
from plasticine.envs.dmc_vec import DmcVecEnv

DMC = ["quadruped-walk", "quadruped-run", "walker-walk", "humanoid-run", "dog-walk", "cheetah-run",
       "cartpole-swingup", "finger-spin", "reacher-easy"]  # fmt: skip
WORKERS = (0, 1, 2)
BLOCK = 450  # steps; two blocks stay inside an episode of 1000


def best_rate(
    play: Callable[[], None], steps: int, seconds: float, others: list[Callable[[], None]]
) -> list[float]:
    """Return steps a second of the best block of `play` and each of `others`, run in turn."""
    best = [float("inf")] * (1 + len(others))
    end = time.perf_counter() + seconds * len(best)
    while time.perf_counter() < end:
        for i, block in enumerate([play, *others]):
            start = time.process_time()
            block()
            best[i] = min(best[i], time.process_time() - start)
    return [steps / b for b in best]


def bench_dmc(name: str, seconds: float) -> list[float]:
    import mujoco

    suite = require_suite()
    domain, task = name.split("-", 1)
    child = np.random.SeedSequence(0).spawn(1)[0]
    stock = suite.load(domain, task, task_kwargs={"random": np.random.RandomState(np.random.MT19937(child))})
    ours = DmcVecEnv(domain=domain, task=task, num_envs=1, workers=0, seed=0, dynamics=None)
    alone = DmcSim(domain=domain, task=task, seed=child, dynamics=None)
    low, high = alone.low, alone.high
    actions = np.random.default_rng(0).uniform(low, high, size=(BLOCK, 1, len(low))).astype(np.float32)
    wide = actions[:, 0].astype(np.float64)
    model, data, substeps = alone._model, alone._data, alone._substeps

    def play_stock() -> None:
        stock.reset()
        for action in wide:
            stock.step(action)

    def play_ours() -> None:
        ours.reset()
        for action in actions:
            ours.step(action)

    def play_physics() -> None:
        alone.reset()
        for action in wide:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, substeps)
            mujoco.mj_step1(model, data)

    return best_rate(play_stock, BLOCK, seconds, [play_ours, play_physics])


def bench_workers(name: str, seconds: float, num_envs: int = 8) -> None:
    """Print the rates of one process and of several, stepped in turn, in wall-clock time."""
    domain, task = name.split("-", 1)
    envs, starts = [], []
    for workers in WORKERS:
        start = time.perf_counter()
        env = DmcVecEnv(domain=domain, task=task, num_envs=num_envs, workers=workers, seed=0, dynamics=None)
        env.reset()
        starts.append(time.perf_counter() - start)
        envs.append(env)
    spec = envs[0].action_spec()
    actions = (
        np.random.default_rng(0).uniform(spec.low, spec.high, (100, num_envs, spec.n)).astype(np.float32)
    )
    best = [float("inf")] * len(envs)
    end = time.perf_counter() + seconds * len(envs)
    while time.perf_counter() < end:
        for i, env in enumerate(envs):
            start = time.perf_counter()
            for action in actions:
                env.step(action)
            best[i] = min(best[i], time.perf_counter() - start)
    for workers, seconds_to_start, needed, env in zip(WORKERS, starts, best, envs, strict=True):
        rate = len(actions) * num_envs / needed
        print(f"{workers:>7}{seconds_to_start:>12.2f}{rate:>15,.0f}{best[0] / needed:>10.2f}")
        env.close()


def bench_classic(domain: str, seconds: float, num_envs: int = 8) -> float:
    env = ClassicVecEnv(domain=domain, num_envs=num_envs, seed=0, shift=ObservationShift(), gravity_scale=1.0)
    env.reset()
    discrete = env._bounds is None
    action = np.ones(num_envs, dtype=np.int64) if discrete else np.zeros((num_envs, 1), dtype=np.float32)

    def play() -> None:
        for _ in range(200):
            env.step(action)

    return best_rate(play, 200 * num_envs, seconds, [])[0]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="<domain>-<task> of the suite; default: a selection")
    parser.add_argument("--seconds", type=float, default=1.5, help="time spent on each figure")
    arguments = parser.parse_args()
    print(f"{'dm_control':<20}{'stock':>10}{'ours':>10}{'physics':>10}{'ours/stock':>12}   [env steps/s]")
    for name in arguments.names or DMC:
        stock, ours, physics = bench_dmc(name, arguments.seconds)
        print(f"{name:<20}{stock:>10,.0f}{ours:>10,.0f}{physics:>10,.0f}{ours / stock:>12.2f}")
    if not arguments.names:
        print(f"\n{'classic, 8 envs':<30}{'ours':>10}")
        for domain in DOMAINS:
            print(f"{domain:<30}{bench_classic(domain, arguments.seconds):>10,.0f}")
        print(f"\nquadruped-walk, 8 envs, {run_cores()} cores, wall-clock time")
        print(f"{'workers':>7}{'s to start':>12}{'env steps/s':>15}{'x':>10}")
        bench_workers("quadruped-walk", 4 * arguments.seconds)


if __name__ == "__main__":
    main()
