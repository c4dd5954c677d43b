"""Sending what is not in MLflow yet, for all runs below a folder."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import yaml

from plasticine.errors import UserError
from plasticine.tracking.follower import RunFollower
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.state import ForwardState
from plasticine.tracking.store import Store, one_line, open_store, resolve_uri, store_errors

__all__ = ["Synced", "find_runs", "sync"]

#: Where ``run.json`` may lie below the given folder: a run, a cell, a study, or the folder of all studies.
_DEPTHS = ("run.json", "*/run.json", "*/*/run.json", "*/*/*/run.json")


class Synced(NamedTuple):
    """What happened to one run.

    Attributes:
        run_dir: Its folder.
        uri: Store it goes to.
        points: Points sent.
        pending: Whether something is left.
        reason: Why.
        store: The store, None if it is out of reach.
    """

    run_dir: Path
    uri: str
    points: int
    pending: bool
    reason: str
    store: Store | None = None


def find_runs(folder: Path, study: str | None = None) -> list[Path]:
    """Return the folders of the runs in `folder`, all of them or those of one study, in order.

    Raises:
        UserError: There is no such folder, or no run in it.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder", "give the runs_dir of the launch; the default is ./runs")
    found = sorted({path.parent for depth in _DEPTHS for path in folder.glob(depth)})
    if study is not None:
        found = [run for run in found if (read_json(run / "run.json") or {}).get("study") == study]
    if not found:
        raise UserError(
            f"there is no run in {folder}" + (f" of study {study!r}" if study else ""),
            "give the runs_dir of the launch; the default is ./runs",
        )
    return found


def sync(run_dirs: list[Path], uri: str | None, launch_dir: Path) -> Iterator[Synced]:
    """Push runs one by one and yield what happened to each.

    Each run goes to `uri`, else where it went before, else where its config says, else into ``mlflow.db`` in
    `launch_dir`.

    Raises:
        UserError: A URI that can never work.
    """
    stores: dict[tuple[str, str], Store] = {}
    unreachable: dict[str, str] = {}
    for run_dir in run_dirs:
        target, experiment = _target(run_dir, uri, launch_dir)
        if target is None:
            continue
        if target in unreachable:
            yield Synced(run_dir, target, 0, True, unreachable[target])
            continue
        try:
            if (target, experiment) not in stores:
                stores[target, experiment] = open_store(target, experiment, launch_dir)
        except store_errors() as error:
            unreachable[target] = one_line(error)
            yield Synced(run_dir, target, 0, True, unreachable[target])
            continue
        yield _push(run_dir, stores[target, experiment])


def _push(run_dir: Path, store: Store) -> Synced:
    caught: tuple[type[Exception], ...] = (*store_errors(), ValueError)
    before = ForwardState.load(run_dir).pushed
    try:
        result = RunFollower(run_dir).push(store, math.inf, final=True)
    except caught as error:
        points = max(0, ForwardState.load(run_dir).pushed - before)
        return Synced(run_dir, store.uri, points, True, one_line(error), store)
    return Synced(run_dir, store.uri, result.points, result.pending, result.reason, store)


def _target(run_dir: Path, uri: str | None, launch_dir: Path) -> tuple[str | None, str]:
    """Return where a run goes (None: it keeps no record) and the name of its experiment."""
    path = run_dir / "config.yaml"
    if not path.exists():
        raise UserError(f"{path} is missing", "start the run again: it writes the file anew")
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    tracker = config["tracker"]
    experiment = tracker.get("experiment") or config["study"]
    if tracker["kind"] == "none":
        return None, experiment
    known = ForwardState.load(run_dir).uri
    return resolve_uri(uri or known or tracker.get("uri"), launch_dir), experiment
