"""Short runs on classic control, healthy and broken on purpose, recorded as the command line records them."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plasticine.analysis.record import Event, RunRecord, Series, read_run
from plasticine.api import configure
from plasticine.compose import build_signatures
from plasticine.diagnosis.signature import Signature
from plasticine.diagnosis.watch import Watch, is_wanted
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


def pack(records: Mapping[str, RunRecord], signatures: Mapping[str, Signature]) -> dict[str, Any]:
    """What signatures look at, of many runs, to four digits, as arrays by name."""
    arrays: dict[str, Any] = {}
    for name, record in records.items():
        arrays[f"{name}|card"] = np.asarray(
            json.dumps({k: record.card[k] for k in ("actions", "env", "agent")})
        )
        events = [[e.env_steps, e.facts["keys"]] for e in record.events if e.kind == "nonfinite"]
        arrays[f"{name}|nonfinite"] = np.asarray(json.dumps(events))
        for key, series in record.series.items():
            if is_wanted(key, signatures):
                digits = [float(f"{value:.4g}") for value in series.values]
                arrays[f"{name}|{key}"] = np.asarray([series.steps, digits], np.float32)
    return arrays


def unpack(path: Path) -> dict[str, RunRecord]:
    """The runs that were packed, as far as signatures look at them."""
    records: dict[str, RunRecord] = {}
    with np.load(path) as arrays:
        cards = {
            name.partition("|")[0]: json.loads(str(arrays[name])) for name in arrays if name.endswith("|card")
        }
        parts: dict[str, dict[str, Series]] = {name: {} for name in cards}
        for name in arrays:
            run, _, key = name.partition("|")
            if key not in ("card", "nonfinite"):
                steps, values = arrays[name].astype(np.float64)
                parts[run][key] = Series(steps.astype(np.int64), values)
        for run, card in cards.items():
            seen = json.loads(str(arrays[f"{run}|nonfinite"]))
            events = tuple(Event("nonfinite", step, {"keys": keys}) for step, keys in seen)
            records[run] = RunRecord(Path(run), card, "finished", None, parts[run], np.zeros((0, 4)), events)
    return records
