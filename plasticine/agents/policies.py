"""Action distributions as functions: noise to sample with, and log-probability."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

__all__ = ["Categorical", "DiagonalGaussian"]

_HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)


class DiagonalGaussian:
    """Independent normal components with a state-independent log standard deviation [n].

    Actions are not squashed; the environment clips them to its bounds (as CleanRL does), and log-probabilities
    refer to the action before clipping.
    """

    @staticmethod
    def noise(shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Standard normal noise, one entry per component."""
        return torch.randn(shape, generator=generator)

    @staticmethod
    def log_prob(mean: Tensor, log_std: Tensor, action: Tensor) -> Tensor:
        """ln N(action; mean, exp(log_std)^2) summed over components: [n, k], [k], [n, k] -> [n]."""
        z = (action - mean) * torch.exp(-log_std)
        return -0.5 * z.square().sum(-1) - log_std.sum() - mean.shape[-1] * _HALF_LOG_2PI


class Categorical:
    """A distribution over n actions given by logits [batch, n]."""

    @staticmethod
    def noise(shape: tuple[int, ...], generator: Generator) -> Tensor:
        """Gumbel noise: the arg max of logits + noise is a sample from the softmax."""
        exponential = torch.empty(shape).exponential_(generator=generator)
        return -exponential.clamp_(min=1e-30).log_()

    @staticmethod
    def log_prob(logits: Tensor, action: Tensor) -> Tensor:
        """ln softmax(logits)[action]: [n, k], [n] -> [n]."""
        return torch.log_softmax(logits, dim=-1).gather(-1, action[:, None]).squeeze(-1)

    @staticmethod
    def divergence(before: Tensor, now: Tensor) -> Tensor:
        """Mean Kullback-Leibler divergence KL(before || now) of distributions given by logits [..., n], 0-d."""
        p, q = torch.log_softmax(before, dim=-1), torch.log_softmax(now, dim=-1)
        return (p.exp() * (p - q)).sum(-1).mean()
