"""How often a diagnosis is wrong: healthy runs that are flagged, and failures made on purpose that are not found.

    python benchmarks/bench_diagnosis.py --folder /tmp/diagnosis --seeds 100-105

Runs are kept in the folder; a second call only judges them again. With --data, what signatures read of them goes into
one compressed file, which tests judge in seconds.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plasticine.analysis.record import RunRecord, read_run
from plasticine.diagnosis.afterwards import diagnose
from tests.diagnosis import lab


def seeds(text: str) -> range:
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)


def record(folder: Path, config: dict[str, Any]) -> RunRecord:
    done = folder / "status.json"
    return read_run(folder) if done.exists() else lab.run(folder, config)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument(
        "--seeds", type=seeds, default=seeds("100-105"), help="of the healthy runs of each kind"
    )
    parser.add_argument("--injected", type=seeds, default=seeds("200-219"), help="of each pathology")
    parser.add_argument("--data", type=Path)
    arguments = parser.parse_args()
    signatures = lab.signatures()
    kept: dict[str, RunRecord] = {}

    flagged = alarmed = count = 0
    names: Counter[str] = Counter()
    for kind, overrides in lab.HEALTHY.items():
        bad = []
        for seed in arguments.seeds:
            run = record(
                arguments.folder / "healthy" / kind / f"seed={seed}", lab.wanted(*overrides, seed=seed)
            )
            kept[f"healthy/{kind}/{seed}"] = run
            found = diagnose(run, signatures)
            alarms = lab.alarms(run, signatures)
            bad += [(seed, found.names, alarms)] if found.findings or alarms else []
            names.update(set(found.names) | set(alarms))
            count, flagged, alarmed = count + 1, flagged + bool(found.findings), alarmed + bool(alarms)
        print(f"healthy {kind:14s} {len(arguments.seeds)} runs, flagged: {bad or 'none'}", flush=True)
    print(f"healthy: {flagged} of {count} flagged at the end, {alarmed} at any of their looks {dict(names)}")

    for kind, injection in lab.INJECTIONS.items():
        missed, others = [], Counter[str]()
        for seed in arguments.injected:
            place = arguments.folder / "injected" / kind / f"seed={seed}"
            run = record(place, lab.wanted(seed=seed, injection=kind))
            kept[f"injected/{kind}/{seed}"] = run
            found = diagnose(run, signatures)
            missed += [] if injection.expected in found.names else [seed]
            others.update(name for name in found.names if name != injection.expected)
        number = len(arguments.injected)
        print(
            f"{kind:10s} found as {injection.expected}: {number - len(missed)} of {number}"
            f"{f', missed {missed}' if missed else ''}; as well: {dict(others)}",
            flush=True,
        )
    if arguments.data:
        arguments.data.parent.mkdir(parents=True, exist_ok=True)
        arguments.data.write_bytes(lab.pack(kept, signatures))


if __name__ == "__main__":
    main()
