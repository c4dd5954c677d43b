"""``plasticine diagnose``, and the files a run leaves."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from plasticine.api import configure
from plasticine.cli.main import main
from plasticine.compose import build_signatures
from plasticine.launch.folder import RunFolder
from plasticine.launch.job import Job
from plasticine.launch.report import findings
from tests.analysis.runs import run as plain_run
from tests.diagnosis import lab
from tests.outsider.pages import blocks

TINY = ("env.steps_per_task=2048", "env.num_envs=4", "agent.num_steps=32", "network.hidden=[16,16]")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    lab.run(folder / "s" / "broken" / "seed=0", lab.wanted(*TINY, seed=0, injection="frozen", onset=100))
    lab.run(folder / "s" / "nan" / "seed=0", lab.wanted(*TINY, seed=0, injection="nan", onset=100))
    lab.run(folder / "s" / "healthy" / "seed=0", lab.wanted(*TINY, "diagnosis=none", seed=0))
    return folder


def test_a_run_leaves_a_report(store):
    folder = store / "s" / "broken" / "seed=0"
    report = json.loads((folder / "diagnosis.json").read_text())
    (found,) = report["findings"]
    assert found["name"] == "frozen_network"
    assert 0 < found["began"] < report["env_steps"] == 2048
    assert "frozen_network, since step" in (folder / "diagnosis.md").read_text()
    nodes = yaml.safe_load((folder / "config.yaml").read_text())
    job = Job.at(nodes, RunFolder(folder))
    assert f"frozen_network since step {found['began']:,}" in findings([job])


def test_without_a_diagnosis_there_is_none_until_it_is_asked_for(store, capsys):
    report = store / "s" / "healthy" / "seed=0" / "diagnosis.json"
    assert not report.exists()
    assert main(["diagnose", "s/healthy", "--runs-dir", str(store)]) == 0
    text = capsys.readouterr().out
    assert "No sign of a known failure" in text
    assert "not judged: below_fresh: there is no fresh agent to compare with" in text
    assert json.loads(report.read_text())["findings"] == []


def test_a_study_is_summed_up(store, capsys):
    assert main(["diagnose", "s", "--runs-dir", str(store)]) == 0
    text = capsys.readouterr().out
    assert "2 of 3 runs show signs of a failure: frozen_network 1, nonfinite 1" in text
    assert "broken/seed=0" in text
    assert "Methods that act on it" in text
    assert main(["diagnose", "s", "--runs-dir", str(store), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 3


def test_a_study_that_is_not_there(store, capsys):
    assert main(["diagnose", "t", "--runs-dir", str(store)]) == 2
    assert "no study 't'" in capsys.readouterr().err


def test_a_fresh_agent_in_the_study_is_compared_with(tmp_path, capsys):
    stream = ("env.num_tasks=8", "agent.lr=1e-2")
    plain_run(tmp_path / "s" / "vanilla" / "seed=0", *stream)
    plain_run(
        tmp_path / "s" / "fresh" / "seed=0", *stream, "method=full_reset", "env.normalizer_on_switch=reset"
    )
    assert main(["diagnose", "s", "--runs-dir", str(tmp_path), "--json"]) == 0
    for verdict in json.loads(capsys.readouterr().out).values():
        assert "below_fresh" not in verdict["unknown"]


def test_a_signature_of_ones_own(tmp_path):
    numbers = {"limit": 1.0, "least": 3, "share": 0.1}
    keys = {"difference": "plasticity/weight_difference", "magnitude": "plasticity/weight_magnitude"}
    node = {
        "_target_": "plasticine.diagnosis.frozen.Frozen",
        **keys,
        **numbers,
        "says": "'Mine.'",
        "helps": "[]",
    }
    mine = "+diagnosis.set.mine={" + ",".join(f"{key}:{value}" for key, value in node.items()) + "}"
    record = plain_run(tmp_path / "s" / "c" / "seed=0", "metrics.every=1", mine)
    report = json.loads((record.folder / "diagnosis.json").read_text())
    assert [found["name"] for found in report["findings"]] == ["mine"]


def test_the_signature_in_the_documentation_composes(tmp_path):
    page = Path(__file__).resolve().parents[2] / "docs" / "diagnosis.md"
    (block,) = [b for b in blocks(page) if b.info == ("yaml",)]
    (tmp_path / "diagnosis").mkdir()
    (tmp_path / "diagnosis" / "mine.yaml").write_text(block.text)
    nodes = configure("env=classic", "diagnosis=mine", config_dir=tmp_path)["diagnosis"]["set"]
    assert {"rising_churn", "nonfinite"} <= nodes.keys()
    assert build_signatures(nodes)["rising_churn"].reads() == ("plasticity/policy_churn",)
