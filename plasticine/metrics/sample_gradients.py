"""Gradients of single samples, and how alike they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Generator, Tensor

__all__ = ["GradientRows", "Sketch", "cosines", "gram", "leaves"]

#: Columns that are turned into float64 at a time.
_BLOCK = 2**18


def leaves(params: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same values by the same names, to differentiate at; they share memory with `params`."""
    return {name: value.detach().requires_grad_(True) for name, value in params.items()}


class Sketch:
    r"""A random linear map from p numbers to `size` that keeps inner products on average.

    Every number is added, with a random sign, to one of `size` places drawn at random:
    :math:`(S x)_k = \sum_{j : h(j) = k} s_j x_j`. Then :math:`E \langle Sx, Sy \rangle = \langle x, y \rangle`, with
    a standard deviation of at most :math:`\sqrt{2 / \mathrm{size}} \, \|x\| \|y\|` (0.022 at a size of 4096). What is
    collinear or zero stays so exactly.

    Source: Charikar, Chen & Farach-Colton 2002 (Finding frequent items in data streams); Weinberger et al. 2009
    (arXiv 0902.2206), lemma 2.

    Args:
        count: p.
        size: Numbers that are left.
        generator: Source of places and signs.
        device: Of the numbers.
    """

    def __init__(self, count: int, size: int, generator: Generator, device: torch.device) -> None:
        self.size = size
        self._places = torch.randint(size, (count,), generator=generator).to(device)
        self._signs = torch.randint(2, (count,), generator=generator).mul_(2).sub_(1).float().to(device)

    def __call__(self, numbers: Tensor) -> Tensor:
        """Map [p] -> [size]."""
        return numbers.new_zeros(self.size).index_add_(0, self._places, numbers * self._signs)


class GradientRows:
    """Collects gradients of several numbers, one row each, for groups of parameters.

    One backward pass for each number, so that it works for every network and for every loss that can be
    differentiated once, and needs no more memory than the result.

    Args:
        most: Entries (rows times parameters) that a group's result may have. A larger one is sketched.
        size: Numbers that a sketched row has; see `Sketch`.
        generator: Source of the sketches.
    """

    def __init__(self, *, most: int, size: int, generator: Generator) -> None:
        self._most, self._size, self._generator = most, size, generator

    def collect(
        self, output_of: Callable[[int], Tensor], count: int, groups: Mapping[str, Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        """Gradients [count, p] or [count, size] by group.

        Args:
            output_of: The i-th number, 0-d, with a graph; evaluated anew for each i.
            count: How many numbers.
            groups: Leaves by name, by group. Where a number does not depend on one, its gradient is zero.
        """
        leaves = [leaf for group in groups.values() for leaf in group.values()]
        widths = {name: sum(leaf.numel() for leaf in group.values()) for name, group in groups.items()}
        sketches = {
            name: Sketch(width, self._size, self._generator, leaves[0].device)
            for name, width in widths.items()
            if width > self._size and width * count > self._most
        }
        rows: dict[str, list[Tensor]] = {name: [] for name in groups}
        for i in range(count):
            grads = torch.autograd.grad(output_of(i), leaves, allow_unused=True, materialize_grads=True)
            flat = torch.cat([g.flatten() for g in grads])
            for name, part in zip(groups, flat.split(list(widths.values())), strict=True):
                rows[name].append(sketches[name](part) if name in sketches else part)
        return {name: torch.stack(parts) for name, parts in rows.items()}


def gram(rows: Tensor) -> Tensor:
    """Inner products of all rows [m, p] -> [m, m], float64 on the CPU."""
    products = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in rows.split(_BLOCK, dim=1):
        exact = block.double()
        products.addmm_(exact, exact.T)
    return products.cpu()


def cosines(products: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines of all pairs, given their inner products [m, m]; and which rows are zero, bool [m].

    Rows and columns of zero vectors are zero, diagonal included.
    """
    lengths = products.diagonal().sqrt()
    zero = lengths == 0
    scale = torch.where(zero, 0.0, 1.0 / lengths)
    return products * scale[:, None] * scale[None, :], zero
