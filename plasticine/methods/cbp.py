"""Continual backprop (Dohare et al., arXiv 2108.06325, 2306.13812; Nature 632, 2024)."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Generator, Tensor

from plasticine.core.method import Method
from plasticine.core.optim import Adam, Divided, Optimizer
from plasticine.core.schedule import RunPlan
from plasticine.core.state import Params, Slot
from plasticine.core.surgery import Surgeon
from plasticine.core.watch import Seen
from plasticine.errors import UserError
from plasticine.methods.element_adam import ElementAdam
from plasticine.methods.replacement_clock import ReplacementClock
from plasticine.methods.units import clear_outgoing, redraw_incoming, replaceable, site_of
from plasticine.networks.anatomy import Anatomy, UnitGroup
from plasticine.networks.network import Site

__all__ = ["ContinualBackprop", "column_means", "contribution"]

#: Their outputs are not negative: the mean of the absolute value is the mean.
_NOT_NEGATIVE = ("relu", "crelu", "sigmoid")


def column_means(post: Tensor, columns: int) -> Tensor:
    """Mean over a minibatch of what every column of the reading weight reads, [columns].

    Args:
        post: [n, d] or [n, d, height, width].
        columns: d if the reader is dense on a vector or a convolution; d * height * width if it is dense on an
            image, every position of which it reads by a column of its own.
    """
    if post.dim() == 2:
        return post.mean(0)
    return post.mean((0, 2, 3)) if columns == post.shape[1] else post.mean(0).flatten()


def contribution(sizes: Tensor, readers: list[Tensor], columns: Tensor) -> Tensor:
    """Contribution utility of every unit on one minibatch, [units]: ``mean |h_i| * sum_k |w_ki|``.

    Args:
        sizes: [c] mean absolute value of what each column reads.
        readers: Weights [out, c, ...] that read the units; all their outputs are added up.
        columns: int64 [units, k], the columns of each unit; their contributions are added up.
    """
    first, *others = [w.abs().sum([d for d in range(w.dim()) if d != 1]) for w in readers]
    read = (sizes * sum(others, first))[columns]
    return read.squeeze(1) if read.shape[1] == 1 else read.sum(1)


class ContinualBackprop(Method):
    r"""Replaces, all the time, a small share of the hidden units that contribute least.

    After every optimizer step, with h the outputs in the forward pass that made the gradient, w the weights that
    read them and t the steps since unit i was made,

    .. math:: u_i \leftarrow \eta u_i + (1 - \eta) \, \overline{|h_i|} \sum_k |w_{ki}|,
              \qquad \hat u_i = u_i / (1 - \eta^{t})

    Units older than `maturity` steps are mature. Every step adds `replacement_rate` times the number of a layer's
    mature units to an account; when it reaches 1, the mature unit of least :math:`\hat u` is replaced (and so on for
    larger sums). It gets new incoming weights, and bias, from their own initialisers, and outgoing weights of zero.
    What it contributed on average, :math:`w_{ki} \bar h_i`, is first added to the bias of those that read it
    (`transfer_bias`), so that the function changes only by what the unit varied: not at all if its output was
    constant, but for convolutions near a padded edge. The optimizer's moments are cleared on exactly these entries;
    slow copies follow on their own.

    Steps are optimizer steps on the unit's own network: with TD3, batches of the critic phase count for the critics
    and those of the actor phase for the actor; an agent's other evaluations of a network do not count. How many
    units are due is known without looking at them (`ReplacementClock`), which ones is decided on the device: no step
    waits for it. Frozen copies of a tail count as readers. Residual streams and output layers are left out.

    Args:
        replacement_rate: Share of a layer's mature units to be replaced in one step, 0..1.
        maturity: Age in steps that a unit must exceed to be replaced (>= 0).
        utility_decay: :math:`\eta`, also of the mean outputs, in [0, 1).
        transfer_bias: See above. Needs readers that have a bias.
        per_element_step: Count Adam's steps entry by entry, so that renewed weights begin as new ones do; otherwise
            their first steps are up to 6.5 x lr long (at betas 0.9/0.999). For agents that use Adam. Slower.
        common: See `Method`.
    """

    neutral: ClassVar = {"replacement_rate": 0.0, "per_element_step": False}
    strong: ClassVar = {"replacement_rate": 0.05, "maturity": 2}

    def __init__(
        self,
        *,
        replacement_rate: float,
        maturity: int,
        utility_decay: float,
        transfer_bias: bool,
        per_element_step: bool,
        **common: Any,
    ) -> None:
        super().__init__(**common)
        here = f"method.{self.name}"
        if not 0.0 <= replacement_rate <= 1.0 or not 0.0 <= utility_decay < 1.0:
            raise UserError(
                f"{here}: replacement_rate={replacement_rate} must lie in 0..1 and "
                f"utility_decay={utility_decay} in [0, 1)"
            )
        if maturity < 0:
            raise UserError(f"{here}.maturity={maturity} must not be negative")
        self.replacement_rate = replacement_rate
        self.maturity = maturity
        self.utility_decay = utility_decay
        self.transfer_bias = transfer_bias
        self.per_element_step = per_element_step

    # -- building --------------------------------------------------------------------------------------------
    def edit_optimizer(self, optimizer: Optimizer) -> Optimizer:
        """Replace Adam by one that counts steps entry by entry, for the tensors in scope, if that is wanted.

        Raises:
            UserError: The agent does not use Adam, or another method has changed the optimizer before.
        """
        if not self.per_element_step:
            return optimizer
        if type(optimizer) is not Adam:
            raise UserError(
                f"method {self.name!r} can count steps entry by entry in Adam only, not in "
                f"{type(optimizer).__name__}",
                f"set method.{self.name}.per_element_step=false, or put {self.name!r} before the method that "
                "changes the optimizer",
            )
        return Divided(ElementAdam(betas=optimizer.betas, eps=optimizer.eps), optimizer, self.reaches)

    def init(self, params: Params, anatomy: Anatomy) -> Slot:
        """Utilities, mean outputs, dates of birth and the clocks' state of every layer; one count of steps a net."""
        self._anatomy = anatomy
        self._groups: dict[str, list[UnitGroup]] = {}
        self._columns: dict[str, Tensor] = {}
        self._clocks: dict[str, ReplacementClock] = {}
        slot: Slot = {}
        for g in replaceable(anatomy):
            key, device = f"{g.net}/{g.site}", params[g.weight].device
            self._groups.setdefault(g.net, []).append(g)
            self._columns[key] = g.consumers[0].columns.to(device)
            slot[f"steps/{g.net}"] = torch.zeros((), dtype=torch.int64)
            slot[f"utility/{key}"] = torch.zeros(g.units, device=device)
            slot[f"mean/{key}"] = torch.zeros(self._columns[key].numel(), device=device)
            slot[f"born/{key}"] = torch.zeros(g.units, dtype=torch.int64, device=device)
            start = ReplacementClock.start(g.units, self.replacement_rate, self.maturity)
            slot[f"births/{key}"], slot[f"account/{key}"] = start
            self._clocks[key] = ReplacementClock(
                rate=self.replacement_rate, maturity=self.maturity, slot=slot, key=key
            )
        return slot

    def check(self, plan: RunPlan, anatomy: Anatomy) -> None:
        """Refuse networks without a unit to replace, and readers without a bias that could take a contribution."""
        groups = replaceable(anatomy)
        if not groups:
            raise UserError(
                f"method {self.name!r} finds nothing to replace: no hidden layer in scope has all its readers in "
                "scope and stands outside of a residual stream",
                "widen its scope",
            )
        readers = [c.weight for g in groups for c in g.consumers if "/frozen." not in c.weight]
        bare = [w for w in readers if _bias_of(w) not in anatomy.tensors]
        if self.transfer_bias and bare:
            raise UserError(
                f"method {self.name!r} cannot transfer to a bias: {_bias_of(bare[0])!r} does not exist or is out of "
                "its scope",
                f"set method.{self.name}.transfer_bias=false, or widen its scope",
            )

    # -- every step ------------------------------------------------------------------------------------------
    def observe(self, seen: Seen, slot: Slot, generator: Generator) -> None:
        """Keep the running means; replace the units that are due."""
        if self.replacement_rate == 0.0:
            return
        for net, sites in seen.sites.items():
            groups = self._groups.get(net, [])
            if not groups:
                continue
            self._average(groups, {net: sites}, seen.surgeon, slot)
            steps = slot[f"steps/{net}"]
            steps += 1
            now = int(steps)
            due = [g for g in groups if self._clocks[f"{net}/{g.site}"].due <= now]
            if due:
                self._replace(due, now, seen.surgeon, slot, generator)

    def _average(
        self, groups: list[UnitGroup], sites: dict[str, tuple[Site, ...]], surgeon: Surgeon, slot: Slot
    ) -> None:
        running, latest = [], []
        for g in groups:
            key, post = f"{g.net}/{g.site}", site_of(sites, g).post
            columns = self._columns[key]
            means = column_means(post, columns.numel())
            sizes = means if g.act in _NOT_NEGATIVE else column_means(post.abs(), columns.numel())
            readers = [surgeon.read(c.weight) for c in g.consumers]
            running += [slot[f"utility/{key}"], slot[f"mean/{key}"]]
            latest += [contribution(sizes, readers, columns), means]
        torch._foreach_lerp_(running, latest, 1.0 - self.utility_decay)

    def _replace(
        self, due: list[UnitGroup], now: int, surgeon: Surgeon, slot: Slot, generator: Generator
    ) -> None:
        chosen: dict[str, Tensor] = {}
        marked = []
        for g in due:
            key = f"{g.net}/{g.site}"
            age = now - slot[f"born/{key}"]
            corrected = slot[f"utility/{key}"] / (1.0 - self.utility_decay**age)
            corrected = torch.where(age > self.maturity, corrected, torch.inf)
            count = self._clocks[key].take(now)
            rows = corrected.topk(count, largest=False).indices
            units = torch.zeros_like(age, dtype=torch.bool).index_fill_(0, rows, True)
            marked.append((g, units))
            for name in (g.weight, g.bias, g.norm_scale, g.norm_offset):
                if name is not None:
                    chosen[name] = rows
            if self.transfer_bias:
                self._transfer(g, units, age, surgeon, slot)

        def draw(name: str, units: Tensor) -> Tensor:
            rows = chosen[name]
            fresh = self._anatomy.fresh_rows(name, len(rows), generator).to(rows.device)
            whole = torch.zeros(self._anatomy.shapes[name], device=rows.device)
            return whole.index_copy_(0, rows, fresh)

        redraw_incoming(marked, self._anatomy, surgeon, draw)
        clear_outgoing(marked, surgeon)
        for g, units in marked:
            key = f"{g.net}/{g.site}"
            slot[f"utility/{key}"].masked_fill_(units, 0.0)
            slot[f"mean/{key}"].masked_fill_(_by_column(units, self._columns[key]), 0.0)
            slot[f"born/{key}"].masked_fill_(units, now)

    def _transfer(self, g: UnitGroup, units: Tensor, age: Tensor, surgeon: Surgeon, slot: Slot) -> None:
        """Add what the marked units contributed on average to the biases of their readers."""
        key = f"{g.net}/{g.site}"
        columns = self._columns[key]
        corrected = slot[f"mean/{key}"] / _by_column(1.0 - self.utility_decay**age, columns)
        lost = torch.where(_by_column(units, columns), corrected, 0.0)
        for consumer in g.consumers:
            weight = surgeon.read(consumer.weight)
            per_column = weight if weight.dim() == 2 else weight.sum((2, 3))
            surgeon.shift(_bias_of(consumer.weight), per_column @ lost)


def _by_column(values: Tensor, columns: Tensor) -> Tensor:
    """Values of units [units], for every column that reads them."""
    spread = torch.empty(columns.numel(), dtype=values.dtype, device=values.device)
    return spread.scatter_(0, columns.flatten(), values[:, None].expand_as(columns).flatten())


def _bias_of(weight: str) -> str:
    return weight.removesuffix("weight") + "bias"
