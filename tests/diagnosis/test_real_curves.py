"""How often a diagnosis is wrong on real runs, kept as curves by ``benchmarks/bench_diagnosis.py --data``."""

from __future__ import annotations

from pathlib import Path

import pytest

from plasticine.analysis.record import RunRecord
from plasticine.diagnosis.afterwards import diagnose
from tests.diagnosis import lab

DATA = Path(__file__).resolve().parents[1] / "data" / "diagnosis_curves.json.gz"


@pytest.fixture(scope="module")
def runs() -> dict[str, RunRecord]:
    return lab.unpack(DATA)


def test_healthy_runs_carry_no_flag(runs):
    healthy = [run for name, run in runs.items() if name.startswith("healthy/")]
    assert len(healthy) >= 40
    signatures = lab.signatures()
    assert sum(bool(diagnose(run, signatures).findings) for run in healthy) <= 0.05 * len(healthy)
    assert sum(bool(lab.alarms(run, signatures)) for run in healthy) <= 0.05 * len(healthy)


@pytest.mark.parametrize("kind", lab.INJECTIONS)
def test_what_is_broken_on_purpose_is_found(runs, kind):
    broken = [run for name, run in runs.items() if name.startswith(f"injected/{kind}/")]
    assert len(broken) >= 10
    signatures, expected = lab.signatures(), lab.INJECTIONS[kind].expected
    found = [expected in diagnose(run, signatures).names for run in broken]
    assert sum(found) >= 0.95 * len(broken)


@pytest.mark.slow
def test_the_rates_hold_for_runs_made_now(tmp_path):
    """Forty healthy runs and two of each failure, from seeds that nothing was chosen by."""
    signatures = lab.signatures()
    flagged = count = 0
    for kind, overrides in lab.HEALTHY.items():
        for seed in range(500, 505):
            run = lab.run(tmp_path / kind / f"seed={seed}", lab.wanted(*overrides, seed=seed))
            flagged, count = flagged + bool(diagnose(run, signatures).findings), count + 1
    assert count >= 40
    assert flagged <= 0.05 * count
    for kind, injection in lab.INJECTIONS.items():
        for seed in (500, 501):
            run = lab.run(tmp_path / kind / f"seed={seed}", lab.wanted(seed=seed, injection=kind))
            assert injection.expected in diagnose(run, signatures).names
