"""Films as GIF files: they play in every browser, MLflow's pages included."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["write_gif"]

_LEAST_SIDE = 192  # pixels of the longer side: small images are enlarged, by whole numbers, without blurring
_COLOURS = 128
_MOST_BYTES = 2 * 2**20


def write_gif(path: Path, frames: Sequence[NDArray[np.uint8]], fps: float) -> None:
    """Write RGB images [height, width, 3] of one size as an endless film; the file appears when it is complete.

    Images are enlarged to at least 192 pixels. If the file would be larger than 2 MiB they are made smaller.

    Args:
        path: Where to; its folder is made.
        frames: At least one.
        fps: Images per second, rounded to hundredths of a second each.
    """
    height, width, _ = frames[0].shape
    scale: float = max(1, -(-_LEAST_SIDE // max(height, width)))
    data = _encoded(frames, fps, scale)
    while len(data) > _MOST_BYTES and scale * max(height, width) > 64:
        scale = scale - 1 if scale > 1 else scale / 2
        data = _encoded(frames, fps, scale)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _encoded(frames: Sequence[NDArray[np.uint8]], fps: float, scale: float) -> bytes:
    from PIL import Image

    size = tuple(max(1, round(scale * n)) for n in (frames[0].shape[1], frames[0].shape[0]))
    filter_ = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    pictures: list[Any] = [
        # Without dithering: equal areas stay equal, which keeps files small.
        Image.fromarray(np.ascontiguousarray(f)).resize(size, filter_).quantize(_COLOURS, dither=0)  # type: ignore[arg-type]
        for f in frames
    ]
    duration = max(20, 10 * round(100 / fps))  # ms; viewers slow down what is faster
    buffer = io.BytesIO()
    pictures[0].save(
        buffer, "GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0, disposal=1
    )
    return buffer.getvalue()
