"""Which classes a configuration from a file may name."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from plasticine.errors import UserError

__all__ = ["check_targets"]

#: What the parts of a configuration may be made of.
_OURS = (
    "plasticine.agents",
    "plasticine.envs",
    "plasticine.methods",
    "plasticine.metrics",
    "plasticine.diagnosis",
    "plasticine.networks.catalog",
)


def check_targets(config: Mapping[str, Any], trust: Iterable[str] = ()) -> None:
    """Refuse a configuration whose ``_target_`` lies outside of Plasticine's parts and the packages in `trust`.

    Nothing that is refused is imported: importing is executing.

    Args:
        config: Plain configuration, from wherever.
        trust: Further packages, ``"mylab"`` or ``"mylab.methods"``; what lies below them is trusted as well.

    Raises:
        UserError: A target elsewhere.
    """
    allowed = (*_OURS, *trust)
    for key, target in _targets(config, ""):
        if not isinstance(target, str) or not _below(target, allowed):
            package = str(target).partition(".")[0]
            raise UserError(
                f"{key}={target!r} is not part of Plasticine, so it is not executed",
                f"if you know what it does and trust it: load_run(..., trust=[{package!r}])",
            )
    for key, target in _targets(config, ""):
        module, _, name = target.rpartition(".")
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise UserError(
                f"{key}={target!r}: there is no module {error.name!r}",
                "install the package that provides it, in the version the run was made with",
            ) from error
        home = getattr(getattr(found, name, None), "__module__", None)
        # A module also has the names that it imports from elsewhere.
        if home is not None and not _below(f"{home}.", allowed):
            raise UserError(f"{key}={target!r} only leads to {home}", "name the class where it is defined")


def _below(target: str, allowed: Sequence[str]) -> bool:
    return all(part.isidentifier() for part in target.rstrip(".").split(".")) and any(
        target.startswith(f"{package}.") for package in allowed
    )


def _targets(node: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every ``_target_`` with where it stands."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            where = f"{path}.{key}" if path else str(key)
            if key == "_target_":
                yield where, value
            else:
                yield from _targets(value, where)
    elif isinstance(node, (list, tuple)):
        for k, value in enumerate(node):
            yield from _targets(value, f"{path}[{k}]")
