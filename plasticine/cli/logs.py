"""``plasticine logs``: what a run has printed, why it failed, and what its job said."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from plasticine.launch.survey import Seen, find_run

__all__ = ["configure", "run"]

_TAIL = 65_536  # bytes read from the end of a file


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("run", help="folder of the run, a part of it that no other has, or its MLflow id")
    parser.add_argument("--runs-dir", default="runs", type=Path, help="folder of the runs (default: runs)")
    parser.add_argument("--lines", type=int, default=40, help="last lines of each file (default: 40)")
    parser.add_argument("--follow", action="store_true", help="go on printing the run's log until Ctrl-C")


def run(arguments: argparse.Namespace) -> int:
    """Print the ends of the run's files."""
    seen = find_run(arguments.runs_dir, arguments.run)
    print(f"{seen.name}: {seen.state}\n{seen.path}")
    for title, path in _files(seen):
        if path.is_file() and path.stat().st_size:
            print(f"\n-- {title}: {path}")
            print("\n".join(_last(path, arguments.lines)))
    if arguments.follow:
        _follow(seen.path / "log.txt")
    return 0


def _files(seen: Seen) -> list[tuple[str, Path]]:
    found = [("log", seen.path / "log.txt")]
    if seen.state in ("failed", "interrupted"):
        found.append(("error", seen.path / "error.txt"))
    if seen.planned is not None:
        made, mine = seen.planned
        tasks = [task for task, runs in made.tasks() if mine in runs]
        found += [(f"job {task}", made.log(task)) for task in tasks]
    return found


def _last(path: Path, lines: int) -> list[str]:
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        return file.read().decode("utf-8", "replace").splitlines()[-max(1, lines) :]


def _follow(path: Path) -> None:
    while not path.exists():
        time.sleep(0.5)
    with open(path, encoding="utf-8", errors="replace") as file:
        file.seek(0, 2)
        while True:
            text = file.read()
            print(text, end="", flush=True)
            if not text:
                time.sleep(0.5)
