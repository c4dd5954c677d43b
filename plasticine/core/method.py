"""A method is a change to how a network is built or trained that is meant to keep it able to learn.

A method overrides the hooks it needs; what it does not override does not exist at run time. Three hooks act while
the learner is built, six are assembled into the update, one is called between iterations when its ``when:``
rules say so. A method is handed only the tensors in its ``scope:``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from torch import Generator, Tensor

from plasticine.core.optim import Optimizer
from plasticine.core.schedule import RunPlan, parse_when
from plasticine.core.state import Counters, Params, Slot
from plasticine.core.surgery import Surgeon
from plasticine.core.view import LossFn, View
from plasticine.core.watch import Seen
from plasticine.errors import UserError

if TYPE_CHECKING:
    from plasticine.networks.anatomy import Anatomy
    from plasticine.networks.network import Network, Site
    from plasticine.networks.spec import NetSpec

__all__ = ["AddGradient", "GradFn", "Gradients", "Method", "Operation", "overrides"]


class Gradients(NamedTuple):
    """Result of one gradient evaluation.

    Attributes:
        grads: Gradient of every trainable parameter of the phase, by full name, in order.
        norm: 0-d, global L2 norm of the raw gradient (before clipping), the one that is logged.
        aux: 0-d tensors the agent wants logged.
    """

    grads: Mapping[str, Tensor]
    norm: Tensor
    aux: Sequence[Tensor]


#: Evaluates loss and gradient of one minibatch at the present parameters.
GradFn = Callable[[Any], Gradients]
#: Adds something to gradients, given by full name.
AddGradient = Callable[[Mapping[str, Tensor]], None]


@dataclass(frozen=True)
class Operation:
    """What an intervention sees.

    Attributes:
        params: Trainable tensors in scope, by full name. Write through `surgeon` only.
        anatomy: Anatomy of the same tensors.
        networks: Online networks by name.
        slot: The method's own tensors (write in place).
        generator: The method's own random stream.
        surgeon: Overwrites weights together with moments and slow copies.
        counters, plan, event: Where the run is, and what made the rule fire.
        activations: Runs one forward pass over up to n recent observations and returns the activation sites of
            every network; the same observations on every call within one operation.
    """

    params: Params
    anatomy: Anatomy
    networks: Mapping[str, Network]
    slot: Slot
    generator: Generator
    surgeon: Surgeon
    counters: Counters
    plan: RunPlan
    event: str
    activations: Callable[[int], Mapping[str, tuple[Site, ...]]]


class Method:
    """Base class. Subclasses take keyword-only constructor arguments and pass ``**common`` on.

    Args:
        name: Name under which it was selected.
        scope: Globs over full parameter names (``actor/*``, ``*/body.*``); what matches none is out of reach.
        when: Rules for `intervene`; see `plasticine.core.schedule.When`.
    """

    #: Set True by methods whose `intervene` is called by ``when:`` rules, to refuse a rule-less configuration.
    needs_when: ClassVar[bool] = False
    #: Whether `observe` is to be given gradients of units as well; may be set by the constructor.
    unit_gradients: bool = False
    #: Arguments under which the method provably changes nothing (empty: there are none). Used by tests.
    neutral: ClassVar[Mapping[str, Any]] = {}
    #: Arguments under which its effect is visible within a few dozen steps of a tiny network. Used by tests.
    strong: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *, name: str, scope: Sequence[str], when: Any) -> None:
        self.name = name
        self.scope = tuple([scope] if isinstance(scope, str) else scope)
        self.when = parse_when(when, name)
        if self.needs_when and not self.when:
            raise UserError(
                f"method {name!r} never acts: it has no rule",
                f"set method.{name}.when, e.g. [{{every: 10, unit: iterations}}] or [{{on: task_switch}}]",
            )
        if self.when and not overrides(self, "intervene"):
            raise UserError(f"method {name!r} does not act on a schedule", f"remove method.{name}.when")

    # -- while the learner is built ------------------------------------------------------------------------
    def edit_network(self, net: NetSpec) -> NetSpec:
        """Return the description of a network, changed. Called for networks with any tensor in scope."""
        return net

    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Return a wrapper of `optimizer`, or another one. Called once per phase."""
        return optimizer

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Allocate the method's tensors, after the networks were initialised."""
        return {}

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse, before any work, a run in which the method could not do what it says.

        Raises:
            UserError: With the reason and the fix.
        """

    # -- inside the update: pure tensor code, no host synchronisation ---------------------------------------
    def loss_term(self, params: Params, slot: Slot) -> Tensor:
        """A 0-d differentiable term added to the loss."""
        raise NotImplementedError

    def gradient_term(self, params: Params, slot: Slot) -> AddGradient | None:
        """Return what adds the gradient of a term of the loss, in place; None: there is nothing to add.

        For terms of the parameters whose gradient is known in closed form: a fraction of the cost of `loss_term`. It
        is part of the gradient from the start, before any method wraps it, and of the norm that is logged.
        """
        raise NotImplementedError

    def wrap_loss(self, loss_fn: LossFn, view: View, params: Params, slot: Slot) -> LossFn:
        """Return another loss function that calls `loss_fn`, for terms that depend on more than the parameters."""
        raise NotImplementedError

    def wrap_grad(self, grad_fn: GradFn, params: Params, slot: Slot) -> GradFn:
        """Return another gradient function that calls `grad_fn` (possibly at moved parameters, restored after)."""
        raise NotImplementedError

    def after_step(self, params: Params, slot: Slot, generator: Generator) -> None:
        """Change parameters in place after every optimizer step (no gradient is recorded)."""
        raise NotImplementedError

    def observe(self, seen: Seen, slot: Slot, generator: Generator) -> None:
        """Look at the minibatch of every optimizer step, right after the step (no gradient is recorded).

        The activations are those of the forward pass that made the gradient: nothing is computed twice.
        Statistics are kept in `slot`; weights may be overwritten through ``seen.surgeon``.
        """
        raise NotImplementedError

    # -- between iterations ----------------------------------------------------------------------------------
    def intervene(self, op: Operation) -> dict[str, float]:
        """Act. Returned numbers are recorded as facts of the event."""
        raise NotImplementedError

    # -- shared helpers ---------------------------------------------------------------------------------------
    def reaches(self, name: str) -> bool:
        """Whether the tensor `name` is in scope."""
        return any(fnmatchcase(name, g) for g in self.scope)

    def select(self, params: Params) -> Params:
        """The tensors in scope."""
        return {k: v for k, v in params.items() if self.reaches(k)}

    def firings(self, plan: RunPlan) -> int:
        """How often the ``when:`` rules fire in the whole run, at most (rules may coincide)."""
        return sum(rule.count(plan) for rule in self.when)

    def touches(self, net: str) -> bool:
        """Whether the scope can reach tensors of network `net`."""
        return any(fnmatchcase(net, g.split("/", 1)[0]) for g in self.scope)


def overrides(method: Method, hook: str) -> bool:
    """Whether the method's class defines `hook` itself."""
    return getattr(type(method), hook) is not getattr(Method, hook)
