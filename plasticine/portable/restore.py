"""From a data set back to run folders."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from plasticine.errors import UserError
from plasticine.portable.card import RUN_NAME, verified
from plasticine.portable.tables import TABLES, lines_of
from plasticine.tracking.jsonfile import replace_json
from plasticine.tracking.layers import write_layers
from plasticine.tracking.local import COMMITTED_FILE, METRICS_FILE

__all__ = ["restore"]


def restore(data: Path, runs_dir: Path) -> list[Path]:
    """Make run folders of a data set, after all of its files were verified.

    They are made beside the others first and then put in place, so that no half-written one is ever there.

    Args:
        data: Folder of the data set.
        runs_dir: Folder of all studies; made if it is not there.

    Returns:
        The folders of the runs.

    Raises:
        UserError: A file is missing or altered, the tables do not belong together, or a run is there already.
    """
    from pyarrow import ArrowException

    card = verified(data)
    runs = _runs(data, card["files"])
    for name in runs:
        if (runs_dir / name).exists():
            raise UserError(
                f"{runs_dir / name} is there already", "import into another folder: --runs-dir PATH"
            )
    runs_dir.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".import-", dir=runs_dir))
    moved: list[Path] = []
    try:
        for name, tables in _records(data, card["files"], runs):
            _make(stage / name, runs.pop(name), tables, data, card["files"])
        for name in list(runs):  # those that recorded nothing
            _make(stage / name, runs.pop(name), {table: [] for table in TABLES}, data, card["files"])
        for folder in sorted(stage.glob("*/*/seed=*")):
            target = runs_dir / folder.relative_to(stage)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, target)
            moved.append(target)
    except BaseException as error:
        for target in moved:
            shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, (ArrowException, KeyError, TypeError)):
            what = f"the tables in {data} are not those of a data set: {type(error).__name__}: {error}"
            raise UserError(what, "get the data set again") from error
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)
    return moved


def _runs(data: Path, files: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows of runs.parquet by name, checked."""
    from pyarrow import ArrowInvalid, parquet

    try:
        rows = parquet.read_table(data / "runs.parquet").to_pylist()
    except (ArrowInvalid, OSError) as error:
        raise UserError(
            f"{data / 'runs.parquet'} cannot be read: {error}", "get the data set again"
        ) from error
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        name = str(row.get("run"))
        if not RUN_NAME.fullmatch(name) or ".." in name.split("/"):
            raise UserError(
                f"the data set names a run {name!r}, which is no name of a run", "do not trust this data set"
            )
        if name in found or f"configs/{name}.yaml" not in files:
            what = "is there twice" if name in found else "has no configuration"
            raise UserError(f"run {name} {what} in {data}", "get the data set again")
        found[name] = row
    return found


def _records(
    data: Path, files: Mapping[str, Any], runs: Mapping[str, Any]
) -> Iterator[tuple[str, dict[str, list[tuple[Any, ...]]]]]:
    """Rows of the tables of one run after the other."""
    from pyarrow import parquet

    opened = {
        name: parquet.ParquetFile(data / f"{name}.parquet") for name in TABLES if f"{name}.parquet" in files
    }
    groups: dict[str, dict[str, list[int]]] = {}
    for table, file in opened.items():
        for k in range(file.num_row_groups):
            names = file.read_row_group(k, columns=["run"])["run"].unique().to_pylist()
            if len(names) != 1 or names[0] not in runs:
                raise UserError(
                    f"{table}.parquet holds rows of other runs than runs.parquet", "get the data set again"
                )
            groups.setdefault(names[0], {}).setdefault(table, []).append(k)
    for name, places in groups.items():
        tables: dict[str, list[tuple[Any, ...]]] = {table: [] for table in TABLES}
        for table, numbers in places.items():
            columns = opened[table].read_row_groups(numbers, columns=list(TABLES[table])).to_pydict()
            tables[table] = list(zip(*(columns[key] for key in TABLES[table]), strict=True))
        yield name, tables


def _make(
    folder: Path,
    row: Mapping[str, Any],
    tables: Mapping[str, list[tuple[Any, ...]]],
    data: Path,
    files: Mapping[str, Any],
) -> None:
    name = str(row["run"])
    lines = lines_of(tables)
    if len(lines) != row["lines"] or hashlib.sha256(b"".join(lines)).hexdigest() != row["record_sha256"]:
        raise UserError(f"the record of {name} is not the one that was exported", "get the data set again")
    config = (data / "configs" / f"{name}.yaml").read_text(encoding="utf-8")
    if not isinstance(yaml.safe_load(config), dict):
        raise UserError(f"configs/{name}.yaml is not a configuration", "get the data set again")
    folder.mkdir(parents=True)
    (folder / METRICS_FILE).write_bytes(b"".join(lines))
    (folder / "config.yaml").write_text(config, encoding="utf-8")
    for file, column in (("run.json", "card"), ("status.json", "status"), ("provenance.json", "provenance")):
        replace_json(folder / file, json.loads(row[column]))
    committed = json.loads(row["committed"])
    if committed:
        offset = sum(map(len, lines[: int(row["lines_committed"])]))
        replace_json(folder / COMMITTED_FILE, {"offset": offset, **committed})
    write_layers(folder)
    for path in files:
        if path.startswith(f"checkpoints/{name}/"):
            target = folder / "checkpoints" / Path(path).name
            target.parent.mkdir(exist_ok=True)
            shutil.copyfile(data / path, target)
