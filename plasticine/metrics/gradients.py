"""How strong the learning signal is."""

from __future__ import annotations

from plasticine.metrics.update_scalar import UpdateScalar

__all__ = ["GradientNorm"]


class GradientNorm(UpdateScalar):
    r"""Euclidean norm of the gradient before clipping, averaged over the minibatches of the latest update.

    .. math:: \| \nabla_\theta L \|_2

    over all trainable tensors of the agent together, for the loss including the terms that methods add. The
    agent reports it as the scalar ``grad_norm``.

    Range: [0, inf); vanishing = loss of plasticity, exploding = instability. NaN if the gradient was not
    finite. No value if the agent does not report it.

    Source: Yuan et al. 2025 (Plasticine, arXiv 2504.17490), "gradient norm".
    """

    scalar = "grad_norm"
