"""Residual streams of a network: which layers begin one, add to it, and read it."""

from __future__ import annotations

from plasticine.errors import UserError
from plasticine.networks.spec import NetSpec

__all__ = ["Streams"]


class Streams:
    """The streams that the layers of a network's body form.

    Raises:
        UserError: A layer adds to a stream that no layer has begun, or the tail (the part that frozen copies
            repeat) would begin between two layers of one stream.
    """

    def __init__(self, spec: NetSpec) -> None:
        self._members: dict[int, list[int]] = {}  # layer -> all layers of its stream, in order
        current: list[int] | None = None
        for i, layer in enumerate(spec.body):
            part = layer.options.get("stream")
            if part == "open":
                current = [i]
            elif part == "add":
                if current is None:
                    raise UserError(f"{spec.name}/body.{i} adds to a residual stream, but none was opened")
                current.append(i)
            elif part is not None:
                raise UserError(f"{spec.name}/body.{i}: stream={part!r}", "use open or add")
            if part is not None and current is not None:
                self._members[i] = current
        tail = len(spec.body) - spec.split
        for i, members in self._members.items():
            if i >= tail > members[0]:
                raise UserError(
                    f"the tail of network {spec.name!r} (its last {spec.split} hidden layers) would begin inside "
                    "a residual stream",
                    "end the network with a dense layer, or choose a tail of another depth",
                )

    def residual(self, i: int) -> bool:
        """Whether the units of layer i live on a stream."""
        return i in self._members

    def carriers(self, i: int) -> list[int]:
        """Layers whose result contains the units of layer i: itself, and those that add to its stream later."""
        return [j for j in self._members.get(i, [i]) if j >= i]

    def opened_by(self, i: int) -> int:
        """The layer that began the stream of layer i."""
        return self._members[i][0]
