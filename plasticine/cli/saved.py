"""Saved multiruns (``sweeps/sweep/*.yaml``): their rows, and what becomes of them when keys are typed as well."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf

from plasticine.cli.schema import Schema
from plasticine.cli.words import parse, variants
from plasticine.errors import UserError, nearest

__all__ = ["Line", "Saved", "lines", "read"]

#: The baseline: paired with another method it is that method.
_NOTHING = "vanilla"


@dataclass
class Line:
    """Overrides whose values are multiplied out together.

    Attributes:
        words: By key.
        row: What the file calls it, for messages; empty if everything was typed.
    """

    words: dict[str, str]
    row: str = ""

    def text(self, key: str) -> str:
        """Return the value as it is written; empty if there is none."""
        return self.words.get(key, "").partition("=")[2]


@dataclass
class Saved:
    """What a sweep file says under ``hydra.sweeper``.

    Attributes:
        name: Of the file; empty if there is none.
        params: Values by key, in Hydra's grammar or with ranges, that every row has.
        rows: More values by key: one mapping for each row.
        pairs: Use the methods alone and two at a time.
        leave_out: Leave combinations out that do not go together, instead of refusing the whole multirun.
        best_of: Where methods come from if none are typed; see `plasticine.launch.best`.
    """

    name: str = ""
    params: dict[str, str] = field(default_factory=dict)
    rows: list[dict[str, str]] = field(default_factory=list)
    pairs: bool = False
    leave_out: bool = False
    best_of: dict[str, Any] = field(default_factory=dict)


def read(cfg: DictConfig) -> Saved:
    """Return what a composed configuration says.

    Raises:
        UserError: It is not written as it must be.
    """
    name = str(cfg.hydra.runtime.choices.get("sweep") or "")
    node = OmegaConf.to_container(cfg.hydra.sweeper, resolve=True)
    assert isinstance(node, dict)
    where = f"sweep={name}: hydra.sweeper" if name else "hydra.sweeper"
    rows = node.get("rows") or []
    if not isinstance(rows, list) or not all(isinstance(row, dict) and row for row in rows):
        raise UserError(f"{where}.rows must be a list of mappings", "write rows: [{method: snp, seed: 0-2}]")
    unfit = node.get("unfit") or "refuse"
    if unfit not in ("refuse", "leave_out"):
        raise UserError(
            f"{where}.unfit={unfit}: there is no such choice", nearest(str(unfit), ["refuse", "leave_out"])
        )
    if not isinstance(node.get("pairs") or False, bool):
        raise UserError(f"{where}.pairs={node['pairs']!r} has the wrong type", "it must be true or false")
    return Saved(
        name,
        _texts(node.get("params") or {}, f"{where}.params"),
        [_texts(row, f"{where}.rows[{index}]") for index, row in enumerate(rows)],
        bool(node.get("pairs")),
        unfit == "leave_out",
        dict(node.get("best_of") or {}),
    )


def _texts(values: Any, where: str) -> dict[str, str]:
    """Return values as text: a YAML list holds alternatives, a list within it is one value."""
    if not isinstance(values, Mapping):
        raise UserError(f"{where} must be a mapping", "write key: values")
    found = {}
    for key, value in values.items():
        if isinstance(value, list) and not value:
            raise UserError(f"{where}: {key} has no values", "give it at least one, or leave it out")
        text = ",".join(map(_text, value)) if isinstance(value, list) else _text(value)
        found[str(key)] = text
    return found


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        # YAML reads the key `on` as true; only `when:` rules have mappings with such a key.
        items = (f"{'on' if key is True else key}:{_text(item)}" for key, item in value.items())
        return "{" + ",".join(items) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


def lines(saved: Saved, typed: Mapping[str, str], schema: Schema) -> list[Line]:
    """Return one line for each row: what the file says, with what was typed in place of it.

    What is typed of a key replaces it in every row, and typing another level or agent drops what a row sets inside
    the one it replaces. A row that sets keys of methods is about these methods: of typed methods it keeps those, and
    the rows beside it leave these to it.

    Args:
        saved: The file.
        typed: Overrides by key.
        schema: Knows the groups.

    Raises:
        UserError: Nothing is left.
    """
    found = [_line(saved, index, row, typed) for index, row in enumerate(saved.rows or [{}])]
    if "method" in typed and saved.rows:
        found = _with_methods(found, saved, _choices(typed["method"], schema), schema)
        if not found:
            raise UserError(
                f"{typed['method']} leaves nothing of sweep={saved.name}",
                f"its rows are about {_about_all(saved)}",
            )
    if saved.pairs:
        for line in (line for line in found if "method" in line.words):
            line.words["method"] = f"method={','.join(_paired(_choices(line.words['method'], schema)))}"
    return found


def _line(saved: Saved, index: int, row: Mapping[str, str], typed: Mapping[str, str]) -> Line:
    values = {**saved.params, **row}
    line = Line({key: f"{key}={value}" for key, value in values.items()})
    if saved.rows:
        line.row = f"row {index + 1} of sweep={saved.name}" if saved.name else f"row {index + 1}"
        _check_about(line)
    for key, word in typed.items():
        if key in line.words and key != "method" and line.words[key] != word:
            inside = [name for name in line.words if name.startswith(f"{key}.")]
            for name in inside:
                del line.words[name]
        line.words[key] = word
    return line


def _about(words: Mapping[str, str]) -> set[str]:
    """Return the methods that some overrides set keys of."""
    return {key.split(".")[1] for key in words if key.startswith("method.") and key.count(".") > 1}


def _check_about(line: Line) -> None:
    chosen = line.text("method")
    if not chosen or "*" in chosen:
        return  # known only when it is composed
    for name in sorted(_about(line.words) - set(_names(chosen))):
        key = next(key for key in line.words if key.startswith(f"method.{name}."))
        raise UserError(
            f"{line.row} sets {key}, but its method is {chosen}",
            f"move it to a row with method: {name}, or add {name} to this one",
        )


def _names(text: str) -> list[str]:
    return [name.strip(" []'\"") for name in text.replace("choice(", "").replace(")", "").split(",")]


def _choices(word: str, schema: Schema) -> list[str]:
    """Return the values of an override of a group, a list among them as ``[a,b]``."""
    override = parse(word)
    found = variants(override, schema) if override.is_sweep_override() else [word]
    return [text.partition("=")[2] for text in found]


def _with_methods(found: Sequence[Line], saved: Saved, typed: Sequence[str], schema: Schema) -> list[Line]:
    rows = [{**saved.params, **row} for row in saved.rows]
    kept = []
    for line, row in zip(found, rows, strict=True):
        about = _about(row)
        own = _choices(f"method={row['method']}", schema) if "method" in row else []
        taken = {name for other in rows if _beside(other) == _beside(row) for name in _about(other)}
        if about:
            chosen = [choice for choice in typed if about.intersection(_names(choice))]
        else:
            chosen = [choice for choice in typed if choice in own or not taken.intersection(_names(choice))]
        if chosen:
            words = {**line.words, "method": f"method={','.join(chosen)}"}
            kept.append(Line(words, line.row))
    return kept


def _beside(row: Mapping[str, str]) -> dict[str, str]:
    """What a row says of other things than methods."""
    return {key: text for key, text in row.items() if key != "method" and not key.startswith("method.")}


def _about_all(saved: Saved) -> str:
    return ", ".join(dict.fromkeys(name for row in saved.rows for name in sorted(_about(row)))) or "no method"


def _paired(choices: Sequence[str]) -> list[str]:
    """Return methods alone, then two at a time in the order they are given."""
    partners = [choice for choice in choices if choice != _NOTHING]
    pairs = [f"[{','.join(_names(a) + _names(b))}]" for a, b in itertools.combinations(partners, 2)]
    return [*choices, *pairs]
