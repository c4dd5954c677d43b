"""What runs record by default fits into what MLflow is given."""

from __future__ import annotations

import json

import pytest

from plasticine.api import configure
from plasticine.compose import assemble_parts
from plasticine.testing import tiny_config
from plasticine.tracking.local import LocalLog
from plasticine.tracking.selection import ForwardSettings, Selection
from tests.core.learnt import AGENTS
from tests.core.runs import trainer

#: What levels add: an evaluation on two variants, and the summary of Craftax's achievements.
EVAL = [
    f"eval/{v}/{k}" for v in ("a", "b") for k in ("episodic_return", "episodic_length", "episodes", "cut")
]
EXTRAS = [f"train/{k}" for k in ("score", "achievements", *(f"success_tier{i}" for i in range(4)))]
ITEMS = [f"train/success/{i}" for i in range(67)]


def forwarded(path, metrics: str, agent: str, *more: str) -> tuple[set[str], list[str]]:
    """Keys of a tiny run that go to MLflow, and those that do not."""
    composed = configure("env=classic", f"metrics={metrics}")
    config = tiny_config({}, **AGENTS[agent])
    config["metrics"] |= {"every": 2, "probe_size": 16, "set": composed["metrics"]["set"]}
    log = LocalLog(path)
    log.close(trainer(assemble_parts(config), tracker=log).fit())
    settings = ForwardSettings(
        **{k: composed["tracker"][k] for k in ("per_network", "max_keys", "max_points")}
    )
    selection = Selection()
    for line in (path / "metrics.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if "m" in entry:
            entry["m"] = {**dict.fromkeys(more, 0.0), **entry["m"], "health/nonfinite": 0.0}
            selection.take(entry, settings, 9)
    return selection.kept(settings), selection.left_out(settings)


@pytest.mark.parametrize(("agent", "count"), [("ppo", 30), ("pqn", 28), ("c51", 28), ("td3", 29)])
def test_a_default_run_forwards_everything_with_room_for_an_evaluation(tmp_path, agent, count):
    kept, left_out = forwarded(tmp_path, "core", agent)
    assert left_out == []
    assert len(kept) == count
    assert count + len(EVAL) <= 40


@pytest.mark.parametrize("more", [EVAL, EXTRAS + ITEMS])
def test_metrics_stay_when_a_level_adds_keys(tmp_path, more):
    kept, left_out = forwarded(tmp_path, "core", "ppo", *more)
    assert set(left_out) <= set(ITEMS)
    assert len(kept) <= 40
    assert sum(key.startswith("plasticity/") for key in kept) == 20
    assert not {"loss/value_loss", "train/episodic_return", "health/nonfinite"} - kept
