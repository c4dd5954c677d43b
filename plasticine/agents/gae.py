"""Generalised advantage estimation with episodes that end in two different ways."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["advantages"]


def advantages(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Advantage of every step (Schulman et al., arXiv 1506.02438, eq. 16), [T, N].

    ``delta_t = r_t + gamma * (1 - terminated_t) * V(s'_t) - V(s_t)`` and
    ``A_t = delta_t + gamma * lam * (1 - done_t) * A_{t+1}``, with ``A_T = 0``.

    The recurrence is evaluated by a prefix scan: log2(T) passes over the whole array instead of T steps.

    Args:
        rewards, values: [T, N].
        next_values: [T, N] value of the state that really followed; at the end of an episode that is its final
            observation, not the first one of the next episode.
        terminated: [T, N] bool; the episode ended, nothing follows.
        done: [T, N] bool; the episode ended or was cut: no advantage flows across.
        gamma, lam: Discount and trace decay.
    """
    out = rewards + gamma * next_values * (~terminated) - values
    decay = (~done).to(rewards.dtype) * (gamma * lam)
    steps, reach = rewards.shape[0], 1
    while reach < steps:
        # Invariant: out[t] sums the next `reach` terms, decay[t] is their joint factor.
        far_out, far_decay = torch.zeros_like(out), torch.zeros_like(decay)
        far_out[:-reach], far_decay[:-reach] = out[reach:], decay[reach:]
        out = out + decay * far_out
        decay = decay * far_decay
        reach *= 2
    return out
