"""Diagnosis while a run goes on: a few looks, each at the logged numbers so far."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from plasticine.core.ranges import check_counts
from plasticine.diagnosis.curves import Curves
from plasticine.diagnosis.diagnosis import Diagnosis, finding_facts, judge
from plasticine.diagnosis.returns import RETURN_KEY
from plasticine.diagnosis.signature import Signature

__all__ = ["Watch", "is_wanted"]


def is_wanted(key: str, signatures: Mapping[str, Signature]) -> bool:
    """Whether a signature looks at a logged key: by its name, as a network's part of it, or by a pattern."""
    if key == RETURN_KEY:
        return True
    patterns = {pattern for signature in signatures.values() for pattern in signature.reads()}
    return any(key == p or key.startswith(f"{p}/") or fnmatchcase(key, p) for p in patterns)


class Watch:
    """Keeps what signatures look at and judges it at even distances.

    Nothing random is involved and nothing but logged numbers is read, so that a run that was interrupted is judged
    like one that was not, and the record afterwards like the run itself.

    Args:
        signatures: By name.
        looks: Number of looks over the run; the last one is at its end.
        facts: Of the run, see `Curves`.
    """

    def __init__(self, signatures: Mapping[str, Signature], *, looks: int, facts: Mapping[str, Any]) -> None:
        check_counts("diagnosis", looks=looks)
        self.signatures = dict(signatures)
        self.curves = Curves(facts=dict(facts))
        self._looks = looks
        self._done = 0
        self._open: list[str] = []  # reported and not over
        self._suspected: list[str] = []  # found at the latest look
        self._wanted: dict[str, bool] = {}

    def take(self, scalars: Mapping[str, float], env_steps: int, done: float) -> list[dict[str, Any]]:
        """Take in what was logged; at a look, return what is new and what is over.

        Many looks are many chances to be wrong. So what rests on a test is reported once two looks in a row have
        found it, or the last one has.
        """
        wanted = self._wanted
        for key in scalars.keys() - wanted.keys():
            wanted[key] = is_wanted(key, self.signatures)
        self.curves.add({key: value for key, value in scalars.items() if wanted[key]}, env_steps)
        look = int(done * self._looks + 1e-9)
        if look <= self._done:
            return []
        self._done = look
        found = self.now()
        sure = {
            f.name for f in found.findings if f.name in self._suspected or f.evidence.p == 0.0 or done >= 1.0
        }
        before = self._open
        self._suspected = list(found.names)
        self._open = [name for name in found.names if name in before or name in sure]
        events = []
        for finding in found.findings:
            if finding.name in sure and finding.name not in before:
                facts = finding_facts(finding)
                del facts["says"], facts["helps"]  # the report has them
                events.append({"state": "found", **facts})
        return events + [{"state": "over", "name": name} for name in before if name not in self._open]

    def now(self) -> Diagnosis:
        """Judge what there is so far."""
        return judge(self.signatures, self.curves)

    def state(self) -> dict[str, Any]:
        """Plain data to go on from."""
        return {
            "curves": self.curves.state(),
            "done": self._done,
            "open": list(self._open),
            "suspected": list(self._suspected),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore `state`."""
        self.curves.load_state(state["curves"])
        self._done = int(state["done"])
        self._open = [str(name) for name in state["open"]]
        self._suspected = [str(name) for name in state["suspected"]]
