"""The empirical neural tangent kernel: how independently a network can change its outputs."""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor

from plasticine.core.lab import Laboratory
from plasticine.core.metric import NetProbe, Probe
from plasticine.core.ranges import check_count, check_counts
from plasticine.metrics.bounds import number_within
from plasticine.metrics.rank import effective_rank, srank
from plasticine.metrics.sample_gradients import GradientRows, gram, leaves
from plasticine.metrics.seldom import Seldom

__all__ = ["TangentKernelRank", "kernel_values"]

#: Eigenvalues below this share of the largest one cannot be told from zero.
_ROUNDING = 1e-13


def kernel_values(kernel: Tensor, delta: float) -> dict[str, float]:
    """Return the values of `TangentKernelRank` by their suffix (``""`` for the effective rank).

    Args:
        kernel: [m, m] symmetric, positive semi-definite, float64.
        delta: See `TangentKernelRank`.
    """
    if not bool(torch.isfinite(kernel).all()):
        return dict.fromkeys(("", "srank", "log_condition"), math.nan)
    eigenvalues = torch.linalg.eigvalsh(kernel).clamp(min=0.0).flip(0)
    top, least = float(eigenvalues[0]), float(eigenvalues[-1])
    condition = math.log10(top / max(least, _ROUNDING * top)) if top > 0 else math.nan
    return {
        "": effective_rank(eigenvalues),
        "srank": srank(eigenvalues, delta),
        "log_condition": condition,
    }


class TangentKernelRank(Seldom):
    r"""Effective rank of the empirical neural tangent kernel of each network.

    .. math:: K_{ij} = \langle \nabla_\theta f(x_i), \nabla_\theta f(x_j) \rangle, \qquad
        \exp \Big( - \sum_k p_k \ln p_k \Big), \quad p_k = \lambda_k(K) / \textstyle\sum_l \lambda_l(K)

    with :math:`x_1, \dots, x_m` inputs from the probe batch, :math:`\theta` the network's trainable parameters and f
    the sum of all its outputs with random signs, drawn anew at every measurement: its kernel is on average the sum of
    the kernels of the single outputs. For a network with one output (a value) f is that output.

    Further values: ``srank`` of K, the number of eigenvalues that hold 1 - `delta` of their sum; ``log_condition``,
    the decimal logarithm of the largest eigenvalue divided by the smallest. At 13 the smallest one cannot be told
    from zero.

    Range: [1, m], 0 if no output depends on the parameters; falling = loss of plasticity (a change for one input
    changes all). log_condition [0, 13], rising = loss, NaN for a kernel of zeros. Scaling the outputs changes
    nothing, nor does the order of the inputs. NaN if an entry is not finite.

    Source: Jacot et al. 2018 (arXiv 1806.07572); its rank as a sign of capacity in Lyle et al. 2022 (arXiv
    2204.09560), 2024 (arXiv 2402.18762).

    Args:
        samples: Inputs, at most (m).
        delta: Share of the sum that may be missing from srank, in [0, 1).
        most, sketch, every: As for `GradientCovariance`.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(self, *, samples: int, delta: float, most: int, sketch: int, every: int | None) -> None:
        super().__init__(every=every)
        check_count("metrics.set.entk_rank.samples", samples, least=2)
        check_counts("metrics.set.entk_rank", most=most, sketch=sketch)
        self.samples = samples
        self.delta = number_within("delta of the entk_rank metric", delta, low=0.0, high=1.0)
        self.most = most
        self.sketch = sketch

    def look(self, probe: Probe) -> dict[str, float]:
        """Return the rank by network, the others by ``<network>/<name>``."""
        lab = probe.lab
        if lab is None:
            return {}
        generator = lab.generator("entk_rank")
        found: dict[str, float] = {}
        for net in probe.nets:
            values = kernel_values(gram(self._rows(lab, net, generator)), self.delta)
            found |= {f"{net.name}/{k}" if k else net.name: v for k, v in values.items()}
        return found

    def _rows(self, lab: Laboratory, net: NetProbe, generator: Generator) -> Tensor:
        """Gradients of the summed outputs [m, p], or sketches of them."""
        assert net.inputs is not None
        inputs, params = net.inputs, leaves(net.params)
        picks = torch.randperm(len(inputs), generator=generator)[: self.samples].to(inputs.device).split(1)
        signs = {
            head: torch.randint(2, out.shape[1:], generator=generator).mul_(2).sub_(1).to(out)
            for head, out in net.outputs.items()
        }

        def output(i: int) -> Tensor:
            outputs = lab.apply(net.name, params, inputs.index_select(0, picks[i]))
            with torch.enable_grad():
                return torch.stack([(outputs[head] * sign).sum() for head, sign in signs.items()]).sum()

        collector = GradientRows(most=self.most, size=self.sketch, generator=generator)
        return collector.collect(output, len(picks), {net.name: params})[net.name]
