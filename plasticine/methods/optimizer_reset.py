"""Resetting the optimizer's state (Asadi et al., arXiv 2306.17833)."""

from __future__ import annotations

from typing import ClassVar

from plasticine.core.method import Method, Operation

__all__ = ["OptimizerReset"]


class OptimizerReset(Method):
    """Lets the optimizer forget: moments and step counters of every tensor in scope are those of a new optimizer.

    Parameters and learning rate stay. Whatever the optimizer keeps for a tensor is cleared; a wrapper that remembers
    values of parameters (TRAC) begins anew from the present ones, but keeps what it has tuned for all together.

    Args:
        common: See `Method`. The scope reaches every trainable tensor, normalisation and log standard deviation
            included.
    """

    needs_when: ClassVar = True

    def intervene(self, op: Operation) -> dict[str, float]:
        """Clear the state of every tensor in scope; report how many."""
        for name in op.params:
            op.surgeon.forget(name)
        return {"tensors": float(len(op.params))}
