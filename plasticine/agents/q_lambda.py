"""Targets of Q(lambda) without importance weights (Peng & Williams 1996), as PQN uses them."""

from __future__ import annotations

from torch import Tensor

from plasticine.agents.gae import advantages

__all__ = ["lambda_returns"]


def lambda_returns(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    gamma: float,
    lam: float,
) -> Tensor:
    """Target of every step of a rollout (Gallici et al., arXiv 2407.04811, algorithm 1), [T, N].

    ``G_t = r_t + gamma * (1 - terminated_t) * ((1 - lam) * V(s'_t) + lam * G_{t+1})``, where G_{t+1} is V(s'_t) if
    the episode ended or was cut after step t, and at the end of the rollout. With V the largest action value this
    is the one-step target at ``lam = 0`` and the discounted sum of rewards, bootstrapped at its end, at
    ``lam = 1``. ``G_t - V(s_t)`` obeys the recurrence of generalised advantages, which evaluates it.

    Args:
        rewards: [T, N].
        values: [T, N] largest action value of the observations acted on.
        next_values: [T, N] the same of what really followed; see `plasticine.agents.following`.
        terminated: [T, N] bool; nothing follows.
        done: [T, N] bool; the episode ended or was cut.
        gamma, lam: Discount and trace decay.
    """
    return values + advantages(rewards, values, next_values, terminated, done, gamma, lam)
