"""End-to-end speed of MLP-PPO on continual_dmc quadruped, one thread: pairs measured in one run.

    python benchmarks/bench_training.py [--iterations 8] [--rounds 2]

Rows: a plain script of the same arithmetic on stock dm_control (per-step value estimates, PyTorch's Adam, a host
synchronisation per minibatch, no tracking, no metrics); ours without record and metrics; ours with the local
record, checkpoints and default metrics (with and without a compiled loss); and two such processes side by side.
Variants take turns, so that a busy machine slows them alike; the best round counts.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEPS = 2048
WARM_UP = 2
COMMON = ("env=continual_dmc", "env.domain=quadruped", "env.tasks=[walk]", "env.cycles=1")


def plain(iterations: int) -> float:
    """The arithmetic of CleanRL's continuous-action script, hand-written."""
    import numpy as np
    import torch
    from dm_control import suite
    from torch import nn

    def flat(ts):
        return np.concatenate([np.ravel(ts.observation[k]) for k in sorted(ts.observation)]).astype(
            np.float32
        )

    def mlp(out, gain):
        layers = [nn.Linear(78, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, out)]
        for layer in layers[::2]:
            nn.init.orthogonal_(layer.weight, 2**0.5 if layer.out_features == 256 else gain)
            nn.init.zeros_(layer.bias)
        return nn.Sequential(*layers)

    env = suite.load("quadruped", "walk", task_kwargs={"random": 0})
    actor, critic = mlp(12, 0.01), mlp(1, 1.0)
    log_std = nn.Parameter(torch.zeros(1, 12))
    params = [*actor.parameters(), *critic.parameters(), log_std]
    optimizer = torch.optim.Adam(params, lr=3e-4, eps=1e-5)
    mean, var, count = np.zeros(78), np.ones(78), 1e-4
    obs, actions = torch.zeros(STEPS, 78), torch.zeros(STEPS, 12)
    logp, values, rewards, dones = (torch.zeros(STEPS) for _ in range(4))

    def normal(x):
        nonlocal mean, var, count
        delta, total = x - mean, count + 1
        var = (var * count + delta**2 * count / total) / total
        mean, count = mean + delta / total, total
        return torch.as_tensor(np.clip((x - mean) / np.sqrt(var + 1e-8), -10, 10), dtype=torch.float32)

    def policy(x):
        m = actor(x)
        return torch.distributions.Normal(m, log_std.expand_as(m).exp(), validate_args=False)

    now, done, start = normal(flat(env.reset())), 0.0, 0.0
    for iteration in range(WARM_UP + iterations):
        if iteration == WARM_UP:
            start = time.perf_counter()
        for t in range(STEPS):
            obs[t], dones[t] = now, done
            with torch.no_grad():
                d = policy(now[None])
                a = d.sample()
                actions[t], logp[t], values[t] = a[0], d.log_prob(a).sum(), critic(now[None])[0, 0]
            ts = env.step(np.clip(a[0].numpy(), -1, 1))
            rewards[t], done = float(ts.reward), float(ts.last())
            now = normal(flat(env.reset() if ts.last() else ts))
        with torch.no_grad():
            adv, last, following = torch.zeros(STEPS), 0.0, critic(now[None])[0, 0]
            for t in reversed(range(STEPS)):
                alive = 1.0 - (done if t == STEPS - 1 else dones[t + 1])
                nxt = following if t == STEPS - 1 else values[t + 1]
                last = rewards[t] + 0.99 * nxt * alive - values[t] + 0.99 * 0.95 * alive * last
                adv[t] = last
            returns = adv + values
        index, fractions = np.arange(STEPS), []
        for _ in range(10):
            np.random.shuffle(index)
            for i in range(0, STEPS, 64):
                b = index[i : i + 64]
                d = policy(obs[b])
                new_logp, entropy, v = (
                    d.log_prob(actions[b]).sum(1),
                    d.entropy().sum(1),
                    critic(obs[b]).squeeze(1),
                )
                log_ratio = new_logp - logp[b]
                ratio = log_ratio.exp()
                with torch.no_grad():
                    fractions.append(((ratio - 1).abs() > 0.2).float().mean().item())
                x = (adv[b] - adv[b].mean()) / (adv[b].std() + 1e-8)
                pg = torch.max(-x * ratio, -x * ratio.clamp(0.8, 1.2)).mean()
                near = values[b] + (v - values[b]).clamp(-0.2, 0.2)
                vf = 0.5 * torch.max((v - returns[b]) ** 2, (near - returns[b]) ** 2).mean()
                loss = pg - 0.0 * entropy.mean() + 0.5 * vf
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(params, 0.5)
                optimizer.step()
    return iterations * STEPS / (time.perf_counter() - start)


