"""The floating-point mode of a thread (rounding, treatment of tiny numbers), to be the same in another process.

A run lets numbers below the normal range count as zero in its thread. A simulation stepped elsewhere would differ
in the last bits if it kept them.
"""

from __future__ import annotations

import ctypes
import functools

import numpy as np

__all__ = ["float_environment", "flushes_denormals", "set_float_environment"]

_MOST = 1024  # bytes; an fenv_t has 8 to 32


@functools.cache
def _libm() -> ctypes.CDLL:
    library = ctypes.CDLL(None)
    return library if hasattr(library, "fegetenv") else ctypes.CDLL("libm.so.6")


def float_environment() -> bytes:
    """Return the mode of this thread (C's ``fegetenv``)."""
    buffer = ctypes.create_string_buffer(_MOST)
    if _libm().fegetenv(buffer):
        raise OSError("fegetenv failed")
    return buffer.raw


def set_float_environment(mode: bytes) -> None:
    """Give this thread a mode that `float_environment` returned on the same machine (C's ``fesetenv``)."""
    if _libm().fesetenv(ctypes.create_string_buffer(mode, _MOST)):
        raise OSError("fesetenv failed")


def flushes_denormals() -> bool:
    """Whether numbers below the normal range count as zero in this thread."""
    return bool(np.float64(5e-310) * np.float64(1.0) == 0.0)
