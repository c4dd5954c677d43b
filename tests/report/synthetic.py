"""Studies that nobody ran: folders as runs leave them, with numbers drawn at random around a known truth."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from plasticine.cell import cell_id

#: How much of its ability to learn each method keeps from task to task.
KEEPS = {"vanilla": 0.80, "redo": 0.93, "snp": 0.97, "layer_norm": 0.88, "full_reset": 1.0, "cbp": 0.95}
_TARGETS = {
    "full_reset": "plasticine.methods.layer_reset.LayerReset",
    "vanilla": "plasticine.methods.vanilla.Vanilla",
}
_FRESH = {
    "method.full_reset.layers": "all",
    "method.full_reset.moments": "reset",
    "method.full_reset.targets": "copy",
    "method.full_reset.scope": '["*"]',
    "method.full_reset.when": '[{"on": "task_switch"}]',
}


@dataclass(frozen=True)
class Planned:
    """One cell of a made-up study."""

    method: str
    env: str = "toy/walk"
    level: str = "continual"
    agent: str = "ppo"
    seeds: Sequence[int] = (0, 1, 2, 3, 4)
    tasks: int = 6
    names: int = 3
    steps_per_task: int = 4000
    lines: int = 60
    top: float = 100.0
    params: Mapping[str, Any] = field(default_factory=dict)
    keeps: float | None = None
    packages: Mapping[str, str] = field(default_factory=lambda: {"torch": "2.13.0", "numpy": "1.26.4"})


def write_cell(runs_dir: Path, study: str, cell: Planned) -> list[Path]:
    """Write the finished runs of a cell; return their folders."""
    return [write_run(runs_dir, study, cell, seed) for seed in cell.seeds]


def write_run(
    runs_dir: Path,
    study: str,
    cell: Planned,
    seed: int,
    *,
    state: str = "finished",
    upto: float = 1.0,
    error: str | None = None,
) -> Path:
    """Write one run, as far as `upto` of its length."""
    params = {
        "agent._target_": f"plasticine.agents.{cell.agent}.{cell.agent.upper()}",
        "agent.lr": 0.001,
        "network._target_": "plasticine.networks.catalog.mlp",
        "env._target_": "plasticine.testing.level.ToyLevel",
        "env.domain": cell.env,
        "env.steps_per_task": cell.steps_per_task,
        "env.num_envs": 8,
        **{f"method.{name}._target_": _TARGETS.get(name, "x.Y") for name in cell.method.split("+")},
        **(_FRESH if cell.method == "full_reset" else {}),
        **cell.params,
    }
    digits = cell_id(
        {"method": {cell.method: {}}, "env": {"name": cell.env}, "agent": {"x": cell.agent}, "p": params}
    )
    label = re.sub(r"[^\w.+]+", "_", f"{cell.method}.{cell.agent}.{cell.env}")
    folder = runs_dir / study / f"{label}-{digits[:8]}" / f"seed={seed}"
    folder.mkdir(parents=True)
    total = cell.tasks * cell.steps_per_task
    card = {
        "name": f"{cell.method} s{seed}", "study": study, "level": cell.level, "env": cell.env,
        "method": cell.method, "agent": cell.agent, "seed": seed, "cell": digits, "log_lines": cell.lines,
        "params": params, "tags": {},
    }  # fmt: skip
    status = {
        "state": state, "env_steps": int(total * upto), "total_env_steps": total, "error": error, "tasks": cell.tasks,
        "updated": 1.0, "host": "elsewhere", "pid": 1, "slurm_job": None,
    }  # fmt: skip
    provenance = {
        "time": "2026-01-01T00:00:00+00:00", "command": "plasticine-run", "git": {"plasticine": {"revision": "abc"}},
        "packages": dict(cell.packages), "python": "3.11.7", "resumed": [],
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps(card))
    (folder / "status.json").write_text(json.dumps(status))
    (folder / "provenance.json").write_text(json.dumps(provenance))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in _lines(cell, seed, upto)))
    return folder


def _lines(cell: Planned, seed: int, upto: float) -> list[dict[str, Any]]:
    rng = np.random.default_rng([seed, *cell.method.encode(), *cell.env.encode(), len(cell.params)])
    keeps = cell.keeps if cell.keeps is not None else KEEPS.get(cell.method, 0.9)
    gift = rng.normal(0, 0.06)
    per_task = max(1, cell.lines // cell.tasks)
    found: list[dict[str, Any]] = []
    for task in range(cell.tasks):
        start = task * cell.steps_per_task
        if start >= upto * cell.tasks * cell.steps_per_task:
            break
        name = task % cell.names
        facts = {"index": task, "name": f"task{name}", "visit": task // cell.names}
        found.append({"t": 1, "s": start, "event": "task_start", "facts": facts})
        ability = keeps**task * (0.75 + gift) * (1 - 0.1 * name)
        for k in range(per_task):
            now = start + cell.steps_per_task * (k + 1) // per_task
            if now > upto * cell.tasks * cell.steps_per_task:
                break
            progress = 1 - np.exp(-4 * (k + 1) / per_task)
            value = cell.top * (ability * progress + rng.normal(0, 0.03))
            before = start + cell.steps_per_task * k // per_task
            middle = (before + now) // 2
            dead = min(0.9, (1 - keeps) * (task + progress) * 1.3 + abs(rng.normal(0, 0.01)))
            found.append({"t": 1, "episodes": [[middle, task, value, 40], [now, task, value + 1, 40]]})
            metrics = {
                "train/episodic_return": value, "plasticity/rdu": dead, "plasticity/rdu/actor": dead,
                "plasticity/effective_rank": 30 * (1 - dead) + rng.normal(0, 0.4),
                "plasticity/weight_magnitude": 0.1 * (1 + 0.2 * task), "plasticity/gradient_norm": 1 - dead,
                "loss/value_loss": float(rng.random()),
            }  # fmt: skip
            found.append({"t": 1, "s": now, "m": metrics})
            if cell.method != "vanilla" and k == 0:
                found.append({"t": 1, "s": now, "event": "intervention", "facts": {"method": cell.method}})
    return found
