"""Check files before a commit: text files end with exactly one newline, no file is larger than 1 MiB."""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT = 1 << 20


def problem(path: Path) -> str:
    """Return what is wrong with a file, or an empty text."""
    content = path.read_bytes()
    if len(content) > LIMIT:
        return f"{len(content)} bytes, more than {LIMIT}"
    if not content or b"\0" in content[:8000]:
        return ""
    if not content.endswith(b"\n"):
        return "no newline at the end"
    return "blank lines at the end" if content.endswith(b"\n\n") else ""


def main(names: list[str]) -> int:
    """Print one line for each problem; return 1 if there is any."""
    found = [(name, problem(Path(name))) for name in names if Path(name).is_file()]
    for name, what in found:
        if what:
            print(f"{name}: {what}")
    return int(any(what for _, what in found))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
