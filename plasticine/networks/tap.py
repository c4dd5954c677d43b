"""Looking at the hidden layers of a network while somebody else evaluates it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["LayerFn", "LocalParams", "Site", "Tap"]

LocalParams = Mapping[str, Tensor]
#: One hidden layer: (input, residual stream, parameters) -> (pre-activation, post-activation).
LayerFn = Callable[[Tensor, Tensor, LocalParams], tuple[Tensor, Tensor]]


class Site(NamedTuple):
    """Activations of one hidden layer: see `plasticine.core.metric.SiteProbe`."""

    name: str
    pre: Tensor
    post: Tensor
    act: str
    expansion: int


class Tap:
    """Keeps what the hidden layers of one network compute between `begin` and `end`.

    Only the trainable layers are looked at: not frozen copies, nor evaluations with other parameters (slow copies).
    The tensors kept are those of that very evaluation, still part of its graph; nothing is computed again.

    Args:
        params: The network's own parameters, by which its own evaluations are recognised.
    """

    def __init__(self, params: LocalParams) -> None:
        self._params = params
        self._open = False
        self._seen: list[Site] = []

    def around(self, name: str, fn: LayerFn, act: str, expansion: int) -> LayerFn:
        """`fn`, telling this tap what it computes."""

        def watched(x: Tensor, stream: Tensor, p: LocalParams) -> tuple[Tensor, Tensor]:
            pre, post = fn(x, stream, p)
            if self._open and p is self._params:
                self._seen.append(Site(name, pre, post, act, expansion))
            return pre, post

        return watched

    def begin(self) -> None:
        """Forget what was seen and start looking."""
        self._open = True
        self._seen = []

    def end(self) -> tuple[Site, ...]:
        """Stop looking; return the sites in forward order.

        If the network was evaluated several times in between, a site holds the rows of all evaluations, in order.
        """
        self._open = False
        seen, self._seen = self._seen, []
        by_name: dict[str, list[Site]] = {}
        for site in seen:
            by_name.setdefault(site.name, []).append(site)
        return tuple(_joined(sites) for sites in by_name.values())


def _joined(sites: Sequence[Site]) -> Site:
    if len(sites) == 1:
        return sites[0]
    pre, post = torch.cat([s.pre for s in sites]), torch.cat([s.post for s in sites])
    return sites[0]._replace(pre=pre, post=post)
