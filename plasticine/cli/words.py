"""Single overrides: reading them, and the values of a sweep among them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import OverrideParseException

from plasticine.cli.schema import Schema
from plasticine.errors import UserError, nearest

__all__ = ["by_key", "parse", "variants"]


def parse(line: str) -> Override:
    """Parse one override.

    Raises:
        UserError: If it does not follow Hydra's grammar.
    """
    try:
        return OverridesParser.create().parse_overrides([line])[0]
    except OverrideParseException as error:
        reason = str(error.__cause__ or error).splitlines()[0]
        raise UserError(
            f"cannot read {line!r}: {reason}",
            "write key=value; quote blanks and special characters twice: key='\"a b\"', method='[snp,redo]'",
        ) from error


def by_key(words: Sequence[str]) -> dict[str, str]:
    """Return the words by key, the last one of a key winning (as in Hydra)."""
    found: dict[str, str] = {}
    for word in words:
        key = word.partition("=")[0]
        found.pop(key, None)
        found[key] = word
    return found


def variants(override: Override, schema: Schema) -> list[str]:
    """Return one override for each value of a swept group.

    Raises:
        UserError: A glob that matches nothing.
    """
    key = override.get_key_element()
    if override.value_type is not None and override.value_type.name == "GLOB_CHOICE_SWEEP":
        glob: Any = override._value
        names = glob.filter(schema.options(override.key_or_group))
        if not names:
            raise UserError(f"{override.input_line} matches nothing", nearest("", schema.options(key)))
        return [f"{key}={name}" for name in names]
    return [f"{key}={value}" for value in override.sweep_string_iterator()]
