"""Metrics read a probe of the learner and return numbers; they change nothing.

What there is to read is worked out when somebody asks, and once for all metrics of a measurement:

===============================  ====================================================================================
one shared forward pass          ``net.sites``, ``net.features``, ``net.outputs``, ``net.singular_values``,
                                 ``site.activity``, ``site.extremes``, ``site.singular_values``
weights, now and earlier         ``net.params``, ``net.anchors``
what the policy would do         ``net.decisions()``, and at earlier weights: ``net.decisions("update")``
raw gradients                    ``probe.gradients``, of the last minibatch of the update (`Metric.needs_batch`)
optimizer                        ``probe.second_moments``, ``probe.rates``
experiments                      ``probe.lab``: the loss and the networks as functions of parameters, fresh weights,
                                 random streams; see `plasticine.core.lab.Laboratory`
===============================  ====================================================================================
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    from plasticine.core.agent import Decisions
    from plasticine.core.lab import Laboratory
    from plasticine.core.optim import SecondMoment
    from plasticine.core.returns import Expectations

__all__ = ["Layers", "Metric", "NetProbe", "Probe", "SiteProbe"]

#: Values of single layers: network -> layer (``body.0``, ``head.policy``) -> value.
Layers = dict[str, dict[str, float]]


def _singular_values(matrix: Tensor) -> Tensor:
    matrix = matrix.detach().to("cpu", torch.float64)
    if not bool(torch.isfinite(matrix).all()):
        return torch.full((min(matrix.shape),), float("nan"), dtype=torch.float64)
    return torch.linalg.svdvals(matrix)


@dataclass(frozen=True)
class SiteProbe:
    """Activations of one hidden layer on the probe batch.

    Attributes:
        name: Activation site, e.g. ``body.0``.
        pre: Pre-activation (after normalisation, before the non-linearity): [n, units] or [n, units, H, W].
        post: What the next layer reads: [n, width] or [n, width, H, W]; ``width = expansion * units``.
        act: Name of the activation, e.g. ``relu``, ``tanh``, ``crelu``, ``fourier``.
        expansion: Columns per unit (2 for CReLU and Fourier: unit i feeds columns i and i + units).
    """

    name: str
    pre: Tensor
    post: Tensor
    act: str
    expansion: int = 1

    @cached_property
    def activity(self) -> Tensor:
        """Mean absolute output of every unit, float64 [units]; NaN entries where an output is not finite.

        A unit with several columns (CReLU, Fourier) gets the sum over them: for CReLU that is mean |z|, for
        Fourier mean |sin z| + mean |cos z|, which lies in [1, sqrt 2]. Images are averaged over their positions
        too.
        """
        # Averaged in float32 on the device (an image layer in float64 would be gigabytes), summed up in float64.
        others = [axis for axis in range(self.post.ndim) if axis != 1]
        columns = self.post.detach().abs().float().mean(dim=others).to("cpu", torch.float64)
        return columns.reshape(self.expansion, -1).sum(dim=0)

    @cached_property
    def extremes(self) -> tuple[Tensor, Tensor]:
        """Smallest and largest pre-activation of every unit, over observations and positions: [units] each."""
        # As images lie in memory, and first over observations: ten times faster than over all axes at once.
        rows = self.pre.detach().movedim(1, -1).flatten(1)
        units = self.pre.shape[1]
        return rows.amin(0).view(-1, units).amin(0), rows.amax(0).view(-1, units).amax(0)

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values of what the layer gives to the next, float64, descending; NaN if it is not finite.

        [min(n, width)] of the matrix [n, width]; for images of the matrix of all positions [n * H * W, width], from
        its Gram matrix in float64: an error of about 1e-7 times the largest one, which is that of float32 outputs.
        """
        if self.post.ndim == 2:
            return _singular_values(self.post)
        flat = self.post.detach().movedim(1, -1).flatten(0, -2)
        gram = torch.zeros(flat.shape[1], flat.shape[1], dtype=torch.float64, device=flat.device)
        for part in flat.split(1 << 16):
            wide = part.double()
            gram += wide.T @ wide
        if not bool(torch.isfinite(gram).all()):
            return torch.full((min(flat.shape),), float("nan"), dtype=torch.float64)
        squares = torch.linalg.eigvalsh(gram.cpu()).flip(0)
        squares[squares <= squares[0] * 1e-14 * len(squares)] = 0.0
        return squares.sqrt()[: min(flat.shape)]


