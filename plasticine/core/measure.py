"""One shared forward pass per measurement feeds every metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from plasticine.core.lab import Laboratory, Recent
from plasticine.core.learner import Learner
from plasticine.core.metric import Layers, Metric, NetProbe, Probe, SiteProbe
from plasticine.core.ranges import check_counts
from plasticine.core.returns import Expectations

__all__ = ["Measurement", "Readings"]


class Readings(NamedTuple):
    """What one measurement says.

    Attributes:
        scalars: ``plasticity/<metric>`` (mean over networks) and ``plasticity/<metric>/<network>``.
        layers: Values of single layers by metric.
    """

    scalars: dict[str, float]
    layers: dict[str, Layers]


class Measurement:
    """Takes measurements of a learner.

    Args:
        metrics: By name, in the order of the configuration.
        every: Iterations between two measurements.
        probe_size: Observations in the probe batch.
    """

    def __init__(
        self, learner: Learner, metrics: Mapping[str, Metric], *, every: int, probe_size: int
    ) -> None:
        check_counts("metrics", every=every, probe_size=probe_size)
        self._learner = learner
        self._metrics = dict(metrics)
        self._every = every
        self._probe_size = probe_size
        self._keeps_batch = any(metric.needs_batch for metric in metrics.values())
        self._anchors: dict[str, dict[str, Tensor]] = {
            which: {k: v.detach().clone() for k, v in learner.state.params.items()}
            for which in (("update", "task", "init") if metrics else ())
        }

    @property
    def names(self) -> frozenset[str]:
        """Names of the metrics."""
        return frozenset(self._metrics)

    def due(self, iteration: int, *, last_of_task: bool) -> bool:
        """Whether the iteration about to run (1-based) ends with a measurement."""
        return bool(self._metrics) and (iteration == 1 or last_of_task or iteration % self._every == 0)

    def anchor(self, which: str) -> None:
        """Remember the present parameters as the ``update`` or ``task`` reference point.

        From the ``update`` point on, minibatches are kept for the metrics that want them, until `take`.
        """
        if which == "update" and self._keeps_batch:
            self._learner.recent = Recent()
        if self._metrics:
            torch._foreach_copy_(
                list(self._anchors[which].values()), [p.detach() for p in self._learner.state.params.values()]
            )

    @torch.no_grad()
    def take(
        self,
        scalars: Mapping[str, float],
        *,
        iteration: int,
        env_steps: int,
        task_end: bool,
        rehearse: Callable[[int], Expectations | None] | None = None,
    ) -> Readings:
        """Measure.

        Args:
            scalars: Numbers of the latest update.
            iteration, env_steps: Where the run is.
            task_end: Whether the task ends here.
            rehearse: Lets the agent play; see `Probe`.
        """
        learner = self._learner
        inputs = learner.agent.probe_inputs(self._probe_size, learner.streams["metrics"])
        lab = learner.laboratory(iteration)
        nets = tuple(self._net(name, x, lab) for name, x in inputs.items())
        probe = Probe(nets, dict(scalars), iteration, env_steps, task_end, lab, rehearse)
        values: dict[str, float] = {}
        layers: dict[str, Layers] = {}
        for name, metric in self._metrics.items():
            values |= _named(name, metric.compute(probe))
            per_layer = metric.layers(probe)
            if per_layer:
                layers[name] = per_layer
        learner.recent = None
        return Readings(values, layers)

    def _net(self, name: str, inputs: Tensor, lab: Laboratory) -> NetProbe:
        captured = self._learner.networks[name].capture(inputs)
        prefix = f"{name}/"
        params = {k: v.detach() for k, v in self._learner.state.params.items() if k.startswith(prefix)}
        return NetProbe(
            name=name,
            sites=tuple(SiteProbe(s.name, s.pre, s.post, s.act, s.expansion) for s in captured.sites),
            features=captured.features,
            params=params,
            anchors={which: {k: a[k] for k in params} for which, a in self._anchors.items()},
            kinds={k: self._learner.anatomy.tensors[k].kind for k in params},
            outputs=captured.outputs,
            inputs=inputs,
            lab=lab,
        )

    def state(self) -> dict[str, Any]:
        """The reference points (a resumed run measures against the same ones), and what metrics remember."""
        remembered = {name: metric.state() for name, metric in self._metrics.items()}
        return {**self._anchors, "metrics": {name: state for name, state in remembered.items() if state}}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
        for name, remembered in state.get("metrics", {}).items():
            self._metrics[name].load_state(remembered)
        for which, anchors in self._anchors.items():
            for k, v in anchors.items():
                v.copy_(state[which][k])


def _named(metric: str, values: Mapping[str, float]) -> dict[str, float]:
    """A metric's values under the keys that `Metric.compute` promises, each series behind its mean over networks."""
    series: dict[str, dict[str, float]] = {}
    for key, value in values.items():
        net, _, further = key.partition("/")
        series.setdefault(f"plasticity/{metric}_{further}" if further else f"plasticity/{metric}", {})[
            net
        ] = value
    named: dict[str, float] = {}
    for name, per_net in series.items():
        finite = [v for v in per_net.values() if math.isfinite(v)]
        named[name] = sum(finite) / len(finite) if finite else float("nan")
        named |= {f"{name}/{net}": v for net, v in per_net.items() if net}
    return named
