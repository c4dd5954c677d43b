"""Which methods go together, found out by building every pair: ``python -m plasticine.testing.composition``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from plasticine.testing.contract import check_pair
from plasticine.testing.runs import method_names

__all__ = ["page", "refusals"]

_HEAD = """# Which methods go together

`method=[a,b]` selects several methods, and their order matters. Every pair below was built in both orders, with PPO
and a shared encoder of ReLU units; this page is the result. It is written by `make composition`, and a test compares
it with the code. What is refused is refused before a run begins, with what to do instead. More than two methods go
together if every two of them do. What each of them does is on the page about [fidelity](fidelity.md).

| | |
|---|---|
| `.` | in either order |
| `>` | only with the method of the row before that of the column |
| `<` | only with the method of the column before that of the row |
| `x` | not at all |

"""


def refusals(names: Sequence[str]) -> dict[tuple[str, str], str]:
    """Why pairs of methods are refused, by (first, second); pairs that can be built are left out."""
    answers = {(a, b): check_pair(a, b, train=False) for a in names for b in names if a != b}
    return {pair: why for pair, why in answers.items() if why}


def page(names: Sequence[str], refused: Mapping[tuple[str, str], str]) -> str:
    """The table and the reasons, as Markdown."""
    wide = max(map(len, names)) + 4
    lines = [" " * wide + "".join(f"{i % 100:3d}" for i in range(1, len(names) + 1))]
    for i, row in enumerate(names, 1):
        marks = [_mark(row, column, refused) for column in names]
        lines.append(f"{i:2d}  {row:{wide - 4}s}" + "".join(f"  {m}" for m in marks))
    reasons = [
        f"| `{first}` | `{second}` | {why.replace('|', chr(92) + '|')} |"
        for (first, second), why in sorted(refused.items())
    ]
    return "\n".join(
        [
            _HEAD + "```text",
            *lines,
            "```",
            "",
            "## Why not",
            "",
            "| first | second | |",
            "|---|---|---|",
            *reasons,
            "",
        ]
    )


def _mark(row: str, column: str, refused: Mapping[tuple[str, str], str]) -> str:
    if row == column:
        return " "
    forwards, backwards = (row, column) not in refused, (column, row) not in refused
    return {(True, True): ".", (True, False): ">", (False, True): "<", (False, False): "x"}[
        forwards, backwards
    ]


if __name__ == "__main__":
    names = method_names()
    sys.stdout.write(page(names, refusals(names)))
