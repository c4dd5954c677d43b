"""Factories of probes made of plain tensors; the metrics need no network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from plasticine.core.metric import NetProbe, Probe, SiteProbe


def _crelu(z: Tensor) -> Tensor:
    return torch.cat((z.clamp(min=0), (-z).clamp(min=0)), dim=1)


def _fourier(z: Tensor) -> Tensor:
    return torch.cat((z.sin(), z.cos()), dim=1)


OUTPUT = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "crelu": _crelu,
    "fourier": _fourier,
}


@pytest.fixture
def make_site() -> Callable[..., SiteProbe]:
    """Build a layer's probe from its pre-activation; `post` overrides what the activation would give."""

    def make(pre: Tensor, act: str = "relu", post: Tensor | None = None, name: str = "body.0") -> SiteProbe:
        post = OUTPUT[act](pre) if post is None else post
        return SiteProbe(name, pre, post, act, expansion=2 if act in ("crelu", "fourier") else 1)

    return make


@pytest.fixture
def make_net() -> Callable[..., NetProbe]:
    """Build a network's probe; everything that is not given is empty."""

    def make(
        name: str = "actor", *, sites=(), features=None, params=None, anchors=None, kinds=None
    ) -> NetProbe:
        params = params or {}
        return NetProbe(
            name=name,
            sites=tuple(sites),
            features=torch.zeros(2, 2) if features is None else features,
            params=params,
            anchors=anchors or {},
            kinds=kinds or dict.fromkeys(params, "weight"),
        )

    return make


@pytest.fixture
def measure() -> Callable[..., float]:
    """Measure one network and return the only number."""

    def run(metric, net: NetProbe) -> float:
        values = metric.compute(Probe(nets=(net,)))
        assert list(values) == [net.name]
        return values[net.name]

    return run
