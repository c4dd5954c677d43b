"""What MLflow's tables show of a run besides its curves."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plasticine.errors import UserError
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.parent import KIND

__all__ = ["IDENTITY", "RunCard"]

#: On every run both as parameter (MLflow groups curves by these) and as tag (MLflow searches these).
IDENTITY = ("study", "level", "env", "method", "agent", "seed", "cell")
_PARAM_LENGTH = 6000
_TAG_LENGTH = 5000
_KEY_LENGTH = 250


@dataclass(frozen=True)
class RunCard:
    """Name, parameters and tags of a run within MLflow's limits.

    Attributes:
        name: Name of the run.
        study: Study the run belongs to.
        params: Identity of the run and its flattened semantic config.
        tags: Identity of the run and what finds it again.
        log_lines: Number of metric lines the whole run will write, None if unknown.
    """

    name: str
    study: str
    params: dict[str, str]
    tags: dict[str, str]
    log_lines: int | None

    @classmethod
    def read(cls, run_dir: Path) -> RunCard:
        """Read ``run.json``.

        Raises:
            UserError: The file is missing or lacks an entry.
        """
        content = read_json(run_dir / "run.json")
        missing = [key for key in ("name", *IDENTITY) if key not in (content or {})]
        if content is None or missing:
            raise UserError(
                f"{run_dir / 'run.json'} " + ("is missing" if content is None else f"has no {missing[0]!r}"),
                "start the run again: it writes the file anew",
            )
        tags = content.get("tags", {})
        identity = {KIND: "seed", **{key: content[key] for key in IDENTITY}}
        if "budget" in tags:
            identity["budget"] = tags["budget"]
        found = {
            **identity,
            "plasticine.cell": content["cell"],
            "plasticine.key": f"{content['study']}/{content['cell']}/seed={content['seed']}",
            "plasticine.run_dir": str(run_dir.absolute()),
        }
        return cls(
            name=str(content["name"]),
            study=str(content["study"]),
            params=_texts({**content.get("params", {}), **identity}, _PARAM_LENGTH),
            tags=_texts({**tags, **found}, _TAG_LENGTH),
            log_lines=content.get("log_lines"),
        )

    @staticmethod
    def clean(key: str) -> str:
        """Return `key` with the characters that MLflow does not take in names replaced by ``_``."""
        return re.sub(r"[^\w\-. :/]", "_", key, flags=re.ASCII)[:_KEY_LENGTH]


def _texts(values: dict[str, Any], length: int) -> dict[str, str]:
    return {RunCard.clean(key): _text(value)[:length] for key, value in values.items()}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
