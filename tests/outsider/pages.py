"""The package that somebody else writes: the files of the pages ``docs/add_*.md``, as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted((ROOT / "docs").glob("add_*.md"))


class Block(NamedTuple):
    """A fenced block: page, words after the fence, text."""

    page: Path
    info: tuple[str, ...]
    text: str


def blocks(page: Path) -> list[Block]:
    found = re.findall(r"^```(.*?)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [Block(page, tuple(info.split()), text) for info, text in found]


def write_files(folder: Path) -> list[Path]:
    """Write the files of all pages into a folder."""
    written = []
    for block in (b for page in PAGES for b in blocks(page)):
        for name in (word.removeprefix("file=") for word in block.info if word.startswith("file=")):
            written.append(folder / name)
            written[-1].parent.mkdir(parents=True, exist_ok=True)
            written[-1].write_text(block.text, encoding="utf-8")
    return written


def commands(page: Path) -> list[str]:
    """The commands that a page says to run, in order."""
    return [line for block in blocks(page) if "run" in block.info for line in block.text.splitlines()]


def shell(line: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in a folder, with the scripts of this Python at hand."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        ["bash", "-c", line], cwd=folder, env=env, capture_output=True, text=True, timeout=600
    )
