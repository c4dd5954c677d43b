"""Twin delayed deep deterministic policy gradient (Fujimoto et al., arXiv 1802.09477)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from plasticine.agents.actions import require_actions
from plasticine.agents.off_policy import OffPolicy
from plasticine.core.agent import Decisions, Phase
from plasticine.core.env import EnvSpec
from plasticine.core.noise import Streams
from plasticine.core.optim import Adam
from plasticine.core.ranges import check_counts, check_numbers
from plasticine.core.state import TrainState
from plasticine.errors import UserError
from plasticine.networks.initializers import Initializer
from plasticine.networks.network import Network
from plasticine.networks.spec import HeadSpec, LayerSpec, NetSpec

__all__ = ["TD3", "CriticBatch"]

_CRITICS = ("critic.0", "critic.1")


class CriticBatch(NamedTuple):
    """Observation and action side by side [n, d + k], observation [n, d], and value to learn [n]."""

    pairs: Tensor
    obs: Tensor
    targets: Tensor


class TD3(OffPolicy):
    """TD3 with the details of CleanRL's implementation, for continuous actions and vector observations.

    ``critic.0`` and ``critic.1`` learn ``r + gamma * (1 - terminated) * min_i Q'_i(s', a')`` with
    ``a' = clip(pi'(s') + clip(noise), low, high)`` (algorithm 1 of the paper); primes are slow copies. Every
    `policy_delay` batches the actor ascends ``Q_0(s, pi(s))``, and the slow copies move by `tau`. The actor's output
    passes through tanh and is scaled to the action bounds; noise scales refer to half the width of the bounds.

    The slow copies use the online network's frozen layers, if a method has given it any.

    Args:
        tau: Share by which slow copies follow, 0..1.
        policy_delay: Critic steps for each actor step.
        exploration_noise: Standard deviation of the noise on actions taken.
        target_noise, target_noise_clip: Standard deviation and bound of the noise on actions in targets.
        common: See `OffPolicy`. The first `learning_starts` steps take uniformly random actions.
    """

    def __init__(
        self,
        *,
        tau: float,
        policy_delay: int,
        exploration_noise: float,
        target_noise: float,
        target_noise_clip: float,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_counts("agent", policy_delay=policy_delay)
        check_numbers("agent", "[0, 1]", tau=tau)
        check_numbers("agent", "[0, inf)", exploration_noise=exploration_noise, target_noise=target_noise)
        check_numbers("agent", "[0, inf)", target_noise_clip=target_noise_clip)
        self.tau = tau
        self.policy_delay = policy_delay
        self.exploration_noise = exploration_noise
        self.target_noise = target_noise
        self.target_noise_clip = target_noise_clip

    # -- building --------------------------------------------------------------------------------------------
    def check_env(self, env: EnvSpec) -> None:
        """Continuous, bounded actions and vector observations."""
        require_actions("td3", env, "continuous")
        if not all(math.isfinite(v) for v in (*env.action.low, *env.action.high)):
            raise UserError(
                f"agent td3 needs bounded actions; those of {env.name} are not", "choose another agent"
            )
        if len(env.obs_shape) != 1:
            raise UserError(
                f"agent td3 needs vector observations; those of {env.name} have shape {env.obs_shape}",
                "choose an agent for images, or an environment with vector observations",
            )

    def networks(self, env: EnvSpec, body: Sequence[LayerSpec]) -> tuple[NetSpec, ...]:
        """``actor`` on observations; ``critic.0`` and ``critic.1`` on observations and actions."""
        size, k = env.obs_shape[0], env.action.n
        default = Initializer("uniform_fan_in")
        policy, value = HeadSpec(k, default, default), HeadSpec(1, default, default)
        layers = tuple(body)
        critics = (NetSpec(name, (size + k,), layers, {"value": value}) for name in _CRITICS)
        return (NetSpec("actor", env.obs_shape, layers, {"policy": policy}), *critics)

    def phases(self) -> tuple[Phase, ...]:
        """Both critics together; the actor."""
        adams = [Adam(betas=self.adam_betas, eps=self.adam_eps) for _ in range(2)]
        return (
            Phase("critic", _CRITICS, adams[0], None, ("critic_loss", "q_value")),
            Phase("actor", ("actor",), adams[1], None, ("actor_loss",)),
        )

    def bind(
        self,
        env: EnvSpec,
        networks: Mapping[str, Network],
        state: TrainState,
        streams: Streams,
        device: torch.device,
    ) -> None:
        """See `OffPolicy.bind`."""
        super().bind(env, networks, state, streams, device)
        self._actor = networks["actor"]
        self._critics = [networks[name] for name in _CRITICS]
        self._low_np, self._high_np = (np.asarray(v, np.float32) for v in (env.action.low, env.action.high))
        low, high = (torch.from_numpy(v) for v in (self._low_np, self._high_np))
        self._half_np = ((high - low) / 2).numpy()
        self._low, self._high = low.to(device), high.to(device)
        self._half, self._middle = ((high - low) / 2).to(device), ((high + low) / 2).to(device)
        self._critic_steps = 0

    def _whole_rounds(self) -> int:
        return self.policy_delay // math.gcd(self.policy_delay, self.batches_per_round)

    def updates_per_iteration(self, env: EnvSpec) -> int:
        """A critic step for every batch, and an actor step for every `policy_delay` of them."""
        batches = self.collects_per_iteration * self.batches_per_round
        return batches + batches // self.policy_delay

    # -- collecting ------------------------------------------------------------------------------------------
    def _draw_noise(self, shape: tuple[int, int], generator: Generator) -> None:
        size = (*shape, self._env.action.n)
        self._random = self._explores
        if self._random:
            self._noise = self._low_np + 2 * self._half_np * torch.rand(size, generator=generator).numpy()
        else:
            scale = self._half_np * self.exploration_noise
            self._noise = torch.randn(size, generator=generator).numpy() * scale

    @property
    def _explores(self) -> bool:
        """Whether the run is in its first steps, before any learning."""
        return self._critic_steps == 0 and not self.ready

    def _choose(self, obs: Tensor, t: int) -> NDArray[Any]:
        if self._random:
            return np.clip(self._noise[t], self._low_np, self._high_np)
        action = self._policy(self._actor(obs)["policy"]).cpu().numpy()
        return np.clip(action + self._noise[t], self._low_np, self._high_np)

    @torch.no_grad()
    def choose(self, obs: NDArray[Any], *, greedy: bool, generator: Generator) -> NDArray[Any]:
        """The policy's action; not greedy: with `exploration_noise`, never uniformly random."""
        action = self._policy(self._actor(self._input(torch.from_numpy(obs)))["policy"]).cpu().numpy()
        if not greedy:
            noise = torch.randn(action.shape, generator=generator).numpy()
            action = action + noise * self._half_np * self.exploration_noise
        return np.clip(action, self._low_np, self._high_np)

    def _policy(self, out: Tensor) -> Tensor:
        return torch.tanh(out) * self._half + self._middle

    # -- learning --------------------------------------------------------------------------------------------
    def batches(self, progress: float) -> Iterator[tuple[str, float, Any]]:
        """A critic batch for every training period; every `policy_delay`-th serves the actor as well."""
        if not self.ready:
            return
        for _ in range(self.batches_per_round):
            b = self._sample()
            batch = CriticBatch(torch.cat((b.obs, b.actions), 1), b.obs, self._targets(*b[2:]))
            yield "critic", self.lr, batch
            self._critic_steps += 1
            if self._critic_steps % self.policy_delay == 0:
                yield "actor", self.lr, batch

    @torch.no_grad()
    def _targets(self, rewards: Tensor, next_obs: Tensor, terminated: Tensor) -> Tensor:
        """[n] values to learn, from slow copies only."""
        shape = (len(rewards), len(self._low_np))
        noise = torch.randn(shape, generator=self._streams["target_noise"]).mul_(self.target_noise)
        noise = noise.clamp_(-self.target_noise_clip, self.target_noise_clip).to(self._device) * self._half
        action = self._policy(self._actor(next_obs, self._slow["actor"])["policy"])
        action = torch.minimum(torch.maximum(action + noise, self._low), self._high)
        pairs = torch.cat((next_obs, action), 1)
        first, second = (n(pairs, self._slow[n.name])["value"].squeeze(1) for n in self._critics)
        return rewards + self.gamma * (~terminated) * torch.minimum(first, second)

    def loss(self, phase: str, batch: CriticBatch) -> tuple[Tensor, Sequence[Tensor]]:
        """Critics: sum of both mean squared errors. Actor: the first critic's mean value, negated."""
        if phase == "actor":
            action = self._policy(self._actor(batch.obs)["policy"])
            value = self._critics[0](torch.cat((batch.obs, action), 1))["value"]
            loss = -value.mean()
            return loss, (loss.detach(),)
        first, second = (n(batch.pairs)["value"].squeeze(1) for n in self._critics)
        mse = torch.nn.functional.mse_loss
        loss = mse(first, batch.targets) + mse(second, batch.targets)
        return loss, (loss.detach(), first.detach().mean())

    def fit(self, phase: str, batch: CriticBatch) -> tuple[Tensor, Tensor] | None:
        """The first critic's values and its targets."""
        if phase == "actor":
            return None
        return self._critics[0](batch.pairs)["value"].squeeze(1), batch.targets

    def after_update(self, phase: str) -> None:
        """Slow copies follow the actor's steps."""
        if phase == "actor":
            torch._foreach_lerp_(self._slow_list, self._fast_list, self.tau)

    # -- looking ---------------------------------------------------------------------------------------------
    def probe_inputs(self, count: int, generator: Generator) -> Mapping[str, Tensor]:
        """Random stored transitions, the same for every network."""
        b = self._probe(count, generator)
        return {"actor": b.obs, **dict.fromkeys(_CRITICS, torch.cat((b.obs, b.actions), 1))}

    @torch.no_grad()
    def values(self, obs: NDArray[Any], actions: NDArray[Any]) -> Mapping[str, Tensor]:
        """The value of observation and action according to each critic."""
        pairs = torch.cat([self._input(torch.from_numpy(x)) for x in (obs, actions)], 1)
        return {n.name: n(pairs)["value"].squeeze(1) for n in self._critics}

    def difference(self, net: str, head: str, before: Tensor, now: Tensor) -> Tensor:
        """The mean squared difference of actions in half widths of their bounds, and of values."""
        if head == "policy":
            before, now = torch.tanh(before), torch.tanh(now)
        return super().difference(net, head, before, now)

    def decisions(
        self, net: str, outputs: Mapping[str, Tensor], params: Mapping[str, Tensor]
    ) -> Decisions | None:
        """The policy's action in widths of its bounds."""
        return Decisions(self._policy(outputs["policy"]), 2 * self._half) if net == "actor" else None

    def state(self) -> dict[str, Any]:
        """Critic steps taken."""
        return {"critic_steps": self._critic_steps}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self._critic_steps = int(state["critic_steps"])
