"""The command line before Hydra sees it: flags anywhere, and integer ranges such as ``seed=0-9``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from plasticine.errors import UserError, nearest

__all__ = ["CommandLine", "expand_range", "is_range", "shown", "split"]

#: Flags of Hydra, and how many values each takes ("?": one of a few words, or none).
_FLAGS: dict[str, int | str] = {
    "--help": 0, "--hydra-help": 0, "--version": 0, "--cfg": 1, "--resolve": 0, "--package": 1, "--run": 0,
    "--multirun": 0, "--shell-completion": 0, "--config-path": 1, "--config-name": 1, "--config-dir": 1,
    "--experimental-rerun": 1, "--info": "?",
}  # fmt: skip
_SHORT = {
    "-h": "--help", "-c": "--cfg", "-p": "--package", "-r": "--run", "-m": "--multirun",
    "-sc": "--shell-completion", "-cp": "--config-path", "-cn": "--config-name", "-cd": "--config-dir",
    "-i": "--info",
}  # fmt: skip
#: Flags of ours: another way to write an override.
_WORDS = {"--fail-fast": "launcher.fail_fast=true", "--dry-run": "launcher.dry_run=true"}
_INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")

_SPAN = r"\d+(?:-\d+(?::\d+)?)?"
_RANGE = re.compile(rf"{_SPAN}(?:,{_SPAN})*")
_LIMIT = 100_000


class CommandLine(NamedTuple):
    """A command line taken apart.

    Attributes:
        flags: Long names of the flags given, with their value (empty for a flag without one).
        overrides: What remains, in order: ``key=value``, ``+key=value``, ``~key``.
    """

    flags: dict[str, str]
    overrides: list[str]

    @property
    def multirun(self) -> bool:
        """Whether ``-m`` was given."""
        return "--multirun" in self.flags

    def argv(self) -> list[str]:
        """Return the arguments in the order Hydra accepts: flags first."""
        flags = [f"{flag}={value}" if value else flag for flag, value in self.flags.items()]
        return [*flags, *self.overrides]


def split(argv: Sequence[str]) -> CommandLine:
    """Take a command line apart; flags may stand anywhere between the overrides.

    Raises:
        UserError: For an unknown flag, a flag without its value, and a word that is no override.
    """
    flags: dict[str, str] = {}
    overrides: list[str] = []
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("-"):
            overrides.append(_checked_override(word))
            continue
        if word in _WORDS:
            overrides.append(_WORDS[word])
            continue
        name, _, value = word.partition("=")
        flag = _SHORT.get(name, name)
        if flag not in _FLAGS:
            raise UserError(f"unknown option {name!r}", nearest(name, [*_WORDS, *_FLAGS, *_SHORT]))
        takes = _FLAGS[flag]
        if takes == 0 and value:
            raise UserError(f"{name} takes no value, but {word!r} gives one", f"write {name} alone")
        if not value and (takes == 1 or (takes == "?" and rest and rest[0] in _INFO)):
            if not rest:
                raise UserError(f"{name} needs a value", f"write {name}=VALUE")
            value = rest.pop(0)
        flags[flag] = value
    return CommandLine(flags, overrides)


def _checked_override(word: str) -> str:
    if "=" not in word and not word.startswith("~") and "install" not in word:
        raise UserError(
            f"{word!r} is not of the form key=value",
            f"write for example method={word} or env={word}; lists without spaces: method=[snp,layer_norm]",
        )
    return word.removeprefix("+") if word.startswith("+sweep=") else word  # the key is there already


def is_range(value: str) -> bool:
    """Whether a value is written as integer range(s): ``0-9``, ``0-4,7``, ``0-20:5``; not ``3`` or ``1,2``."""
    return "-" in value and _RANGE.fullmatch(value) is not None


def expand_range(key: str, value: str) -> list[int]:
    """Return the integers of ``0-4,7`` or ``0-20:5``. Both ends are included: ``0-9`` is ten values.

    Raises:
        UserError: If a range runs backwards, has step 0, or names a value twice.
    """
    numbers: list[int] = []
    for part in value.split(","):
        span, _, step_text = part.partition(":")
        first_text, _, last_text = span.partition("-")
        first, last = int(first_text), int(last_text or first_text)
        step = int(step_text or 1)
        if last < first:
            raise UserError(f"{key}={value}: the range {part} runs backwards", f"write {key}={last}-{first}")
        if step == 0:
            raise UserError(f"{key}={value}: the range {part} has step 0", f"write {key}={span}")
        if last - first > _LIMIT:
            raise UserError(f"{key}={value}: more than {_LIMIT} values", "give a smaller range")
        numbers.extend(range(first, last + 1, step))
    if len(set(numbers)) < len(numbers):
        twice = next(n for n in numbers if numbers.count(n) > 1)
        raise UserError(f"{key}={value} names {twice} more than once", "let the ranges not overlap")
    return numbers


def shown(numbers: Sequence[int]) -> str:
    """Return the numbers for a person: all of a few, else the first, the second, and the last."""
    if len(numbers) <= 6:
        return ",".join(map(str, numbers))
    return f"{numbers[0]},{numbers[1]},...,{numbers[-1]}"