@dataclass(frozen=True)
class NetProbe:
    """One network seen on the probe batch.

    Attributes:
        name: Network name, e.g. ``actor``.
        sites: Hidden layers in forward order.
        features: Output of the last hidden layer [n, d] (what the heads read).
        params: Trainable tensors by full name, ``<network>/<layer>.<tensor>`` (live: do not write).
        anchors: Earlier values of the same tensors: ``update`` (start of the latest update), ``task`` (start of
            the task), ``init`` (start of the run).
        kinds: Kind of each tensor: ``weight | bias | norm_scale | norm_offset | free``.
        outputs: Head outputs on the probe batch, by head name.
        inputs: The probe batch as the network reads it [n, *inputs].
        lab: Evaluates the network at other parameters; None for a probe made by hand.
    """

    name: str
    sites: tuple[SiteProbe, ...]
    features: Tensor
    params: Mapping[str, Tensor]
    anchors: Mapping[str, Mapping[str, Tensor]]
    kinds: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    inputs: Tensor | None = None
    lab: Laboratory | None = None

    @cached_property
    def singular_values(self) -> Tensor:
        """Singular values of `features`, float64, descending [min(n, d)]; NaN if features are not finite.

        Computed once and shared by every rank metric.
        """
        last = self.sites[-1] if self.sites else None
        if last is not None and last.post.ndim == 2 and last.post.data_ptr() == self.features.data_ptr():
            return last.singular_values
        return _singular_values(self.features)

    def decisions(self, since: str | None = None) -> Decisions | None:
        """What the policy would do on the probe batch, now or with the weights of the anchor `since`.

        None if this network does not decide. Earlier weights take one more forward pass of this network.
        """
        if self.lab is None or self.inputs is None:
            return None
        if since is None:
            return self.lab.decisions(self.name, self.outputs, self.params)
        if self.lab.decisions(self.name, self.outputs, self.params) is None:
            return None
        earlier = self.anchors[since]
        return self.lab.decisions(self.name, self.lab.apply(self.name, earlier, self.inputs), earlier)

    def layer_of(self, tensor: str) -> str:
        """Layer that a tensor of `params` belongs to: ``body.0`` of ``actor/body.0.weight``."""
        local = tensor.removeprefix(f"{self.name}/")
        return local.rpartition(".")[0] or local


@dataclass(frozen=True)
class Probe:
    """One measurement: a single forward pass of all online networks over the probe batch.

    Attributes:
        nets: The online networks.
        scalars: Numbers of the latest update: averages over its minibatches (``grad_norm``, ``policy_entropy``
            ...), and the agent's own statistics (``explained_variance`` ...).
        iteration: Iterations finished in the run (1 at the first measurement).
        env_steps: Environment steps taken so far.
        task_end: Whether this is the last measurement of a task: the moment for what is too expensive otherwise.
        lab: Experiments on the learner; None for a probe made by hand.
        rehearse: Plays one episode of every environment, of up to so many steps, and returns what the agent expected
            and what came of it (see `plasticine.core.returns.Rehearsal`); None for a probe made by hand.
        second_moments: The optimizer's running mean of squared gradients by parameter; empty where it keeps none.
        rates: Learning rate of the latest step by network; empty before the first one. Needs `Metric.needs_batch`.
    """

    nets: tuple[NetProbe, ...]
    scalars: Mapping[str, float] = field(default_factory=dict)
    iteration: int = 1
    env_steps: int = 0
    task_end: bool = False
    lab: Laboratory | None = None
    rehearse: Callable[[int], Expectations | None] | None = None

    @cached_property
    def gradients(self) -> Mapping[str, Tensor]:
        """Gradient by full parameter name of the agent's own loss, at the present parameters, before clipping.

        On the last minibatch of every phase; without terms that methods add. Empty before the first optimizer step.
        A metric that reads it sets `Metric.needs_batch`.
        """
        found: dict[str, Tensor] = {}
        for phase in self.lab.batches if self.lab is not None else ():
            found |= self.lab.gradients(phase)  # type: ignore[union-attr]
        return found

    @cached_property
    def second_moments(self) -> Mapping[str, SecondMoment]:
        """See above."""
        return {} if self.lab is None else self.lab.second_moments()

    @cached_property
    def rates(self) -> Mapping[str, float]:
        """See above."""
        return {} if self.lab is None else self.lab.rates()


class Metric(ABC):
    """A number (or a few) that says something about a network's ability to learn.

    Parameters, buffers, gradients, random generators and train/eval mode must be the same after `compute`;
    the trainer calls it under ``torch.no_grad``. Random numbers come from ``probe.lab.generator(purpose)``.
    """

    #: Whether the last minibatch of the update is to be kept for this metric: for gradients and experiments on the
    #: training loss. If no metric wants it, nothing is kept.
    needs_batch: ClassVar[bool] = False

    @abstractmethod
    def compute(self, probe: Probe) -> dict[str, float]:
        """Return values keyed by network name (``actor``), or ``""`` for a value of the whole agent.

        Keys become ``plasticity/<metric>/<network>``; the aggregate over networks is their mean. Further values that
        come with the same work have keys ``<network>/<name>`` and become ``plasticity/<metric>_<name>/<network>``,
        with an aggregate of their own. Return NaN for
        an input that contains non-finite numbers, never raise. A network that the metric does not apply to, or not
        at this measurement, is left out.
        """

    def layers(self, probe: Probe) -> Layers:
        """Return values of single layers by network and layer. They are kept in a table of their own, not as keys."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What the metric remembers from one measurement to the next; saved with every checkpoint."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027 - most metrics remember nothing
        """Restore `state`."""
