"""Ctrl-C and the signals of batch systems as a question that can be asked between two steps."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupt"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Interrupt:
    """Counts requests to stop while the context lasts.

    Where nothing would be lost, a request raises KeyboardInterrupt at once. Inside `orderly` the first one is only
    noted, for runs to save and leave; the second asks for a quick end.

    Args:
        raise_on_second: Raise KeyboardInterrupt at the second request, for a caller that is busy training and
            does not ask.
    """

    def __init__(self, raise_on_second: bool = False) -> None:
        self.count = 0
        self._raise_on_second = raise_on_second
        self._orderly = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupt:
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def orderly(self) -> Iterator[None]:
        """Runs are going on: let the first request be an orderly one."""
        self._orderly = True
        try:
            yield
        finally:
            self._orderly = False

    def is_set(self) -> bool:
        """Whether to stop."""
        return self.count > 0

    @property
    def urgent(self) -> bool:
        """Whether to stop without saving."""
        return self.count > 1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if not self._orderly or (self.urgent and self._raise_on_second):
            raise KeyboardInterrupt
