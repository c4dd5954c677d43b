"""What measuring adds to a run of PPO, with an MLP and with an IMPALA network, one thread.

    python benchmarks/bench_metrics.py [--rounds 5] [--case mlp|impala] [--sets core,full] [--each]

A learner without metrics and one with each set of them live in one process and collect their own noise. In every
round they take turns: an iteration (collecting, learning), and those with metrics a measurement after another one,
all in processor time. Measuring changes nothing in an iteration, so that its cost is that of the measurements; copies
of the weights count as part of them. The table shows medians over the rounds.

A measurement with metrics=full is of three kinds: most of them; every fifth (`every: 50` with one every 10
iterations), when gradients and curvature are looked at; and the one at the end of a task, with all that is in the
set.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import sys
import time
from typing import Any, NamedTuple

import torch
from bench_methods import NoiseLevel

from plasticine.api import configure
from plasticine.compose import Parts, assemble_parts
from plasticine.core.metric import Layers, Metric, Probe
from plasticine.core.returns import Rehearsal

__all__ = ["NoiseLevel"]


class Case(NamedTuple):
    """One kind of run, with the sizes that published results use."""

    title: str
    overrides: tuple[str, ...]
    images: bool
    num_envs: int


CASES = {
    "mlp": Case(
        "MLP 256-256, separate; 2048 steps, 10 epochs of 32 minibatches of 64",
        ("network=mlp", "network.hidden=[256,256]", "agent.num_steps=2048", "agent.num_minibatches=32",
         "agent.epochs=10"),
        images=False,
        num_envs=1,
    ),
    "impala": Case(
        "IMPALA, shared; 64 x 256 steps, 3 epochs of 8 minibatches of 2048 images",
        ("network=impala", "agent.num_steps=256", "agent.num_minibatches=8", "agent.epochs=3",
         "agent.shared_encoder=true"),
        images=True,
        num_envs=64,
    ),
}  # fmt: skip


class Timed(Metric):
    """Another metric, with a clock."""

    def __init__(self, metric: Metric) -> None:
        self.metric, self.seconds = metric, 0.0
        self.needs_batch = metric.needs_batch  # type: ignore[misc]

    def compute(self, probe: Probe) -> dict[str, float]:
        began = time.process_time()
        values = self.metric.compute(probe)
        self.seconds = time.process_time() - began
        return values

    def layers(self, probe: Probe) -> Layers:
        began = time.process_time()
        values = self.metric.layers(probe)
        self.seconds += time.process_time() - began
        return values


class Runner:
    """A learner that takes iterations of noise."""

    def __init__(self, case: Case, metrics: str, *, shorter: int) -> None:
        config = configure("env=classic", f"metrics={metrics}", "tracker=none", *case.overrides)
        config["env"] = {
            "_target_": "__main__.NoiseLevel",
            "images": case.images,
            "num_envs": case.num_envs,
            "normalize_obs": False,
            "normalize_reward": False,
            "normalizer_on_switch": "carry",
        }
        config["agent"]["num_steps"] //= shorter
        config["agent"]["num_minibatches"] = max(1, config["agent"]["num_minibatches"] // shorter)
        self.parts: Parts = assemble_parts(config)
        self.timed = {name: Timed(m) for name, m in self.parts.measurement._metrics.items()}
        self.parts.measurement._metrics = dict(self.timed)
        level, collector = self.parts.level, self.parts.collector
        collector.enter(level.enter(level.tasks()[0], 0), 0, switch=False)
        self.iteration = 0
        task = level.tasks()[0]
        self._rehearse = functools.partial(
            Rehearsal(level, self.parts.learner.agent, collector).play, task, 0
        )

    def iterate(self) -> float:
        """Collect and learn; return the seconds it took."""
        learner, collector, began = self.parts.learner, self.parts.collector, time.process_time()
        collector.collect(learner.agent.collect_steps)
        learner.agent.prepare(collector.obs)
        learner.learn(0.0)
        self.numbers: dict[str, Any] = {**learner.flush(), **learner.agent.statistics()}
        self.iteration += 1
        return time.process_time() - began

    def measure(self, kind: str) -> tuple[float, float]:
        """Measure after an iteration; return the seconds that measuring took, and the iteration."""
        watch, began = self.parts.measurement, time.process_time()
        watch.anchor("update")
        spent = time.process_time() - began
        iteration = self.iterate()
        began = time.process_time()
        watch.take(
            self.numbers,
            iteration=10 if kind == "usual" else 50,
            env_steps=self.iteration,
            task_end=kind == "task end",
            rehearse=self._rehearse,
        )
        return spent + time.process_time() - began, iteration


#: Kinds of measurements of each set.
KINDS = {"core": ("usual",), "full": ("usual", "every fifth", "task end")}


def measured(case: Case, sets: list[str], rounds: int, shorter: int, each: bool) -> None:
    """Print one table."""
    runners = {name: Runner(case, name, shorter=shorter) for name in ("none", *sets)}
    iterations: list[float] = []
    costs: dict[tuple[str, str], list[float]] = {}
    single: dict[str, list[float]] = {}
    for _ in range(rounds):
        iterations.append(shorter * runners["none"].iterate())
        for name in sets:
            runner = runners[name]
            for kind in KINDS[name]:
                cost, iteration = runner.measure(kind)
                iterations.append(shorter * iteration)
                costs.setdefault((name, kind), []).append(cost)
                for metric, timed in runner.timed.items():
                    single.setdefault(f"{name}: {metric}, {kind}", []).append(timed.seconds)
    iteration = statistics.median(iterations)
    found = {key: statistics.median(values) for key, values in costs.items()}
    print(f"\nPPO, {case.title}: {iteration:.2f} s an iteration\n")
    print("| metrics | a measurement | of the run, every 10 iterations |\n|---|---|---|")
    for (name, kind), cost in found.items():
        mean = (4 * cost + found.get((name, "every fifth"), cost)) / 5
        share = f"{100 * mean / (10 * iteration):.2f} %" if kind == "usual" else ""
        print(f"| {name}, {kind} | {1000 * cost:.0f} ms | {share} |")
    if each:
        print("\n| metric | ms |\n|---|---|")
        for metric, seconds in sorted(single.items(), key=lambda item: -statistics.median(item[1])):
            print(f"| {metric} | {1000 * statistics.median(seconds):.1f} |")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=CASES, help="only this kind of learner")
    parser.add_argument("--sets", default="core,full", help="sets of metrics, separated by commas")
    parser.add_argument(
        "--each", action="store_true", help="show what each metric takes, shared work included"
    )
    parser.add_argument(
        "--shorter",
        type=int,
        default=1,
        help="divide the steps of an iteration and its minibatches by this, and multiply its time again",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name, case in CASES.items():
        if options.case in (None, name):
            measured(case, options.sets.split(","), options.rounds, options.shorter, options.each)


if __name__ == "__main__":
    main()
