"""A report over two thousand runs. Prints what it took: ``pytest -s -m slow tests/report/test_large.py``."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.report.synthetic import Planned, write_cell

METHODS = ["vanilla", "full_reset", "redo", "snp", "layer_norm", "cbp", *(f"method_{k}" for k in range(14))]
GIGABYTES = 4


def write_study(folder: Path) -> int:
    """20 methods, 10 environments on two levels, 10 seeds; 400 lines of metrics a run."""
    for k in range(10):
        continual = k < 6
        for method in METHODS:
            cell = Planned(
                method, f"toy/stream{k}" if continual else f"standard_dmc/task{k}",
                "continual" if continual else "standard", seeds=range(10), tasks=10 if continual else 1,
                names=5 if continual else 1, steps_per_task=100_000 if continual else 1_000_000, lines=400,
            )  # fmt: skip
            write_cell(folder, "large", cell)
    return 10 * len(METHODS) * 10


@pytest.mark.slow
def test_two_thousand_runs(tmp_path):
    count = write_study(tmp_path / "runs")
    code = "import sys; from plasticine.cli.main import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "report", "large", "--runs-dir", str(tmp_path / "runs")]
    begun = time.monotonic()
    subprocess.run([*command, "--out", str(tmp_path / "out")], check=True, cwd=tmp_path, env=os.environ)
    seconds = time.monotonic() - begun
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    size = (tmp_path / "out" / "report.html").stat().st_size / 2**20
    print(
        f"\n{count} runs: {seconds:.0f} s on the clock, {used.ru_utime + used.ru_stime:.0f} s of processors, "
        f"at most {used.ru_maxrss / 2**20:.2f} GiB in one process; page {size:.1f} MiB"
    )
    assert used.ru_maxrss * 1024 < GIGABYTES * 1e9 / 3  # each of the at most three processes
    assert "All 2000 runs are done." in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert len(json.loads((tmp_path / "out" / ".files.json").read_text())) > 90
