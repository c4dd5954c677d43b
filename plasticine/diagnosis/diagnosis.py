"""All signatures together, and what they say in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plasticine.diagnosis.curves import Curves
from plasticine.diagnosis.signature import Finding, Signature, Unknown

__all__ = ["Diagnosis", "judge"]


@dataclass(frozen=True)
class Diagnosis:
    """What was found at one look at a run.

    Attributes:
        env_steps: How far the run was.
        findings: Signatures that fit.
        unknown: Why the others could not be judged, by name.
        healthy: Names of those that do not fit.
    """

    env_steps: int
    findings: tuple[Finding, ...]
    unknown: Mapping[str, str]
    healthy: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of what was found."""
        return tuple(finding.name for finding in self.findings)

    def paragraph(self) -> str:
        """What there is to say, for a person."""
        if not self.findings:
            checked = ", ".join(self.healthy) or "nothing"
            return f"No sign of a known failure in {self.env_steps:,} steps (looked for: {checked})."
        return "\n\n".join(_words(finding) for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """Plain data for ``diagnosis.json``."""
        return {
            "env_steps": self.env_steps,
            "findings": [finding_facts(finding) for finding in self.findings],
            "unknown": dict(self.unknown),
            "not_found": list(self.healthy),
        }


def judge(signatures: Mapping[str, Signature], curves: Curves) -> Diagnosis:
    """Hold every signature against the curves of a run."""
    findings, unknown, healthy = [], {}, []
    for name, signature in signatures.items():
        verdict = signature.finding(name, curves)
        if isinstance(verdict, Finding):
            findings.append(verdict)
        elif isinstance(verdict, Unknown):
            unknown[name] = verdict.reason
        else:
            healthy.append(name)
    return Diagnosis(curves.env_steps, tuple(findings), unknown, tuple(healthy))


def finding_facts(finding: Finding) -> dict[str, Any]:
    """Plain data: name, key, where it began, what was seen, what it means and what acts on it."""
    e = finding.evidence
    return {
        "name": finding.name,
        "key": e.key,
        "began": e.began,
        "p": e.p,
        "before": e.before if math.isfinite(e.before) else None,
        "after": e.after if math.isfinite(e.after) else None,
        "test": e.test,
        "says": finding.says,
        "helps": list(finding.helps),
    }


def _words(finding: Finding) -> str:
    e = finding.evidence
    moved = f" went from {e.before:.3g} to {e.after:.3g}" if math.isfinite(e.before) else ""
    helps = f" Methods that act on it: {', '.join(finding.helps)}." if finding.helps else ""
    return f"{finding.name}, since step {e.began:,}: {e.key}{moved} ({e.test}). {finding.says}{helps}"