SHARE = "share of time in record, checkpoints and metrics"


def timed(owner: type, *methods: str) -> list[float]:
    """Make the methods of a class add up the time spent in them, in a list of one number."""
    spent = [0.0]

    def clocked(method):
        def call(*args, **kwargs):
            began = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - began

        return call

    for name in methods:
        setattr(owner, name, clocked(getattr(owner, name)))
    return spent


def share(iterations: int) -> float:
    """Percentage of a run's time spent outside collecting and learning, from clocks inside the run."""
    from plasticine.core.checkpoint import Checkpoints
    from plasticine.core.measure import Measurement
    from plasticine.tracking.local import LocalLog

    clocks = [
        timed(LocalLog, "log", "episodes", "event", "mark", "commit"),
        timed(Measurement, "take", "anchor"),
        timed(Checkpoints, "save"),
    ]
    began = time.perf_counter()
    rate = ours(max(iterations, 20), record=True)
    whole = (max(iterations, 20) + WARM_UP) * STEPS / rate
    assert time.perf_counter() - began > whole
    return 100 * sum(c[0] for c in clocks) / whole


def ours(iterations: int, *overrides: str, record: bool) -> float:
    """Our trainer; with `record`, the local record and checkpoints are written as in a real run."""
    import threading

    from plasticine.api import configure
    from plasticine.run import execute

    steps = (WARM_UP + iterations) * STEPS
    tracker = "local" if record else "none"
    config = configure(*COMMON, f"env.steps_per_task={steps}", f"tracker={tracker}", *overrides)
    stamps: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        execute(config, Path(folder), threading.Event(), lambda facts: stamps.append(time.perf_counter()))
    return iterations * STEPS / (stamps[-1] - stamps[WARM_UP - 1])


VARIANTS = {
    "plain script": lambda n: plain(n),
    "ours, bare": lambda n: ours(n, "metrics=none", record=False),
    "ours, record + metrics": lambda n: ours(n, record=True),
    "ours, record + metrics, compiled": lambda n: ours(n, "compute.compile=true", record=True),
    SHARE: share,
}


def start(name: str, iterations: int) -> subprocess.Popen[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--variant", name, "--iterations", str(iterations)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def speed(process: subprocess.Popen[str]) -> float:
    out, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"a variant failed with exit code {process.returncode}")
    return float(json.loads(out.strip().splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--iterations", type=int, default=8, help="measured iterations of 2048 steps")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--variant", choices=VARIANTS, help="run one variant and print its speed as JSON")
    options = parser.parse_args()
    if options.variant:
        import torch

        torch.set_num_threads(1)
        print(json.dumps(VARIANTS[options.variant](options.iterations)))
        return
    best: dict[str, float] = {}
    for _ in range(options.rounds):
        for name in [v for v in VARIANTS if v != SHARE]:
            best[name] = max(best.get(name, 0.0), speed(start(name, options.iterations)))
        pair = [start("ours, record + metrics", options.iterations) for _ in range(2)]
        together = sum(speed(p) for p in pair)
        best["two processes, summed"] = max(best.get("two processes, summed", 0.0), together)
    base = best["plain script"]
    print("continual_dmc quadruped, PPO 256-256, 1 env x 2048 steps, 32 x 10 minibatches, 1 thread a process")
    for name, value in best.items():
        print(f"  {name:34s} {value:8.0f} env steps/s   x{value / base:.2f}")
    print(f"  {SHARE}: {speed(start(SHARE, options.iterations)):.1f} %")


if __name__ == "__main__":
    main()
