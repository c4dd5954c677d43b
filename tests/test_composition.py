"""The page about methods that go together is what building them says."""

from __future__ import annotations

from pathlib import Path

from plasticine.testing import method_names
from plasticine.testing.composition import page, refusals

PAGE = Path(__file__).resolve().parents[1] / "docs" / "composition.md"


def test_the_committed_page_is_up_to_date():
    names = method_names()
    assert page(names, refusals(names)) == PAGE.read_text(encoding="utf-8"), "run `make composition`"


def test_marks_and_reasons():
    refused = {("a", "b"): "first | why", ("c", "a"): "no", ("b", "c"): "x", ("c", "b"): "y"}
    lines = page(["a", "b", "c", "d"], refused).splitlines()
    start = lines.index("```text") + 2
    rows = [line.split() for line in lines[start : start + 4]]
    assert rows == [
        ["1", "a", "<", ">", "."],
        ["2", "b", ">", "x", "."],
        ["3", "c", "<", "x", "."],
        ["4", "d", ".", ".", "."],
    ]
    assert "| `a` | `b` | first \\| why |" in lines
    assert sum(line.startswith("| `") and line.count("`") == 4 for line in lines) == 4
