"""Values of single layers: lines of the record while a run goes on, one small table when it stops.

The record is the truth (it is cut and continued with the run, and is never torn); the table is made from it.
"""

from __future__ import annotations

import json
import math
import os
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from plasticine.tracking.jsonfile import sync_folder

if TYPE_CHECKING:
    import pandas
    import pyarrow

__all__ = ["LAYERS_FILE", "read_layers", "write_layers"]

LAYERS_FILE = "layers.parquet"
_RECORD = "metrics.jsonl"
_NAMES = ("metric", "network", "layer")


class _Columns:
    """The same rows in a few bytes each."""

    def __init__(self, rows: Iterator[tuple[int, str, str, str, float | None]]) -> None:
        self.steps, self.values = array("q"), array("d")
        self.codes = {name: array("i") for name in _NAMES}
        self.words: dict[str, dict[str, int]] = {name: {} for name in _NAMES}
        for step, *names, value in rows:
            self.steps.append(step)
            self.values.append(math.nan if value is None else value)
            for column, name in zip(_NAMES, names, strict=True):
                known = self.words[column]
                self.codes[column].append(known.setdefault(name, len(known)))

    def table(self) -> pyarrow.Table:
        import numpy as np
        import pyarrow

        columns = {"env_steps": pyarrow.array(np.asarray(self.steps, np.int64))}
        for name in _NAMES:
            words = pyarrow.array(list(self.words[name]), pyarrow.string())
            codes = np.asarray(self.codes[name], np.int32)
            columns[name] = pyarrow.DictionaryArray.from_arrays(codes, words)
        columns["value"] = pyarrow.array(np.asarray(self.values, np.float64))
        return pyarrow.table(columns)


def _rows(record: Path, stop: int | None) -> Iterator[tuple[int, str, str, str, float | None]]:
    if not record.exists():
        return
    with open(record, "rb") as file:
        position = 0
        for line in file:
            position += len(line)
            if not line.endswith(b"\n") or (stop is not None and position > stop):
                return
            if b'"layers":{' not in line:  # most lines are others, and reading them takes time
                continue
            entry = json.loads(line)
            for metric, networks in entry.get("layers", {}).items():
                for network, layers in networks.items():
                    for layer, value in layers.items():
                        yield entry["s"], metric, network, layer, value


def write_layers(run_dir: Path, stop: int | None = None) -> None:
    """Make ``layers.parquet`` from the record, atomically; none if there are no values of single layers.

    Args:
        run_dir: Folder of the run.
        stop: Bytes of the record to read.

    Raises:
        OSError: The file cannot be written; an older one is untouched.
    """
    columns = _Columns(_rows(run_dir / _RECORD, stop))
    path = run_dir / LAYERS_FILE
    if not columns.steps:
        path.unlink(missing_ok=True)
        return
    from pyarrow import parquet

    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "wb") as file:
            parquet.write_table(columns.table(), file, compression="zstd")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(run_dir)


def read_layers(run_dir: Path | str) -> pandas.DataFrame:
    """Values of single layers of a run, of one that is still going on as well.

    Columns: ``env_steps``, ``metric``, ``network``, ``layer`` and ``value`` (NaN where it was not finite). The last
    line, if it is half written, is left out; a run that has recorded no such values gives no rows.
    """
    return _Columns(_rows(Path(run_dir) / _RECORD, None)).table().to_pandas()
