"""Ctrl-C and the signals of batch systems as a question that can be asked between two steps."""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Any

__all__ = ["Interrupt"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR2)


class Interrupt:
    """Counts requests to stop while the context lasts. The first asks for an orderly end, the second for a quick one.

    Args:
        raise_on_second: Raise KeyboardInterrupt at the second request, for a caller that is busy training and
            does not ask.
    """

    def __init__(self, raise_on_second: bool = False) -> None:
        self.count = 0
        self._raise = raise_on_second
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

    def is_set(self) -> bool:
        """Whether to stop."""
        return self.count > 0

    @property
    def urgent(self) -> bool:
        """Whether to stop without saving."""
        return self.count > 1

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        if self.urgent and self._raise:
            raise KeyboardInterrupt
