"""How long a person waits: for the help text, and from the command to the first environment step.

    python benchmarks/bench_startup.py [--rounds 3]

The best of some rounds counts: the first one reads everything from disk.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

COMMAND = [sys.executable, "-m", "plasticine.cli.run"]
RUNS = {
    "first env step, one run, classic": ("env=classic",),
    "first env step, one run, continual_dmc": ("env=continual_dmc",),
    "first env step, multirun of 2, continual_dmc": ("env=continual_dmc", "-m", "seed=0-1"),
}


def help_text() -> float:
    """Seconds until the help text is there."""
    began = time.perf_counter()
    subprocess.run([*COMMAND, "--help"], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def first_step(*arguments: str) -> float:
    """Seconds from the command to the moment a run enters its first task."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        subprocess.run([*COMMAND, *arguments, "budget=smoke"], cwd=folder, check=True, capture_output=True)
        starts = []
        for record in Path(folder).rglob("metrics.jsonl"):
            first = next(
                row for line in record.open() if (row := json.loads(line)).get("event") == "task_start"
            )
            starts.append(first["t"] / 1000)
        return min(starts) - began


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    rounds = range(parser.parse_args().rounds)
    print(f"  {'plasticine-run --help':46s} {min(help_text() for _ in rounds):5.2f} s")
    for name, arguments in RUNS.items():
        print(f"  {name:46s} {min(first_step(*arguments) for _ in rounds):5.2f} s")


if __name__ == "__main__":
    main()
