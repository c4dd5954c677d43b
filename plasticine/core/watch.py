"""What one optimizer step looked at, for methods that keep statistics of hidden units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from plasticine.core.state import Params
from plasticine.core.surgery import Surgeon

if TYPE_CHECKING:
    from plasticine.networks.network import Network
    from plasticine.networks.tap import Site

__all__ = ["Seen", "Watch"]

T = TypeVar("T")


@dataclass(frozen=True)
class Seen:
    """One minibatch, as `Method.observe` is shown it. Everything is to be read only, but for the surgeon.

    Attributes:
        params: Trainable tensors of the phase in scope, after the optimizer step.
        grads: Gradient of the loss for each of them, as methods have left it, before clipping.
        sites: For each network of the phase with a tensor in scope, the activation sites in the forward pass of
            the loss (detached). Evaluations with other parameters, frozen copies, and networks that another phase
            trains are left out. If a method evaluates the loss twice, it is the latest evaluation.
        unit_grads: Gradient with respect to each site's pre-activations, in the same order and the same shapes;
            only if the method has set `Method.unit_gradients`.
        surgeon: Overwrites weights together with moments.
    """

    params: Params
    grads: Mapping[str, Tensor]
    sites: Mapping[str, tuple[Site, ...]]
    unit_grads: Mapping[str, tuple[Tensor, ...]]
    surgeon: Surgeon


class Watch:
    """Looks at the networks of one phase while their loss is computed.

    Args:
        networks: Those to look at.
        unit_gradients: Whether gradients of pre-activations are wanted.

    Attributes:
        sites: By network, what the latest evaluation of the loss has computed.
        unit_grads: By network, gradients of the sites' pre-activations.
    """

    def __init__(self, networks: Iterable[Network], *, unit_gradients: bool) -> None:
        self._taps = [(n.name, n.tap()) for n in networks]
        self._unit_gradients = unit_gradients
        self.sites: dict[str, tuple[Site, ...]] = {}
        self.unit_grads: dict[str, tuple[Tensor, ...]] = {}

    def around(self, loss: Callable[[Any], T]) -> Callable[[Any], T]:
        """`loss`, looked at."""
        taps = self._taps

        def watched(batch: Any) -> T:
            for _, tap in taps:
                tap.begin()
            result = loss(batch)
            self.sites = {name: tap.end() for name, tap in taps}
            return result

        return watched

    def units(self) -> list[Tensor]:
        """Tensors of the latest graph whose gradients are wanted; hand these to `keep`, in this order."""
        return [s.pre for sites in self.sites.values() for s in sites] if self._unit_gradients else []

    def keep(self, grads: Sequence[Tensor]) -> None:
        """Remember the gradients of `units`."""
        if self._unit_gradients:
            rest = iter(grads)
            self.unit_grads = {name: tuple(next(rest) for _ in s) for name, s in self.sites.items()}

    def detach(self, grads: Mapping[str, Tensor]) -> None:
        """Let go of the graph; the activations stay."""
        self.sites = {
            name: tuple(s._replace(pre=s.pre.detach(), post=s.post.detach()) for s in found)
            for name, found in self.sites.items()
        }

    def forget(self, grads: Mapping[str, Tensor]) -> None:
        """Let go of the activations as well, so that they do not stay in memory until the next step."""
        self.sites, self.unit_grads = {}, {}
