"""Categorical deep Q-learning (Bellemare et al., arXiv 1707.06887)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from plasticine.agents.actions import require_actions
from plasticine.agents.exploration import epsilon_greedy
from plasticine.agents.off_policy import OffPolicy
from plasticine.agents.policies import Categorical
from plasticine.core.agent import Decisions, Phase
from plasticine.core.env import EnvSpec
from plasticine.core.noise import Streams
from plasticine.core.optim import Adam
from plasticine.core.ranges import check_count, check_counts, check_numbers
from plasticine.core.state import TrainState
from plasticine.errors import UserError
from plasticine.networks.initializers import Initializer
from plasticine.networks.network import Network
from plasticine.networks.spec import HeadSpec, LayerSpec, NetSpec

__all__ = ["C51", "QBatch", "projected"]


def projected(masses: Tensor, rewards: Tensor, discounts: Tensor, support: Tensor) -> Tensor:
    """Distribution of ``r + discount * Z`` brought back onto the support (algorithm 1 of the paper), [n, atoms].

    Each shifted atom, clipped to the support, shares its mass between its two neighbours in proportion to how near
    they are; on an atom exactly, or at an end, all mass goes there.

    Args:
        masses: [n, atoms] distribution of Z; rows add up to 1.
        rewards, discounts: [n]; the discount is 0 where the episode terminated.
        support: [atoms] equally spaced, ascending.
    """
    atoms = support.shape[0]
    width = (support[-1] - support[0]) / (atoms - 1)
    shifted = rewards[:, None] + discounts[:, None] * support
    place = ((shifted - support[0]) / width).clamp(0, atoms - 1)
    index = torch.arange(atoms, device=support.device, dtype=support.dtype)
    shares = (1.0 - (place[:, :, None] - index).abs()).clamp_(min=0.0)
    return torch.bmm(masses[:, None, :], shares).squeeze(1)


class QBatch(NamedTuple):
    """[n, *obs_shape] network inputs, [n] actions taken, [n, atoms] distribution to learn."""

    obs: Tensor
    actions: Tensor
    targets: Tensor


class C51(OffPolicy):
    """C51 with the details of CleanRL's implementation, for discrete actions.

    The network's head ``atoms`` holds, for each action, the logits of a distribution of returns over `atoms` equally
    spaced values in `v_min` .. `v_max`. It learns, by cross-entropy, the projected distribution of
    ``r + gamma * (1 - terminated) * Z'(s', a*)``, with `Z'` the slow copy and `a*` its own greedy action.

    The slow copy uses the online network's frozen layers, if a method has given it any.

    Args:
        atoms, v_min, v_max: The support.
        target_frequency: Environment steps (summed over environments) between two copies of the parameters into the
            slow copy, counted while learning and rounded to whole batches.
        epsilon_start, epsilon_end, epsilon_fraction: Random actions are taken with a probability that falls linearly
            from start to end over this fraction of the run.
        frame_stack: Observations that are images whose first axis has this length are taken for stacks of frames, of
            which the memory stores every frame once (any other observation is stored whole). Whatever it is, what is
            sampled is what was observed.
        common: See `OffPolicy`.
    """

    def __init__(
        self,
        *,
        atoms: int,
        v_min: float,
        v_max: float,
        target_frequency: int,
        epsilon_start: float,
        epsilon_end: float,
        epsilon_fraction: float,
        frame_stack: int,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        check_count("agent.atoms", atoms, least=2)
        check_counts("agent", target_frequency=target_frequency, frame_stack=frame_stack)
        check_numbers("agent", "(-inf, inf)", v_min=v_min, v_max=v_max)
        if not v_min < v_max:
            raise UserError(f"agent.v_min={v_min} is not below agent.v_max={v_max}", "set agent.v_max higher")
        check_numbers("agent", "[0, 1]", epsilon_start=epsilon_start, epsilon_end=epsilon_end)
        check_numbers("agent", "(0, 1]", epsilon_fraction=epsilon_fraction)
        self.atoms = atoms
        self.v_min = v_min
        self.v_max = v_max
        self.target_period = max(1, round(target_frequency / self.train_frequency))
        self.epsilon_start = epsilon_start
        self.epsilon_end = epsilon_end
        self.epsilon_fraction = epsilon_fraction
        self.frame_stack = frame_stack

    # -- building --------------------------------------------------------------------------------------------
    def check_env(self, env: EnvSpec) -> None:
        """Discrete actions."""
        require_actions("c51", env, "discrete")

    def networks(self, env: EnvSpec, body: Sequence[LayerSpec]) -> tuple[NetSpec, ...]:
        """One network ``q``; output ``action * atoms + atom``."""
        default = Initializer("uniform_fan_in")
        head = HeadSpec(env.action.n * self.atoms, default, default)
        return (NetSpec("q", env.obs_shape, tuple(body), {"atoms": head}),)

    def phases(self) -> tuple[Phase, ...]:
        """One phase."""
        adam = Adam(betas=self.adam_betas, eps=self.adam_eps)
        return (Phase("update", ("q",), adam, None, ("q_loss", "q_value")),)

    def bind(
        self,
        env: EnvSpec,
        networks: Mapping[str, Network],
        state: TrainState,
        streams: Streams,
        device: torch.device,
    ) -> None:
        """See `OffPolicy.bind`."""
        image = env.obs_dtype == "uint8" and len(env.obs_shape) == 3
        stacked = image and env.obs_shape[0] == self.frame_stack
        self.frames = self.frame_stack if stacked else 1
        super().bind(env, networks, state, streams, device)
        self._q = networks["q"]
        self._support = torch.linspace(self.v_min, self.v_max, self.atoms).to(device)
        self._progress = 0.0
        self._steps = 0

    def updates_per_iteration(self, env: EnvSpec) -> int:
        """One step for every batch."""
        return self.collects_per_iteration * self.batches_per_round

    # -- collecting ------------------------------------------------------------------------------------------
    @property
    def epsilon(self) -> float:
        """Probability of a random action, as of the latest round."""
        done = min(1.0, self._progress / self.epsilon_fraction)
        return self.epsilon_start + (self.epsilon_end - self.epsilon_start) * done

    def _draw_noise(self, shape: tuple[int, int], generator: Generator) -> None:
        self._explore = torch.rand(shape, generator=generator).numpy() < self.epsilon
        self._random = torch.randint(self._env.action.n, shape, generator=generator).numpy()

    def _choose(self, obs: Tensor, t: int) -> NDArray[Any]:
        explore = self._explore[t]
        if explore.all():
            return self._random[t]
        greedy = self._greedy(self._logits(obs, None)).cpu().numpy()
        return np.where(explore, self._random[t], greedy)

    @torch.no_grad()
    def choose(self, obs: NDArray[Any], *, greedy: bool, generator: Generator) -> NDArray[Any]:
        """The action with the largest mean; not greedy: a random one with probability `epsilon_end`."""
        best = self._greedy(self._logits(self._input(torch.from_numpy(obs)), None))
        return epsilon_greedy(best, self._env.action.n, 0.0 if greedy else self.epsilon_end, generator)

    def _logits(self, obs: Tensor, params: Mapping[str, Tensor] | None) -> Tensor:
        return self._q(obs, params)["atoms"].view(len(obs), -1, self.atoms)

    def _greedy(self, logits: Tensor) -> Tensor:
        """The action with the largest mean [n]."""
        return (torch.softmax(logits, -1) @ self._support).argmax(1)

    # -- learning --------------------------------------------------------------------------------------------
    def batches(self, progress: float) -> Iterator[tuple[str, float, QBatch]]:
        """A batch for every training period."""
        self._progress = progress
        if not self.ready:
            return
        for _ in range(self.batches_per_round):
            b = self._sample()
            yield "update", self.lr, QBatch(b.obs, b.actions, self._targets(*b[2:]))

    @torch.no_grad()
    def _targets(self, rewards: Tensor, next_obs: Tensor, terminated: Tensor) -> Tensor:
        """[n, atoms] distributions to learn, from the slow copy only."""
        masses = torch.softmax(self._logits(next_obs, self._slow["q"]), -1)
        best = (masses @ self._support).argmax(1)
        rows = torch.arange(len(best), device=best.device)
        return projected(masses[rows, best], rewards, self.gamma * (~terminated), self._support)

    def loss(self, phase: str, batch: QBatch) -> tuple[Tensor, Sequence[Tensor]]:
        """Cross-entropy of the distribution of the action taken."""
        logits = self._logits(batch.obs, None)
        taken = batch.actions.view(-1, 1, 1).expand(-1, 1, self.atoms)
        log_masses = torch.log_softmax(logits.gather(1, taken).squeeze(1), -1)
        loss = -(batch.targets * log_masses).sum(-1).mean()
        return loss, (loss.detach(), (log_masses.detach().exp() @ self._support).mean())

    def fit(self, phase: str, batch: QBatch) -> tuple[Tensor, Tensor]:
        """Means of the distributions of the actions taken, and of their targets."""
        means = torch.softmax(self._logits(batch.obs, None), -1) @ self._support
        return means.gather(1, batch.actions.view(-1, 1)).squeeze(1), batch.targets @ self._support

    def after_update(self, phase: str) -> None:
        """The slow copy is renewed every `target_frequency` environment steps."""
        self._steps += 1
        if self._steps % self.target_period == 0:
            torch._foreach_copy_(self._slow_list, self._fast_list)

    # -- looking ---------------------------------------------------------------------------------------------
    def probe_inputs(self, count: int, generator: Generator) -> Mapping[str, Tensor]:
        """Random stored observations."""
        return {"q": self._probe(count, generator).obs}

    @torch.no_grad()
    def values(self, obs: NDArray[Any], actions: NDArray[Any]) -> Mapping[str, Tensor]:
        """The means of the distributions of the actions."""
        means = torch.softmax(self._logits(self._input(torch.from_numpy(obs)), None), -1) @ self._support
        return {"q": means.gather(1, torch.from_numpy(actions).to(self._device)[:, None]).squeeze(1)}

    def difference(self, net: str, head: str, before: Tensor, now: Tensor) -> Tensor:
        """The mean divergence of the distributions of all actions."""
        return Categorical.divergence(*(x.view(len(x), -1, self.atoms) for x in (before, now)))

    def decisions(
        self, net: str, outputs: Mapping[str, Tensor], params: Mapping[str, Tensor]
    ) -> Decisions | None:
        """The action with the largest mean."""
        logits = outputs["atoms"]
        return Decisions(self._greedy(logits.view(len(logits), -1, self.atoms)))

    def statistics(self) -> dict[str, float]:
        """Probability of a random action."""
        return {"epsilon": self.epsilon}

    def state(self) -> dict[str, Any]:
        """Optimizer steps taken, and the fraction of the run done."""
        return {"steps": self._steps, "progress": self._progress}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore `state`."""
        self._steps = int(state["steps"])
        self._progress = float(state["progress"])
