"""Can the networks still learn something new? Copies of them are trained on random targets."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

from plasticine.core.lab import Laboratory
from plasticine.core.metric import NetProbe, Probe
from plasticine.core.optim import Adam
from plasticine.core.ranges import check_counts, check_numbers
from plasticine.metrics.sample_gradients import leaves
from plasticine.metrics.seldom import Seldom

__all__ = ["CapacityProbe", "fitted_loss", "standardised"]

#: Features [n, d] of inputs [n, ...] at parameters given by name.
Features = Callable[[Mapping[str, Tensor], Tensor], Tensor]
#: Rows of one forward pass where no gradient is needed.
_ROWS = 256


def standardised(values: Tensor) -> Tensor | None:
    """Values [n] shifted and scaled to mean 0 and (population) variance 1; None if they are constant or broken."""
    deviations = values - values.mean()
    scale = deviations.square().mean().sqrt()
    # Rounding alone makes equal values differ by this much.
    if not bool(torch.isfinite(scale)) or float(scale) <= 1e-6 * float(values.abs().max()):
        return None
    return deviations / scale


def fitted_loss(
    features: Features,
    body: Mapping[str, Tensor],
    head: Tensor,
    inputs: Tensor,
    targets: Tensor,
    *,
    steps: int,
    batch_size: int,
    lr: float,
    generator: Generator,
) -> float:
    """Mean squared error over all inputs after Adam (0.9, 0.999, 1e-8) has fitted the targets; NaN if not finite.

    Everything is trained: copies of `body`, and a linear read-out that starts with the weights `head` and a bias of
    0. Given tensors are not written.

    Args:
        features: Evaluates the body.
        body: Initial values by name.
        head: [d].
        inputs, targets: [n, ...] and [n].
        steps: Of Adam.
        batch_size: Rows in each, drawn with replacement.
        lr: Learning rate.
        generator: Source of the minibatches.
    """
    copy = leaves({name: value.clone() for name, value in body.items()})
    read_out = leaves({"weight": head.clone(), "bias": head.new_zeros(())})
    trained = {**{f"body:{k}": v for k, v in copy.items()}, **read_out}
    adam = Adam(betas=(0.9, 0.999), eps=1e-8)
    adam.bind(trained)

    def error(x: Tensor, y: Tensor) -> Tensor:
        return (features(copy, x) @ read_out["weight"] + read_out["bias"] - y).square()

    picks = torch.randint(len(inputs), (steps, batch_size), generator=generator).to(inputs.device)
    for pick in picks:
        with torch.enable_grad():
            loss = error(inputs.index_select(0, pick), targets[pick]).mean()
            grads = torch.autograd.grad(
                loss, list(trained.values()), allow_unused=True, materialize_grads=True
            )
        with torch.no_grad():
            adam.step([g.contiguous() for g in grads], lr)
    with torch.no_grad():
        parts = zip(inputs.split(_ROWS), targets.split(_ROWS), strict=True)
        final = float(torch.cat([error(x, y) for x, y in parts]).double().mean())
    return final if math.isfinite(final) else math.nan


class CapacityProbe(Seldom):
    r"""How badly a copy of each network learns random targets that a new network learns well.

    .. math:: c(\theta) = \frac{1}{T} \sum_t
        \frac{\frac{1}{n} \sum_i (f_{\theta'}(x_i) - y_{t,i})^2}{\mathrm{Var}(y_t)}

    with :math:`\theta'` what `steps` steps of a new Adam make of the hidden layers :math:`\theta` together with a new
    linear read-out; :math:`x_1, \dots, x_n` the probe batch; and :math:`y_t` the output of a network of the same
    hidden layers with new random weights and a random read-out, one for each of T targets.

    The value is c of the present weights. ``fresh`` is c of the weights that the run began with, trained alike: same
    targets, read-outs and minibatches. ``gap`` is their difference :math:`c(\theta) - c(\theta_0)`; exactly 0 at the
    beginning of the run, positive = loss of plasticity.

    Range: [0, inf), 0 = learnt perfectly, 1 = nothing learnt but the mean; rising = loss. The gap: any number. Frozen
    copies of layers take no part. NaN if a target is constant or a loss not finite. Copies are trained; nothing of
    the run is.

    Source: Lyle et al. 2022 (arXiv 2204.09560), target-fitting capacity; the gap as in the definition of plasticity
    of Klein et al. 2024 (arXiv 2411.04832).

    Args:
        targets: T.
        steps: Optimizer steps for each.
        batch_size: Inputs in each step.
        lr: Learning rate of Adam.
        every: See `Seldom`.

    Raises:
        UserError: A number is out of range.
    """

    def __init__(self, *, targets: int, steps: int, batch_size: int, lr: float, every: int | None) -> None:
        super().__init__(every=every)
        check_counts("metrics.set.capacity_probe", targets=targets, steps=steps, batch_size=batch_size)
        check_numbers("metrics.set.capacity_probe", "(0, inf)", lr=lr)
        self.targets = targets
        self.steps = steps
        self.batch_size = batch_size
        self.lr = lr

    def look(self, probe: Probe) -> dict[str, float]:
        """Return c by network, the others by ``<network>/<name>``."""
        lab = probe.lab
        if lab is None:
            return {}
        generator = lab.generator("capacity_probe")
        found: dict[str, float] = {}
        for net in probe.nets:
            pairs = [self._pair(lab, net, generator) for _ in range(self.targets)]
            now, fresh = (sum(losses) / len(losses) for losses in zip(*pairs, strict=True))
            found |= {net.name: now, f"{net.name}/fresh": fresh, f"{net.name}/gap": now - fresh}
        return found

    def _pair(self, lab: Laboratory, net: NetProbe, generator: Generator) -> tuple[float, float]:
        """Losses of the present and of the initial weights on one target."""
        inputs = net.inputs
        assert inputs is not None

        def features(params: Mapping[str, Tensor], x: Tensor) -> Tensor:
            return lab.capture(net.name, params, x).features

        def read_out() -> Tensor:
            width = net.features.shape[1]
            return torch.rand(width, generator=generator).mul_(2).sub_(1).div_(math.sqrt(width)).to(inputs)

        other, mixture = lab.fresh(net.name, generator), read_out()
        targets = standardised(torch.cat([features(other, x) @ mixture for x in inputs.split(_ROWS)]))
        head = read_out()
        order = generator.get_state()
        losses = []
        for weights in (net.params, net.anchors["init"]):
            generator.set_state(order)
            body = {k: v for k, v in weights.items() if net.layer_of(k).startswith("body.")}
            losses.append(
                math.nan
                if targets is None
                else fitted_loss(
                    features,
                    body,
                    head,
                    inputs,
                    targets,
                    steps=self.steps,
                    batch_size=self.batch_size,
                    lr=self.lr,
                    generator=generator,
                )
            )
        return losses[0], losses[1]
