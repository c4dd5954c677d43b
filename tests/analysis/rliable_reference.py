"""Writes rliable.json: what rliable 1.2.0 makes of made-up scores.

rliable does not import beside pandas 3, so it is run once, in an environment of its own:

    python -m venv /tmp/rliable && /tmp/rliable/bin/pip install rliable==1.2.0 'pandas<3' 'numpy<2' 'arch<8'
    /tmp/rliable/bin/python tests/analysis/rliable_reference.py
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np


def rank_matrix(scores, draws):
    """Rank distribution as in rliable's example notebook (``get_rank_matrix``), averaged over tasks."""
    tasks = range(scores[0].shape[1])
    drawn = np.stack(
        [np.stack([np.random.choice(s[:, t], draws, replace=True) for t in tasks], 1) for s in scores]
    )
    found = np.zeros((len(scores), len(scores)))
    for task in tasks:
        ties = np.random.random(drawn[:, :, task].shape)
        order = np.lexsort((ties, -drawn[:, :, task]), axis=0)
        for rank in range(len(scores)):
            found[:, rank] += np.bincount(order[rank], minlength=len(scores)) / draws
    return found / len(tasks)


def main():
    import arch
    import scipy
    from rliable import library, metrics

    rng = np.random.RandomState(20260)
    x = np.round(rng.gamma(2.0, 0.4, size=(10, 6)), 2)  # rounded: there are ties
    y = np.round(rng.gamma(2.0, 0.5, size=(7, 6)), 2)
    curves = np.round(np.cumsum(rng.normal(0.1, 0.2, size=(5, 3, 4)), axis=2), 3)
    thresholds = np.linspace(0, 3, 13)

    def aggregates(s):
        return np.array(
            [getattr(metrics, f"aggregate_{k}")(s) for k in ("iqm", "mean", "median", "optimality_gap")]
        )

    def improvement(a, b):
        return np.array([metrics.probability_of_improvement(a, b)])

    def along(s):
        return np.array([metrics.aggregate_iqm(s[..., k]) for k in range(s.shape[-1])])

    np.random.seed(1)
    value, ends = library.get_interval_estimates({"x": x, "y": y}, aggregates, reps=50_000)
    found = {"x": x.tolist(), "y": y.tolist(), "curves": curves.tolist()}
    found["aggregate"] = {k: {"value": value[k].tolist(), "interval": ends[k].tolist()} for k in value}
    np.random.seed(2)
    value, ends = library.get_interval_estimates({"xy": [x, y]}, improvement, reps=10_000)
    found["improvement"] = {"value": float(value["xy"][0]), "interval": ends["xy"][:, 0].tolist()}
    np.random.seed(3)
    value, ends = library.create_performance_profile({"x": x}, thresholds, reps=20_000)
    found["profile"] = {
        "tau": thresholds.tolist(),
        "value": value["x"].tolist(),
        "interval": ends["x"].tolist(),
    }
    np.random.seed(4)
    value, ends = library.get_interval_estimates({"c": curves}, along, reps=20_000)
    found["curve"] = {"value": value["c"].tolist(), "interval": ends["c"].tolist()}
    z = np.round(rng.gamma(2.0, 0.45, size=(8, 6)), 2)
    found["z"] = z.tolist()
    np.random.seed(5)
    found["ranks"] = rank_matrix([x, y, z], 100_000).tolist()
    versions = f"arch {arch.__version__}, numpy {np.__version__}, scipy {scipy.__version__}"
    found["made_with"] = f"rliable 1.2.0, {versions}"
    Path(__file__).with_name("rliable.json").write_text(json.dumps(found, indent=0) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
