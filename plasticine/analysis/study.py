"""All runs of a study, from one folder of runs or from several."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from plasticine.analysis.lines import Series
from plasticine.analysis.parsed import is_cached
from plasticine.analysis.record import RunRecord, read_run
from plasticine.errors import UserError, nearest
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.local import METRICS_FILE
from plasticine.tracking.sync import find_runs

__all__ = ["Study", "find_study", "read_study"]

#: Bytes of records never read before from which on a second process helps.
_MUCH = 100_000_000


@dataclass(frozen=True)
class Study:
    """The runs of a study.

    Attributes:
        name: Of the study; of several, joined by commas.
        runs: In the order of their folders.
        broken: Runs whose record cannot be read, and why.
        duplicates: Folders left out because another one, with the same cell and seed, has come further.
    """

    name: str
    runs: tuple[RunRecord, ...]
    broken: Mapping[Path, str]
    duplicates: tuple[Path, ...]

    def cells(self) -> dict[str, tuple[RunRecord, ...]]:
        """The runs by cell, those of a cell in the order of their seeds."""
        return self.by(lambda run: run.cell)

    def by(self, key: Callable[[RunRecord], str]) -> dict[str, tuple[RunRecord, ...]]:
        """The runs by any name, e.g. ``study.by(lambda run: run.method)``, in the order of their seeds."""
        found: dict[str, list[RunRecord]] = {}
        for run in self.runs:
            found.setdefault(key(run), []).append(run)
        return {name: tuple(sorted(runs, key=lambda r: r.seed)) for name, runs in found.items()}


def find_study(where: str | Path, runs_dir: str | Path = "runs") -> list[Path]:
    """The run folders of a study.

    Args:
        where: Name of a study in `runs_dir`, or a folder: of a study, of a cell, of a run, or of several studies.
        runs_dir: Folder of all studies.

    Raises:
        UserError: There is no such study or folder, or no run in it.
    """
    inside = Path(runs_dir) / where
    if inside.is_dir():
        return find_runs(inside)
    if Path(where).is_dir():
        return find_runs(Path(where))
    root = Path(runs_dir)
    if not root.is_dir():
        raise UserError(
            f"there is no folder {where}, and no folder {root} to look for a study of that name",
            "name the folder of the study, or the folder of all studies (runs_dir)",
        )
    known = [entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    raise UserError(f"there is no study {str(where)!r} in {root}", nearest(str(where), known))


def read_study(
    where: str | Path | Sequence[str | Path],
    runs_dir: str | Path = "runs",
    *,
    keys: Callable[[str], bool] | None = None,
) -> Study:
    """Read the records of a study.

    A run that cannot be read does not hide the others: it is in `Study.broken`. A run that is there more than once,
    in several folders, is read where it has come furthest.

    Args:
        where: See `find_study`; several are joined.
        runs_dir: See `find_study`.
        keys: Keeps the series whose keys it accepts, all if None. Thousands of runs need less memory with it.

    Raises:
        UserError: There is no such study or folder, or no run in it.
    """
    places = [where] if isinstance(where, (str, Path)) else list(where)
    folders = list(dict.fromkeys(run for place in places for run in find_study(place, runs_dir)))
    _read_ahead(folders)
    found: dict[tuple[str, str, int], RunRecord] = {}
    broken: dict[Path, str] = {}
    duplicates: list[Path] = []
    for folder in folders:
        try:
            run = read_run(folder)
            identity = (run.study, run.cell, run.seed)
        except (UserError, ValueError, KeyError) as error:
            broken[folder] = " ".join(str(error).split())
            continue
        rival = found.get(identity)
        if rival is not None:
            kept, dropped = (run, rival) if _progress(run) > _progress(rival) else (rival, run)
            duplicates.append(dropped.folder)
            if kept is rival:
                continue
        found[identity] = _only(run, keys)
    name = ",".join(dict.fromkeys(run.study for run in found.values()))
    return Study(name, tuple(found.values()), broken, tuple(duplicates))


def _progress(run: RunRecord) -> tuple[bool, int]:
    return run.state == "finished", run.env_steps


def _only(run: RunRecord, keys: Callable[[str], bool] | None) -> RunRecord:
    """Drop the series that are not wanted, arrays they share with others included."""
    if keys is None:
        return run
    steps: dict[int, Series] = {}
    kept: dict[str, Series] = {}
    for key, series in run.series.items():
        if keys(key):
            shared = steps.setdefault(id(series.steps), series).steps
            kept[key] = Series(shared, series.values.copy())
    last = run.env_steps  # of all series, not of those that are kept
    found = RunRecord(run.folder, run.card, run.state, run.error, kept, run.episodes, run.events)
    vars(found)["env_steps"] = last
    return found


def _read_ahead(folders: Sequence[Path]) -> None:
    """If there is much to parse, let other processes do a share of it, who keep what they read beside the records."""
    fresh = [f for f in folders if _unread(f)]
    helpers = min(3, (os.cpu_count() or 1) - 1)
    if helpers < 1 or sum((f / METRICS_FILE).stat().st_size for f in fresh) < _MUCH:
        return
    shares = [fresh[k :: helpers + 1] for k in range(helpers + 1)]
    command = [sys.executable, "-m", __name__]
    running = []
    for share in shares[1:]:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        assert process.stdin is not None
        process.stdin.write("\n".join(str(folder.absolute()) for folder in share))
        process.stdin.close()
        running.append(process)
    try:
        parse_all(shares[0])
    finally:
        for process in running:
            process.wait()


def _unread(folder: Path) -> bool:
    """Whether the run has stopped, and what is read of it can be kept but has not been."""
    state = _status(folder).get("state", "running")
    path = folder / METRICS_FILE
    return state != "running" and path.exists() and os.access(folder, os.W_OK) and not is_cached(path)


def _status(folder: Path) -> Mapping[str, object]:
    try:
        return read_json(folder / "status.json") or {}
    except ValueError:
        return {}  # damaged: told when the run itself is read


def parse_all(folders: Iterable[Path]) -> None:
    """Read runs for what stays beside their records; what cannot be read is told by whoever needs it."""
    for folder in folders:
        try:
            read_run(folder)
        except ValueError:
            continue


if __name__ == "__main__":
    parse_all(Path(line) for line in sys.stdin.read().splitlines())
