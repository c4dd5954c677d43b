"""Train Stable-Baselines3 on a task of the DeepMind control suite, with the hyper-parameters of our agents.

    pip install stable-baselines3 dm-control 'mujoco<4'          (an environment of its own will do)
    python docs/figures/sb3_dmc.py ppo --domain walker --task walk --steps 200000 --seeds 0 1 2 --out sb3_ppo.csv

Writes one row per episode (seed, env_steps, episodic_return; raw). Every
number that Stable-Baselines3 would choose otherwise is set to ours:

* PPO: 256-256 ReLU networks apart, Adam's epsilon 1e-5, normalised observations and rewards, no clipping of the value
  loss, and `vf_coef` halved, because its value loss has no factor 1/2.
* TD3: 256-256 ReLU networks, learning rate 3e-4, 5000 random steps first, one batch a step, nothing normalised.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from dm_control import suite
from stable_baselines3 import PPO, TD3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize


class ControlSuite(gymnasium.Env[np.ndarray, np.ndarray]):
    """A stock task of the suite: flat float32 observations; episodes are cut, not terminated, after 1000 steps."""

    def __init__(self, domain: str, task: str, seed: int) -> None:
        self._env = suite.load(domain, task, task_kwargs={"random": seed})
        action = self._env.action_spec()
        size = sum(int(np.prod(spec.shape)) for spec in self._env.observation_spec().values())
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
        low, high = (
            np.broadcast_to(v, action.shape).astype(np.float32) for v in (action.minimum, action.maximum)
        )
        self.action_space = gymnasium.spaces.Box(low, high)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin an episode; the start states follow from the constructor's seed."""
        return self._flat(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Advance by one control step."""
        out = self._env.step(action)
        over = out.last()
        return (
            self._flat(out.observation),
            float(out.reward),
            over and out.discount == 0,
            over and out.discount > 0,
            {},
        )

    @staticmethod
    def _flat(observation: dict[str, Any]) -> np.ndarray:
        return np.concatenate([np.ravel(v) for v in observation.values()]).astype(np.float32)


def learner(agent: str, env: VecEnv, seed: int) -> PPO | TD3:
    """An untrained agent of Stable-Baselines3 with our numbers."""
    common: dict[str, Any] = {
        "policy": "MlpPolicy",
        "learning_rate": 3e-4,
        "gamma": 0.99,
        "seed": seed,
        "device": "cpu",
    }
    if agent == "ppo":
        layers = {"pi": [256, 256], "vf": [256, 256]}
        return PPO(
            env=VecNormalize(env, gamma=0.99),
            n_steps=2048,
            batch_size=64,
            n_epochs=10,
            gae_lambda=0.95,
            clip_range=0.2,
            ent_coef=0.0,
            vf_coef=0.25,
            max_grad_norm=0.5,
            policy_kwargs={"net_arch": layers, "activation_fn": torch.nn.ReLU},
            **common,
        )
    size = int(np.prod(env.action_space.shape or ()))
    return TD3(
        env=env,
        buffer_size=200_000,
        learning_starts=5000,
        batch_size=256,
        tau=0.005,
        train_freq=1,
        gradient_steps=1,
        action_noise=NormalActionNoise(np.zeros(size), 0.1 * np.ones(size)),
        policy_delay=2,
        target_policy_noise=0.2,
        target_noise_clip=0.5,
        policy_kwargs={"net_arch": [256, 256]},
        **common,
    )


def episodes(agent: str, domain: str, task: str, steps: int, seed: int) -> list[tuple[int, int, float]]:
    """Train once; (seed, env_steps, episodic_return) of every episode."""
    monitors: list[Monitor[Any, Any]] = []

    def build() -> Monitor[Any, Any]:
        monitors.append(Monitor(ControlSuite(domain, task, seed)))
        return monitors[-1]

    learner(agent, DummyVecEnv([build]), seed).learn(steps)
    ends = np.cumsum(monitors[0].get_episode_lengths())
    return [
        (seed, int(end), float(value))
        for end, value in zip(ends, monitors[0].get_episode_rewards(), strict=True)
    ]


def main() -> None:
    """Train every seed in turn and write the table after each."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("agent", choices=("ppo", "td3"))
    parser.add_argument("--domain", default="walker")
    parser.add_argument("--task", default="walk")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[tuple[int, int, float]] = []
    for seed in args.seeds:
        rows += episodes(args.agent, args.domain, args.task, args.steps, seed)
        with args.out.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("seed", "env_steps", "episodic_return"), *rows])
        print(f"{args.agent} seed {seed}: last ten episodes {np.mean([r[2] for r in rows[-10:]]):.1f}")


if __name__ == "__main__":
    main()
