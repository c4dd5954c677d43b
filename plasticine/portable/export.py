"""From run folders to a data set."""

from __future__ import annotations

import collections
import contextlib
import datetime
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from plasticine.errors import UserError
from plasticine.portable.anonymous import anonymous_config, anonymous_facts
from plasticine.portable.card import CARD_FILE, FORMAT, RUN_NAME, hashed, readme
from plasticine.portable.tables import TABLES, lines_of, rows_of, schema, writing
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.local import COMMITTED_FILE, METRICS_FILE

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetWriter

__all__ = ["Exported", "export"]

_NAMES = ("study", "level", "env", "method", "agent", "seed", "cell")


class Exported(NamedTuple):
    """What was written: counts of runs, values, ..., runs left out with the reason, and the hash of the card."""

    counts: dict[str, int]
    left_out: dict[Path, str]
    card_sha256: str


def export(folders: Sequence[Path], out: Path, *, checkpoints: bool = False) -> Exported:
    """Write a data set of runs.

    Everything is written beside `out` first, so that `out` is complete or not there. Runs that go on are left out.

    Args:
        folders: Of the runs.
        out: Folder that does not exist yet, or is empty.
        checkpoints: Include the newest checkpoint of each run.

    Raises:
        UserError: `out` is there already, no run can be exported, or the record of one is broken.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} is there already", "choose another folder, or remove it")
    left_out: dict[Path, str] = {}
    chosen: list[_Source] = []
    for folder in folders:
        source = _Source.of(folder)
        if isinstance(source, str):
            left_out[folder] = source
        else:
            chosen.append(source)
    if not chosen:
        reason = next(iter(left_out.values()), "there are none")
        raise UserError(
            f"none of the {len(folders)} runs can be exported: {reason}", "see `plasticine status`"
        )
    twice = [name for name, count in collections.Counter(s.name for s in chosen).items() if count > 1]
    if twice:
        raise UserError(f"two of the runs are called {twice[0]}", "export one folder of runs at a time")
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        os.chmod(stage, 0o755)
        counts = _write(chosen, stage, checkpoints)
        digest = _finish(chosen, stage, counts)
        if out.exists():
            out.rmdir()
        os.replace(stage, out)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    return Exported(counts, left_out, digest)


class _Source(NamedTuple):
    """A run to be exported, as its folder describes it."""

    folder: Path
    name: str
    card: dict[str, Any]
    status: dict[str, Any]
    provenance: dict[str, Any]
    committed: dict[str, Any]
    config: dict[str, Any]

    @classmethod
    def of(cls, folder: Path) -> _Source | str:
        """Read it, or say why it is left out."""
        try:
            files = (
                read_json(folder / name)
                for name in ("run.json", "status.json", "provenance.json", COMMITTED_FILE)
            )
            card, status, provenance, committed = (content or {} for content in files)
            config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError) as error:
            return f"it cannot be read: {' '.join(str(error).split())}"
        name = "/".join((str(card.get("study")), *folder.absolute().parts[-2:]))
        if set(_NAMES) - set(card) or not isinstance(config, dict) or not RUN_NAME.fullmatch(name):
            return "it is not the folder of a run"
        if status.get("state", "running") == "running":
            return "it goes on"
        return cls(folder, name, card, status, provenance, committed, config)


def _write(sources: Sequence[_Source], stage: Path, checkpoints: bool) -> dict[str, int]:
    import pyarrow
    from pyarrow import parquet

    counts = {"runs": len(sources), **dict.fromkeys(TABLES, 0), "checkpoints": 0}
    rows = []
    with contextlib.ExitStack() as stack:
        writers = {
            name: stack.enter_context(
                parquet.ParquetWriter(stage / f"{name}.parquet", schema(name), **writing(name))
            )
            for name in TABLES
        }
        for source in sources:
            rows.append(_record(source, writers, counts))
            config = stage / "configs" / f"{source.name}.yaml"
            config.parent.mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(anonymous_config(source.config), sort_keys=False, allow_unicode=True)
            config.write_text(text, encoding="utf-8")
            if checkpoints:
                counts["checkpoints"] += _checkpoint(source, stage)
    parquet.write_table(pyarrow.Table.from_pylist(rows), stage / "runs.parquet", compression="zstd")
    if not counts["layers"]:
        (stage / "layers.parquet").unlink()
    return counts


def _record(source: _Source, writers: Mapping[str, ParquetWriter], counts: dict[str, int]) -> dict[str, Any]:
    """Write the record of a run, one row group a table, and return its row of runs.parquet."""
    import pyarrow

    path = source.folder / METRICS_FILE
    found = rows_of(path)
    lines = lines_of(found.tables)
    if len(lines) != found.lines or [json.loads(line) for line in lines] != _plain_lines(path, found.lines):
        raise UserError(f"{path} does not survive being exported", "please report this, with the file")
    for name, rows in found.tables.items():
        counts[name] += len(rows)
        if rows:
            columns = [[source.name] * len(rows), *(list(column) for column in zip(*rows, strict=True))]
            kinds = schema(name)
            arrays = [pyarrow.array(c, type=field.type) for c, field in zip(columns, kinds, strict=True)]
            writers[name].write_table(
                pyarrow.Table.from_arrays(arrays, schema=kinds), row_group_size=len(rows)
            )
    offset = int(source.committed.get("offset", 0))
    content = path.read_bytes() if path.exists() else b""
    return {
        "run": source.name,
        **{name: source.card[name] for name in _NAMES},
        "state": source.status["state"],
        "error": source.status.get("error"),
        "env_steps": source.status.get("env_steps"),
        "lines": len(lines),
        "lines_committed": content[:offset].count(b"\n"),
        "record_sha256": hashlib.sha256(b"".join(lines)).hexdigest(),
        "card": json.dumps(anonymous_facts(source.card)),
        "status": json.dumps(anonymous_facts(source.status)),
        "provenance": json.dumps(anonymous_facts(source.provenance)),
        "committed": json.dumps({key: value for key, value in source.committed.items() if key != "offset"}),
    }


def _plain_lines(path: Path, count: int) -> list[Any]:
    if not count:
        return []
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:count]]


def _checkpoint(source: _Source, stage: Path) -> int:
    """Copy the newest checkpoint; return how many there are."""
    from plasticine.core.checkpoint import Checkpoints

    paths = Checkpoints(source.folder / "checkpoints").paths()
    for path in paths[-1:]:
        target = stage / "checkpoints" / source.name / path.name
        target.parent.mkdir(parents=True)
        shutil.copyfile(path, target)
    return len(paths[-1:])


def _finish(sources: Sequence[_Source], stage: Path, counts: dict[str, int]) -> str:
    """Write README.md and card.json; return the hash of the latter."""
    origin = [source.provenance for source in sources]
    versions: dict[str, set[str]] = {}
    for facts in origin:
        for package, version in {"python": facts.get("python"), **(facts.get("packages") or {})}.items():
            if version:
                versions.setdefault(package, set()).add(str(version))
    git = [(facts.get("git") or {}).get("plasticine") or {} for facts in origin]
    card: dict[str, Any] = {
        "format": FORMAT,
        "study": ", ".join(sorted({str(source.card["study"]) for source in sources})),
        "exported": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "counts": counts,
        "versions": {name: " and ".join(sorted(found)) for name, found in sorted(versions.items())},
        "revisions": sorted(
            {
                str(g["revision"]) + (" with changes" if g.get("dirty") else "")
                for g in git
                if g.get("revision")
            }
        ),
        "commands": sorted(
            {str(anonymous_facts(facts)["command"]) for facts in origin if facts.get("command")}
        ),
        "hardware": [
            json.loads(text)
            for text in sorted({json.dumps(f["hardware"]) for f in origin if f.get("hardware")})
        ],
    }
    cells: dict[tuple[str, ...], list[_Source]] = {}
    for source in sources:
        key = tuple(str(source.card[name]) for name in ("method", "agent", "env", "level", "cell"))
        cells.setdefault(key, []).append(source)
    table = []
    for (method, agent, env, level, _), members in sorted(cells.items()):
        states = collections.Counter(str(m.status["state"]) for m in members)
        said = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
        row = {
            "method": method,
            "agent": agent,
            "env": env,
            "level": level,
            "seeds": len(members),
            "states": said,
        }
        table.append(row)
    (stage / "README.md").write_text(readme(card, table), encoding="utf-8")
    content = json.dumps({**card, "files": hashed(stage)}, indent=1).encode() + b"\n"
    (stage / CARD_FILE).write_bytes(content)
    return hashlib.sha256(content).hexdigest()
