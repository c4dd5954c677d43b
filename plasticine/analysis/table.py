"""A study as one table, one row per value."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from plasticine.analysis.record import RunRecord
from plasticine.analysis.study import read_study
from plasticine.errors import UserError, nearest

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["load_study"]

#: What names a row, in the order of the columns.
_NAMES = ("run", "seed", "method", "agent", "env", "level")


def load_study(
    where: str | Path | Sequence[str | Path],
    runs_dir: str | Path = "runs",
    metrics: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read a study into a tidy table.

    Args:
        where: Name of a study in `runs_dir`, or a folder with runs; several are joined.
        runs_dir: Folder of all studies.
        metrics: Keys to read, as patterns like ``"plasticity/*"``; all if None. With it, large studies need less
            memory.

    Returns:
        A row per value, sorted by run and step: ``run`` (study, cell and seed, as its folder is called), ``seed``,
        ``method``, ``agent``, ``env``, ``level``, ``task`` (index in the stream of tasks, -1 outside of it), ``step``
        (env steps), ``metric`` (key), ``value``. Names are categories.

    Raises:
        UserError: There is no such study, no run of it can be read, or no key fits `metrics`.
    """
    import pandas as pd

    patterns = [metrics] if isinstance(metrics, str) else metrics
    seen: set[str] = set()

    def wanted(key: str) -> bool:
        seen.add(key)
        return patterns is None or any(fnmatchcase(key, p) for p in patterns)

    study = read_study(where, runs_dir, keys=wanted)
    if not study.runs:
        reason = next(iter(study.broken.values()))
        raise UserError(
            f"none of the {len(study.broken)} runs can be read: {reason}", "see `plasticine status`"
        )
    keys = sorted({key for run in study.runs for key in run.series})
    if not keys and patterns is not None and seen:
        raise UserError(f"no key fits metrics={list(patterns)}", nearest(patterns[0], seen))
    place = {key: k for k, key in enumerate(keys)}
    rows = [_columns(run, place) for run in study.runs]
    sizes = [len(step) for _, step, _, _ in rows]
    table: dict[str, Any] = {}
    for name in _NAMES:
        values = [_named(run, name) for run in study.runs]
        codes, names = pd.factorize(np.asarray(values, object), sort=True)
        repeated = np.repeat(codes, sizes)
        table[name] = (
            np.repeat(values, sizes) if name == "seed" else pd.Categorical.from_codes(repeated, names)
        )
    task, step, metric, value = (np.concatenate(column) for column in zip(*rows, strict=True))
    table |= {
        "task": task,
        "step": step,
        "metric": pd.Categorical.from_codes(metric, pd.Index(keys, dtype=object)),
    }
    return pd.DataFrame({**table, "value": value})


def _named(run: RunRecord, name: str) -> Any:
    return "/".join(run.folder.absolute().parts[-3:]) if name == "run" else getattr(run, name)


def _columns(run: RunRecord, place: dict[str, int]) -> tuple[NDArray[Any], ...]:
    """Task, step, key and value of every value of a run, in the order of steps."""
    series = list(run.series.items())
    none = np.zeros(0, np.int64)
    step = np.concatenate([s.steps for _, s in series] or [none])
    value = np.concatenate([s.values for _, s in series] or [none.astype(np.float64)])
    metric = np.repeat([place[key] for key, _ in series], [len(s.steps) for _, s in series]).astype(np.int32)
    order = np.argsort(step, kind="stable")
    starts = np.asarray([span.start for span in run.tasks], np.int64)
    indices = np.asarray([-1, *(span.index for span in run.tasks)], np.int32)
    # A value is logged at the end of what it is about: one at the very start of a task belongs to the task before.
    task = indices[np.searchsorted(starts, step, side="left")]
    return task[order], step[order], metric[order], value[order]
