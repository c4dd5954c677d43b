"""From run folders to a data set and back."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml

import plasticine
from plasticine.analysis.record import read_run
from plasticine.cli.main import main
from plasticine.errors import UserError
from plasticine.launch.survey import survey
from plasticine.portable.export import export
from plasticine.portable.restore import restore
from plasticine.portable.tables import lines_of
from plasticine.tracking.layers import read_layers

#: Every kind of line, with the values that are hard to keep: odd floats, no finite number, unknown layers.
LINES = [
    {
        "t": 5,
        "s": 0,
        "event": "task_start",
        "facts": {"index": 0, "name": "a", "visit": 0, "é": [1, 2.5, None]},
    },
    {"t": 6, "s": 10, "m": {"b": 0.1, "a": 1e-300, "c": -0.0, "d": 123456789.12345679}},
    {"t": 6, "episodes": [[7, 0, -3.5, 7], [10, 0, "nan", 3]]},
    {"t": 7, "s": 10, "m": {"z": 2.0}},
    {
        "t": 8,
        "s": 20,
        "layers": {"rdu": {"actor": {"body.0": 0.25, "body.1": None}, "critic": {"body.0": 1.0}}},
    },
    {"t": 9, "s": 20, "event": "nonfinite", "facts": {"keys": ["x"]}},
    {"t": 9, "s": 20, "m": {"a": 5.0, "b": 1.7976931348623157e308}},
]
SECRETS = ("the-host", "/home/somebody", "http://tracking.example", "job-77", "gpu-partition")


def made(root: Path, method: str, seed: int, *, state: str = "finished", tail: str = "", lines=LINES) -> Path:
    folder = root / "s" / f"{method}.ppo.e-0123abcd" / f"seed={seed}"
    folder.mkdir(parents=True)
    card = {
        "name": f"{method} s{seed}", "study": "s", "level": "continual", "env": "e", "method": method, "agent": "ppo",
        "seed": seed, "cell": f"{method}0123", "log_lines": 4, "params": {"agent.lr": 0.1}, 
        "tags": {"host": "the-host"},
    }  # fmt: skip
    status = {
        "state": state,
        "env_steps": 20,
        "pid": 1,
        "host": "the-host",
        "slurm_job": "job-77",
        "error": None,
    }
    provenance = {
        "command": (
            "/home/somebody/bin/plasticine-run method=a tracker.uri=http://tracking.example runs_dir=/home/somebody"
        ),
        "git": {"plasticine": {"root": "/home/somebody/code", "revision": "abc123", "dirty": True}},
        "packages": {"plasticine": "0.1.0", "torch": "2.4.0"}, "python": "3.11.0", "host": "the-host",
        "launch_dir": "/home/somebody", "hardware": {"cpu": "fast"}, "resumed": [{"host": "the-host"}],
    }  # fmt: skip
    config = {
        "study": "s", "seed": seed, "agent": {"lr": 0.1}, "method": {method: {"when": [{"on": "task_switch"}]}},
        "runs_dir": "/home/somebody/runs", "launcher": {"kind": "slurm", "partition": "gpu-partition"},
        "tracker": {"kind": "mlflow", "uri": "http://tracking.example", "max_keys": 40, "max_points": 2000,
                    "per_network": False},
    }  # fmt: skip
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    committed = {"offset": len(text), "step": 20, "nonfinite": 0, "outcome": state, "rewinds": 1}
    for name, content in (
        ("run", card),
        ("status", status),
        ("provenance", provenance),
        ("committed", committed),
    ):
        (folder / f"{name}.json").write_text(json.dumps(content))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "metrics.jsonl").write_text(text + tail)
    return folder


@pytest.fixture
def runs(tmp_path):
    root = tmp_path / "runs"
    folders = [made(root, method, seed) for method in ("vanilla", "snp") for seed in (0, 1)]
    checkpoints = folders[0] / "checkpoints"
    checkpoints.mkdir()
    for step in (10, 20):
        (checkpoints / f"{step:012d}.ckpt").write_bytes(b"PLASTIC1" + bytes([step]) * 50)
    return root


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# -- round trip ----------------------------------------------------------------------------------------------
def test_records_come_back_byte_for_byte(runs, tmp_path):
    folders = sorted(runs.glob("s/*/*"))
    done = export(folders, tmp_path / "data", checkpoints=True)
    assert done.counts == {
        "runs": 4, "metrics": 28, "episodes": 8, "events": 8, "layers": 12, "checkpoints": 1,
    }  # fmt: skip
    back = restore(tmp_path / "data", tmp_path / "other")
    assert [f.relative_to(tmp_path / "other") for f in back] == [f.relative_to(runs) for f in folders]
    for old, new in zip(folders, back, strict=True):
        assert (new / "metrics.jsonl").read_bytes() == (old / "metrics.jsonl").read_bytes()
        assert json.loads((new / "committed.json").read_text()) == json.loads(
            (old / "committed.json").read_text()
        )
        first, again = read_run(old), read_run(new)
        for key, series in first.series.items():
            assert again.series[key].values.tobytes() == series.values.tobytes()
            assert again.series[key].steps.tobytes() == series.steps.tobytes()
        assert again.episodes.tobytes() == first.episodes.tobytes()
        assert again.events == first.events
        assert (again.state, again.method, again.seed) == (first.state, first.method, first.seed)
        assert len(read_layers(new)) == 3
        for name in ("agent", "method", "seed", "study"):
            configs = (yaml.safe_load((f / "config.yaml").read_text()) for f in (old, new))
            assert next(configs)[name] == next(configs)[name]
    kept = sorted((tmp_path / "other").rglob("*.ckpt"))
    assert [p.read_bytes() for p in kept] == [
        (runs / p.relative_to(tmp_path / "other")).read_bytes() for p in kept
    ]
    assert [p.name for p in kept] == ["000000000020.ckpt"]
    assert not list((tmp_path / "other").glob(".import-*"))
    assert [seen.state for seen in survey(tmp_path / "other", "s").runs] == ["done"] * 4


def test_a_second_export_of_what_was_imported_holds_the_same(runs, tmp_path):
    export(sorted(runs.glob("s/*/*")), tmp_path / "data")
    again = export(restore(tmp_path / "data", tmp_path / "other"), tmp_path / "again")
    assert again.left_out == {}
    first, second = contents(tmp_path / "data"), contents(tmp_path / "again")
    differing = {name for name in first if first[name] != second.get(name)}
    assert differing <= {"card.json", "README.md"}  # the time of the export
    assert set(first) == set(second)


def test_a_line_of_another_writer_keeps_its_values(tmp_path):
    """Spaces and whole numbers of records written otherwise: other bytes, the same values; the offset follows."""
    folder = made(tmp_path / "runs", "vanilla", 0, state="interrupted", tail='{"t": 1, "s": 30, "m": {"a": ')
    text = '{"t": 1, "s": 10, "m": {"a": 3}}\n'
    whole = text + '{"t": 2,  "s": 20, "m": {"a": 4.5}}\n'
    (folder / "metrics.jsonl").write_text(whole + '{"t": 3, "s"')
    (folder / "committed.json").write_text(json.dumps({"offset": len(text), "step": 10}))
    export([folder], tmp_path / "data")
    (new,) = restore(tmp_path / "data", tmp_path / "other")
    assert read_run(new).series["a"].values.tolist() == [3.0, 4.5]
    first = b'{"t":1,"s":10,"m":{"a":3.0}}\n'
    assert (new / "metrics.jsonl").read_bytes().startswith(first)
    assert json.loads((new / "committed.json").read_text())["offset"] == len(first)


def test_rows_are_the_lines_they_come_from():
    rows = {"metrics": [(1, 6, 10, "a", 1.0), (1, 6, 10, "b", 2.0)], "episodes": [], "layers": [], "events": [
        (0, 5, 0, "x", "{}")]}  # fmt: skip
    assert lines_of(rows) == [
        b'{"t":5,"s":0,"event":"x","facts":{}}\n',
        b'{"t":6,"s":10,"m":{"a":1.0,"b":2.0}}\n',
    ]


# -- what is said --------------------------------------------------------------------------------------------
def test_nothing_is_said_about_machines_and_people(runs, tmp_path):
    from pyarrow import parquet

    export(sorted(runs.glob("s/*/*")), tmp_path / "data")
    said = "".join(
        p.read_text() for p in (tmp_path / "data").rglob("*") if p.suffix in (".json", ".md", ".yaml")
    ) + str(parquet.read_table(tmp_path / "data" / "runs.parquet").to_pylist())
    for secret in SECRETS:
        assert secret not in said
    assert "plasticine-run method=a tracker.uri=left-out runs_dir=left-out" in said
    assert "abc123 with changes" in said
    assert "torch" in said


def test_the_card_has_counts_versions_and_hashes(runs, tmp_path):
    done = export(sorted(runs.glob("s/*/*")), tmp_path / "data")
    card = json.loads((tmp_path / "data" / "card.json").read_text())
    assert done.card_sha256 == hashlib.sha256((tmp_path / "data" / "card.json").read_bytes()).hexdigest()
    assert card["counts"] == done.counts
    assert card["versions"]["torch"] == "2.4.0"
    assert set(card["files"]) == set(contents(tmp_path / "data")) - {"card.json"}
    for name, facts in card["files"].items():
        content = (tmp_path / "data" / name).read_bytes()
        assert facts == {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    page = (tmp_path / "data" / "README.md").read_text()
    assert "| snp | ppo | e | continual | 2 | 2 finished |" in page


def test_the_example_in_the_card_works(runs, tmp_path, monkeypatch):
    export(sorted(runs.glob("s/*/*")), tmp_path / "data")
    page = (tmp_path / "data" / "README.md").read_text()
    code = page.split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "data")
    names: dict = {}
    exec(code.replace("values.join", "joined = values.join"), names)
    joined = names["joined"]
    assert len(joined) == 28
    assert set(joined[joined.run.str.startswith("s/snp")].method) == {"snp"}


# -- what is not exported ------------------------------------------------------------------------------------
def test_runs_that_go_on_are_left_out_and_said(runs, tmp_path, capsys):
    made(runs, "l2", 0, state="running")
    made(runs, "l2", 1, state="failed")
    assert main(["export", "s", str(tmp_path / "data"), "--runs-dir", str(runs)]) == 1
    out = capsys.readouterr().out
    assert "seed=0: it goes on" in out
    assert "5 runs, 35 metrics" in out
    assert [seen.state for seen in survey_states(tmp_path)].count("failed") == 1


def survey_states(tmp_path):
    restore(tmp_path / "data", tmp_path / "other")
    return survey(tmp_path / "other", "s").runs


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 8 .* cannot be exported"),
        ('{"t": 1, "s": 2, "poem": "x"}', "unknown kind of line"),
        ("[]", "line 8"),
    ],
)
def test_a_record_that_would_not_come_back_is_refused_and_nothing_is_left(runs, tmp_path, line, message):
    folder = made(runs, "l2", 0, tail=line + "\n")
    with pytest.raises(UserError, match=message):
        export([folder], tmp_path / "data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["runs"]


def test_an_existing_folder_is_not_touched(runs, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("x")
    with pytest.raises(UserError, match="is there already"):
        export(sorted(runs.glob("s/*/*")), tmp_path / "data")
    assert contents(tmp_path / "data") == {"mine": b"x"}


def test_two_runs_of_one_name_are_refused(runs, tmp_path):
    shutil.copytree(runs, tmp_path / "copy")
    with pytest.raises(UserError, match="two of the runs are called s/snp"):
        export([*sorted(runs.glob("s/*/*")), *sorted((tmp_path / "copy").glob("s/*/*"))], tmp_path / "data")


# -- what is not imported ------------------------------------------------------------------------------------
@pytest.fixture
def data(runs, tmp_path):
    export(sorted(runs.glob("s/*/*")), tmp_path / "data", checkpoints=True)
    return tmp_path / "data"


def refused(data: Path, match: str) -> None:
    """The import fails with a message, and nothing is written."""
    other = data.parent / "other"
    with pytest.raises(UserError, match=match):
        restore(data, other)
    assert not other.exists() or list(other.iterdir()) == []


@pytest.mark.parametrize("name", ["metrics.parquet", "README.md", "configs/s/snp.ppo.e-0123abcd/seed=1.yaml"])
def test_altered_and_missing_files_are_told(data, name):
    path = data / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    refused(data, f"{Path(name).name} is not the file that was exported")
    path.unlink()
    refused(data, f"{Path(name).name} is missing")


def forged(data: Path, change) -> None:
    """Change the card as an attacker would, hashes included."""
    card = json.loads((data / "card.json").read_text())
    change(card)
    for name, facts in card["files"].items():
        path = data / name
        if path.is_file():
            facts |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    (data / "card.json").write_text(json.dumps(card))


@pytest.mark.parametrize(
    "name",
    [
        "../secret",
        "/etc/passwd",
        "configs/../../secret",
        "checkpoints/./x",
        "configs\\..\\x",
        "evil.sh",
        "configs",
    ],
)
def test_names_that_lead_out_of_the_data_set_are_refused(data, name):
    (data.parent / "secret").write_text("x")
    forged(data, lambda card: card["files"].update({name: {"sha256": "", "bytes": 0}}))
    refused(data, "which has no place in a data set")


def test_links_that_lead_out_of_the_data_set_are_refused(data):
    (data.parent / "secret").write_text("x")
    (data / "README.md").unlink()
    (data / "README.md").symlink_to(data.parent / "secret")
    forged(data, lambda card: None)
    refused(data, "is a link to somewhere else")


@pytest.mark.parametrize(
    "name",
    ["../../x/seed=1", "s/../seed=1", "s/cell/seed=1/../../../x", "/s/cell/seed=1", "s/.x/seed=0", "s"],
)
def test_names_of_runs_that_lead_out_of_the_folder_are_refused(data, name):
    import pyarrow
    from pyarrow import parquet

    rows = parquet.read_table(data / "runs.parquet").to_pylist()
    rows[0]["run"] = name
    parquet.write_table(pyarrow.Table.from_pylist(rows), data / "runs.parquet")
    forged(data, lambda card: None)
    refused(data, "which is no name of a run")
    assert not (data.parent.parent / "x").exists()


def test_tables_that_do_not_belong_together_are_refused_without_a_trace(data):
    import pyarrow
    from pyarrow import parquet

    rows = parquet.read_table(data / "metrics.parquet")
    changed = rows.set_column(5, "value", pyarrow.array([0.0] * len(rows)))
    with parquet.ParquetWriter(data / "metrics.parquet", rows.schema) as writer:
        for k in range(4):
            writer.write_table(changed.slice(7 * k, 7))
    forged(data, lambda card: None)
    refused(data, "the record of s/.* is not the one that was exported")
    parquet.write_table(rows, data / "metrics.parquet")  # all runs in one row group
    forged(data, lambda card: None)
    refused(data, "holds rows of other runs")
    (data / "metrics.parquet").write_bytes(b"no table")
    forged(data, lambda card: None)
    refused(data, "are not those of a data set")


def test_cards_of_other_formats_are_refused(data):
    forged(data, lambda card: card.update(format=2))
    refused(data, "is of format 2, this version reads format 1")
    (data / "card.json").write_text("[")
    refused(data, "is not JSON")
    (data / "card.json").unlink()
    refused(data, r"there is no card.json")


def test_what_is_there_is_not_overwritten(data, tmp_path):
    other = tmp_path / "other"
    mine = made(other, "vanilla", 1)
    before = contents(other)
    with pytest.raises(UserError, match="seed=1 is there already"):
        restore(data, other)
    assert contents(other) == before
    assert mine.exists()


def test_a_failure_half_way_takes_back_what_was_put_in_place(data, tmp_path, monkeypatch):
    import os

    rename, count = os.rename, 0

    def failing(*paths):
        nonlocal count
        count += 1
        if count == 3:
            raise OSError(28, "disk full")
        rename(*paths)

    monkeypatch.setattr("plasticine.portable.restore.os.rename", failing)
    with pytest.raises(OSError, match="disk full"):
        restore(data, tmp_path / "other")
    assert not list((tmp_path / "other").rglob("seed=*"))
    assert not list((tmp_path / "other").glob(".import-*"))


# -- commands ------------------------------------------------------------------------------------------------
def test_a_data_set_goes_to_another_store(data, tmp_path, monkeypatch, capsys):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/other.db"
    assert main(["import", str(data), "--runs-dir", "imported", "--uri", uri]) == 0
    assert "4 runs in imported" in capsys.readouterr().out
    client = MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "s"]
    found = client.search_runs([experiment.experiment_id])
    names = {r.data.tags["plasticine.key"] for r in found if "plasticine.key" in r.data.tags}
    assert names == {f"s/{m}0123/seed={k}" for m in ("vanilla", "snp") for k in (0, 1)}
    assert len(plasticine.load_study("s", tmp_path / "imported")) == 28
    assert main(["import", str(data), "--runs-dir", "imported"]) == 2
