"""Shrinking grey images by averaging areas, with the numbers of OpenCV's ``INTER_AREA``."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

__all__ = ["AreaResize"]

_SLIVER = 1e-3  # overlaps below this share of a pixel are left out, as OpenCV does


def _taps(source: int, target: int) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """(indices, weights), both [taps, target]: which source pixels a target pixel averages; unused taps weigh 0."""
    scale = 1.0 / (target / source)
    cells: list[list[tuple[int, float]]] = []
    for place in range(target):
        begin = place * scale
        end = begin + scale
        width = min(scale, source - begin)
        last = min(math.floor(end), source - 1)
        first = min(math.ceil(begin), last)
        cell = []
        if first - begin > _SLIVER:
            cell.append((first - 1, (first - begin) / width))
        cell += [(i, 1.0 / width) for i in range(first, last)]
        if end - last > _SLIVER:
            cell.append((last, min(end - last, 1.0, width) / width))
        cells.append(cell)
    most = max(map(len, cells))
    indices = np.zeros((most, target), dtype=np.intp)
    weights = np.zeros((most, target), dtype=np.float32)
    for place, cell in enumerate(cells):
        for tap, (index, weight) in enumerate(cell):
            indices[tap, place], weights[tap, place] = index, weight
    return indices, weights


class AreaResize:
    """Shrinks images of one size; equal to ``cv2.resize(..., interpolation=cv2.INTER_AREA)``.

    Args:
        source: Height and width of the images.
        target: Height and width wanted, not larger.
    """

    def __init__(self, source: tuple[int, int], target: tuple[int, int]) -> None:
        if target[0] > source[0] or target[1] > source[1]:
            raise ValueError(f"{source} cannot be shrunk to {target}")
        self._rows, down = _taps(source[0], target[0])
        self._columns, self._across = _taps(source[1], target[1])
        self._down = down[:, :, None]

    def __call__(self, image: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Write the shrunken `image` [*source] into `out` [*target]."""
        wide = image.astype(np.float32)
        # One tap after the other, in single precision: the order decides the last bit.
        narrow = wide[:, self._columns[0]] * self._across[0]
        for columns, weight in zip(self._columns[1:], self._across[1:], strict=True):
            narrow += wide[:, columns] * weight
        low = narrow[self._rows[0]] * self._down[0]
        for rows, weight in zip(self._rows[1:], self._down[1:], strict=True):
            low += narrow[rows] * weight
        np.rint(low, out=low)
        out[...] = low
