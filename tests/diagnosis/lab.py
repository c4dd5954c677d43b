"""Short runs on classic control, healthy and broken on purpose, recorded as the command line records them."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plasticine.analysis.record import Event, RunRecord, Series, read_run
from plasticine.api import configure
from plasticine.compose import build_signatures
from plasticine.diagnosis.returns import RETURN_KEY
from plasticine.diagnosis.signature import Signature
from plasticine.diagnosis.watch import Watch
from plasticine.launch.folder import RunFolder
from plasticine.launch.job import carry_out, inspect
from tests.analysis.runs import PROVENANCE

#: Stationary, a measurement after every iteration, seconds each.
SHORT = (
    "env=classic",
    "env.shift=none",
    "env.steps_per_task=20480",
    "metrics.every=1",
    "evaluation.every=null",
    "tracker=local",
)


#: What a diagnosis must not take for a failure: agents that learn as they are, from their first step on one task.
HEALTHY: dict[str, tuple[str, ...]] = {
    "ppo-cartpole": ("agent=ppo",),
    "ppo-pendulum": ("agent=ppo", "env.domain=pendulum"),
    "ppo-acrobot": ("agent=ppo", "env.domain=acrobot"),
    "ppo-tanh": ("agent=ppo", "network.act=tanh"),
    "pqn-cartpole": ("agent=pqn",),
    "pqn-acrobot": ("agent=pqn", "env.domain=acrobot"),
    "c51-cartpole": ("agent=c51", "agent.iteration_steps=512", "agent.learning_starts=1000"),
    "td3-pendulum": (
        "agent=td3",
        "env.domain=pendulum",
        "env.steps_per_task=12000",
        "agent.iteration_steps=400",
        "agent.train_frequency=8",
        "agent.learning_starts=1000",
    ),
}


class Injection(NamedTuple):
    """A pathology, what it is to be found as, and the run it is put into."""

    cls: str
    rate: float
    expected: str
    overrides: tuple[str, ...] = ()


INJECTIONS = {
    "frozen": Injection("Freeze", 0.0, "frozen_network"),
    "killed": Injection("KillUnits", 0.9, "rising_dormancy"),
    "rank_one": Injection("RankOne", 0.0, "rank_collapse"),
    "exploding": Injection("Explode", 5e-3, "weight_blowup"),
    "entropy": Injection("Determine", 2e-2, "entropy_collapse"),
    "saturated": Injection("Saturate", 2e-2, "saturated_units", ("network.act=tanh",)),
    "nan": Injection("Break", 0.0, "nonfinite"),
}


def signatures(*overrides: str) -> dict[str, Signature]:
    return build_signatures(configure(*overrides)["diagnosis"]["set"])


def wanted(*overrides: str, seed: int, injection: str | None = None, onset: int = 300) -> dict[str, Any]:
    """A configuration; `onset` counts optimizer steps."""
    more = INJECTIONS[injection].overrides if injection else ()
    config = configure(*SHORT, *more, *overrides, f"seed={seed}")
    if injection:
        node = INJECTIONS[injection]
        target = f"tests.diagnosis.pathologies.{node.cls}"
        common = {"scope": ["*"], "when": []}
        config["method"] = {"harm": {"_target_": target, "onset": onset, "rate": node.rate, **common}}
    return config


def run(folder: Path, config: dict[str, Any]) -> RunRecord:
    """Do a run; one that fails is read as far as it came."""
    place = RunFolder(folder)
    carry_out(config, place, inspect(config), PROVENANCE, threading.Event(), lambda facts: None, False)
    return read_run(folder)


def alarms(record: RunRecord, signatures: Mapping[str, Signature], looks: int = 10) -> list[str]:
    """What would have been found at any of the looks while the run went on."""
    watch = Watch(signatures, looks=looks, facts={"actions": record.card["actions"]})
    rows: dict[int, dict[str, float]] = {}
    for key, series in record.series.items():
        for step, value in zip(series.steps.tolist(), series.values.tolist(), strict=True):
            if not key.startswith("summary/"):
                rows.setdefault(step, {})[key] = value
    events = [
        event
        for number, (step, row) in enumerate(sorted(rows.items()), start=1)
        for event in watch.take(row, step, number / len(rows))
    ]
    return sorted({event["name"] for event in events if event["state"] == "found"})


def pack(records: Mapping[str, RunRecord], signatures: Mapping[str, Signature]) -> bytes:
    """What verdicts rest on, of many runs, to four digits: compressed JSON."""
    read = {key for signature in signatures.values() for key in signature.reads() if "*" not in key} | {
        RETURN_KEY
    }
    content: dict[str, Any] = {}
    for name, record in records.items():
        keys = [key for key in record.series if key in read or key.rpartition("/")[0] in read]
        keys = [key for key in keys if not any(other.startswith(f"{key}/") for other in keys)]
        content[name] = {
            "actions": record.card["actions"],
            "nonfinite": [[e.env_steps, e.facts["keys"]] for e in record.events if e.kind == "nonfinite"],
            "steps": sorted({tuple(record.series[key].steps.tolist()) for key in keys}),
        }
        content[name]["series"] = {
            key: [
                content[name]["steps"].index(tuple(record.series[key].steps.tolist())),
                [float(f"{value:.4g}") for value in record.series[key].values],
            ]
            for key in keys
        }
    return gzip.compress(json.dumps(content, separators=(",", ":")).encode(), 9, mtime=0)


def unpack(path: Path) -> dict[str, RunRecord]:
    """The runs that were packed, as far as verdicts rest on them."""
    records: dict[str, RunRecord] = {}
    for name, run in json.loads(gzip.decompress(path.read_bytes())).items():
        series = {
            key: Series(np.asarray(run["steps"][which], np.int64), np.asarray(values, np.float64))
            for key, (which, values) in run["series"].items()
        }
        events = tuple(Event("nonfinite", step, {"keys": keys}) for step, keys in run["nonfinite"])
        card = {"actions": run["actions"]}
        records[name] = RunRecord(Path(name), card, "finished", None, series, np.zeros((0, 4)), events)
    return records
