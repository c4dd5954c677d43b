"""One shared forward pass per measurement feeds every metric."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from plasticine.core.learner import Learner
from plasticine.core.metric import Metric, NetProbe, Probe, SiteProbe
from plasticine.core.ranges import check_counts

__all__ = ["Measurement"]


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
        """Remember the present parameters as the ``update`` or ``task`` reference point."""
        if self._metrics:
            torch._foreach_copy_(
                list(self._anchors[which].values()), [p.detach() for p in self._learner.state.params.values()]
            )

    @torch.no_grad()
    def take(self, scalars: Mapping[str, float]) -> dict[str, float]:
        """Measure; return ``plasticity/<metric>`` (mean over networks) and ``plasticity/<metric>/<network>``."""
        learner = self._learner
        inputs = learner.agent.probe_inputs(self._probe_size, learner.streams["metrics"])
        nets = tuple(self._net(name, x) for name, x in inputs.items())
        probe = Probe(nets, dict(scalars))
        values: dict[str, float] = {}
        for name, metric in self._metrics.items():
            per_net = metric.compute(probe)
            if not per_net:
                continue
            named = {f"plasticity/{name}/{net}": v for net, v in per_net.items() if net}
            finite = [v for v in per_net.values() if math.isfinite(v)]
            values[f"plasticity/{name}"] = sum(finite) / len(finite) if finite else float("nan")
            values |= named
        return values

    def _net(self, name: str, inputs: Tensor) -> NetProbe:
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
        )

    def state(self) -> dict[str, dict[str, Tensor]]:
        """The reference points (a resumed run measures against the same ones)."""
        return self._anchors

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Restore `state`."""
        for which, anchors in self._anchors.items():
            for k, v in anchors.items():
                v.copy_(state[which][k])
