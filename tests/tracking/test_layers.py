"""Values of single layers: in the record while a run goes on, in one table when it stops."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from plasticine.tracking import layers as module
from plasticine.tracking.layers import read_layers
from plasticine.tracking.local import LocalLog
from plasticine.tracking.record import read_metrics
from plasticine.tracking.sync import sync
from tests.core.runs import StopAfter, config, recorded, series


def values(number: float) -> dict:
    return {
        "rdu": {"actor": {"body.0": number, "body.1": math.nan}, "critic": {"body.0": math.inf}},
        "weights": {"actor": {"head.policy": 1 / 3}},
    }


def rows(frame: pd.DataFrame) -> list[tuple]:
    return [(*row[:4], str(row[4])) for row in frame.itertuples(index=False)]


def expected(step: int, number: float) -> list[tuple]:
    return [
        (step, "rdu", "actor", "body.0", str(number)),
        (step, "rdu", "actor", "body.1", "nan"),
        (step, "rdu", "critic", "body.0", "nan"),
        (step, "weights", "actor", "head.policy", "0.3333333"),
    ]


def test_while_it_runs_and_when_it_stops(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 10)
    log.layers(values(0.5), 10)
    log.log({"b": 2.0}, 10)
    log.layers(values(0.25), 20)
    assert rows(read_layers(tmp_path)) == expected(10, 0.5) + expected(20, 0.25)
    assert not (tmp_path / "layers.parquet").exists()
    log.close("finished")
    table = pd.read_parquet(tmp_path / "layers.parquet")
    assert rows(table) == expected(10, 0.5) + expected(20, 0.25)
    assert_frame_equal(table, read_layers(tmp_path))
    # nothing of it among the keys, and both scalars of the step are in one row
    assert [(r.env_steps, r.values) for r in read_metrics(tmp_path).metrics] == [(10, {"a": 1.0, "b": 2.0})]
    assert not list(tmp_path.glob(".layers*"))


def test_a_run_without_values_of_layers_has_no_table(tmp_path):
    log = LocalLog(tmp_path)
    log.log({"a": 1.0}, 10)
    log.close("finished")
    assert not (tmp_path / "layers.parquet").exists()
    assert len(read_layers(tmp_path)) == 0
    assert len(read_layers(tmp_path / "nowhere")) == 0


def test_what_lies_behind_the_checkpoint_is_cut(tmp_path):
    log = LocalLog(tmp_path)
    log.layers(values(0.5), 10)
    mark = log.mark()
    log.commit(mark)
    log.layers(values(0.7), 20)
    log.close("failed")
    assert rows(read_layers(tmp_path)) == expected(10, 0.5) + expected(20, 0.7)

    again = LocalLog(tmp_path)
    again.rewind(mark)
    assert not (tmp_path / "layers.parquet").exists(), "the old table holds what was undone"
    again.layers(values(0.8), 20)
    again.close("finished")
    assert rows(pd.read_parquet(tmp_path / "layers.parquet")) == expected(10, 0.5) + expected(20, 0.8)


@pytest.mark.parametrize("torn", range(1, 60, 7))
def test_a_half_written_line_is_left_out_and_cut(tmp_path, torn):
    log = LocalLog(tmp_path)
    log.layers(values(0.5), 10)
    mark = log.mark()
    log.commit(mark)
    log.layers(values(0.7), 20)
    record = tmp_path / "metrics.jsonl"
    record.write_bytes(record.read_bytes()[:-torn])
    assert rows(read_layers(tmp_path)) == expected(10, 0.5)
    again = LocalLog(tmp_path)
    again.rewind(mark)
    again.close("interrupted")
    assert rows(pd.read_parquet(tmp_path / "layers.parquet")) == expected(10, 0.5)


def test_a_table_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    log = LocalLog(tmp_path)
    log.layers(values(0.5), 10)
    log.close("interrupted")
    before = (tmp_path / "layers.parquet").read_bytes()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        module.write_layers(tmp_path)
    assert (tmp_path / "layers.parquet").read_bytes() == before
    assert not list(tmp_path.glob(".layers*"))


def test_an_interrupted_and_killed_run_has_the_table_of_an_uninterrupted_one(tmp_path):
    cfg = config("metrics.every=2")
    recorded(tmp_path / "whole", cfg)
    run = tmp_path / "parts"
    recorded(run, cfg, stop=StopAfter(3))
    assert (run / "layers.parquet").exists()
    recorded(run, cfg, stop=StopAfter(2))
    # no orderly end: lines behind the last checkpoint, half a line, and no table
    (run / "layers.parquet").unlink()
    with open(run / "metrics.jsonl", "a") as file:
        file.write('{"t":1,"s":99999,"layers":{"rdu":{"actor":{"body.0":0.5}}}}\n{"t":1,"s":99999,"lay')
    assert 99999 in set(read_layers(run)["env_steps"])
    recorded(run, cfg)
    whole, parts = (pd.read_parquet(tmp_path / k / "layers.parquet") for k in ("whole", "parts"))
    assert_frame_equal(whole, parts)
    assert series(tmp_path / "whole") == series(tmp_path / "parts")
    assert set(whole["metric"]) == {
        "rdu", "rdu_mean", "dead_units", "frozen_units", "srank", "approx_rank", "stable_rank", "effective_rank",
        "weight_magnitude", "weight_difference", "weight_difference_task", "weight_difference_init",
        "update_to_weight", "gradient_norm",
    }  # fmt: skip
    assert set(whole["network"]) == {"actor", "critic"}
    assert {"body.0", "body.1", "head.policy", "head.value"} <= set(whole["layer"])
    measured = {
        json.loads(line)["s"]
        for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()
        if '"plasticity/rdu"' in line
    }
    assert set(whole["env_steps"]) == measured


def test_the_table_is_kept_with_the_run_in_mlflow(launch, make_run, seen):
    run_dir = make_run(launch)
    log = LocalLog(run_dir)
    log.log({"train/episodic_return": 1.0}, 10)
    log.layers(values(0.5), 10)
    log.close("finished")
    (done,) = sync([run_dir], None, launch)
    assert not done.pending
    shown = seen(launch)
    root = Path(shown.run.info.artifact_uri.removeprefix("file://"))
    assert rows(pd.read_parquet(root / "layers.parquet")) == expected(10, 0.5)
    assert not [key for key in shown.run.data.metrics if "layer" in key or "body" in key]
