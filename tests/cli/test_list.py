"""`plasticine list`: everything in reach with a line about it, and tables that tell the truth."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys

import pytest

from plasticine.cli import facts as facts_module
from plasticine.cli import list as listing
from plasticine.cli.catalogue import SECTIONS
from plasticine.cli.main import main
from plasticine.cli.schema import Schema

#: A method that refuses an agent, one that refuses a network, a level that cannot be built, and a network.
OUTSIDE = {
    "method/picky.yaml": "picky: {_target_: outside_parts.Picky, scope: ['*'], when: []}\n",
    "method/dense.yaml": (
        "# For dense layers. And more.\ndense: {_target_: outside_parts.Dense, scope: ['*'], when: []}\n"
    ),
    "method/broken.yaml": "# Fails.\nbroken: {_target_: outside_parts.Broken, scope: ['*'], when: []}\n",
    "env/absent.yaml": "# A level without its package.\n_target_: a_simulator_nobody_has.Level\n",
    "network/tiny.yaml": "# Eight units.\ndefaults: [mlp, _self_]\nhidden: [8]\n",
}
PARTS = '''
from plasticine.core.method import Method
from plasticine.errors import UserError

class Picky(Method):
    """Works with one optimizer only."""
    def check(self, plan, anatomy):
        if any(name.startswith("critic.1") for name in anatomy.tensors):
            raise UserError("not with two critics")

class Dense(Method):
    def check(self, plan, anatomy):
        if any(len(shape) == 4 for shape in anatomy.shapes.values()):
            raise UserError("dense layers only")

class Broken(Method):
    def init(self, params, anatomy):
        raise ZeroDivisionError("a defect")
'''


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    folder = tmp_path_factory.mktemp("outside")
    for name, text in OUTSIDE.items():
        (folder / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "conf" / name).write_text(text)
    (folder / "outside_parts.py").write_text(PARTS)
    return folder


@pytest.fixture(scope="module")
def found(outside):
    """Everything, found once: it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLASTICINE_CACHE_DIR", str(outside / "cache"))
        patch.syspath_prepend(str(outside))
        return listing.collect(Schema(config_dir=str(outside / "conf")), list(SECTIONS))


def by_name(rows):
    return {row["name"]: row for row in rows}


def test_every_option_is_there_with_a_line_about_it(found, outside):
    schema = Schema(config_dir=str(outside / "conf"))
    for section, group in SECTIONS.items():
        assert [row["name"] for row in found[section]] == schema.options(group)
        assert all(row["about"] and "\n" not in row["about"] for row in found[section]), section


def test_the_line_is_the_first_sentence_of_the_file_or_of_the_class(found):
    methods = by_name(found["methods"])
    assert methods["vanilla"]["about"] == "The agent as it is."
    assert methods["dense"]["about"] == "For dense layers."
    assert methods["picky"]["about"] == "Works with one optimizer only."


def test_metrics_are_told_one_by_one(found):
    core = by_name(by_name(found["metrics"])["core"]["metrics"])
    assert core["rdu"]["about"].startswith("ratio of dormant units")
    assert len(core) >= 11
    assert all(metric["about"] for metric in core.values())


def test_levels_say_what_they_are(found):
    levels = by_name(found["levels"])
    classic = levels["classic"]
    assert (classic["level"], classic["observations"], classic["actions"]) == ("continual", [4], "discrete")
    assert (classic["tasks"], classic["visits"]) == (20, 200)
    assert "pendulum" in classic["choices"]["domain"]
    assert "permute" in classic["choices"]["shift"]
    procgen = levels["continual_procgen"]
    assert procgen["images"]
    assert procgen["network"] == "impala"
    assert "maze" in levels["standard_procgen"]["choices"]["game"]
    assert levels["open_craftax_pixels"]["observations"] == [3, 130, 110]
    assert "a_simulator_nobody_has" in levels["absent"]["problem"]


def test_agents_and_levels(found):
    levels = {row["name"]: row["levels"] for row in found["agents"]}
    fits = {agent: {level for level, reason in by.items() if not reason} for agent, by in levels.items()}
    everywhere = {row["name"] for row in found["levels"]} - {"absent"}
    assert fits["ppo"] == everywhere
    assert fits["pqn"] == fits["c51"] == everywhere - {"standard_dmc", "continual_dmc"}
    assert fits["td3"] == {"classic", "standard_dmc", "continual_dmc"}
    assert "18 discrete" in levels["td3"]["continual_ale"]


def test_networks_and_levels(found):
    reads = {row["name"]: {lv for lv, why in row["levels"].items() if not why} for row in found["networks"]}
    images = {row["name"] for row in found["levels"] if row.get("images")}
    assert reads["impala"] == reads["nature_cnn"] == images
    assert reads["mlp"] == reads["tiny"] == {row["name"] for row in found["levels"]} - {"absent"}


def test_methods_agents_and_networks(found):
    methods = {row["name"]: row["agents"] for row in found["methods"]}
    assert set(methods["vanilla"]["ppo"]) == {"mlp", "tiny", "impala", "nature_cnn"}
    assert set(methods["vanilla"]["td3"]) == {"mlp", "tiny"}  # it takes vectors only
    assert not any(why for by in methods["vanilla"].values() for why in by.values())
    assert set(methods["picky"]["td3"].values()) == {"not with two critics"}
    assert set(methods["picky"]["ppo"].values()) == {""}
    assert methods["dense"]["c51"] == {
        "mlp": "", "tiny": "", "impala": "dense layers only", "nature_cnn": "dense layers only"
    }  # fmt: skip
    assert methods["broken"]["ppo"]["mlp"] == "ZeroDivisionError: a defect"


def test_printed_tables_are_aligned(found, capsys):
    listing._print(found)
    lines = capsys.readouterr().out.splitlines()
    assert any(
        line.split() == ["dense", "mlp,", "tiny"] * 1 + ["mlp,", "tiny"] * 2 + ["yes"] for line in lines
    )
    (head,) = [i for i, line in enumerate(lines) if line.split() == ["c51", "ppo", "pqn", "td3"]][:1]
    rows = {line.split()[0]: line for line in lines[head + 1 : head + 10]}
    assert rows["standard_dmc"].index("yes") == lines[head].index("ppo")
    assert any("not here" in line and "a_simulator_nobody_has" in line for line in lines)


def test_what_was_found_is_kept_until_a_file_changes(outside, tmp_path, monkeypatch):
    monkeypatch.setenv("PLASTICINE_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(facts_module, "_SOURCES", outside / "lib" / "sources")
    monkeypatch.setattr(sys, "path", [str(outside)])
    asked = []
    monkeypatch.setattr(facts_module, "_find", lambda schema: asked.append(1) or {"levels": {}})
    schema = Schema(config_dir=str(outside / "conf"))
    assert [facts_module.facts(schema)[1] for _ in range(3)] == [True, False, False]
    for path, text in (
        (outside / "conf" / "method" / "dense.yaml", OUTSIDE["method/dense.yaml"]),
        (outside / "outside_parts.py", PARTS),
        (outside / "lib" / "sources" / "part.py", ""),
    ):
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(text + "# longer\n")
        assert [facts_module.facts(schema) for _ in range(2)] == [
            ({"levels": {}}, True),
            ({"levels": {}}, False),
        ]
    assert asked == [1] * 4
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("section", "suggested"), [("methds", "'methods'"), ("agnets", "'agents'"), ("zzz", "budgets")]
)
def test_an_unknown_section_is_answered_with_the_nearest(section, suggested, capsys):
    assert main(["list", section]) == 2
    error = capsys.readouterr().err
    assert f"no section {section!r}" in error
    assert suggested in error


def test_names_of_groups_work_too_and_json_is_json(capsys):
    assert main(["list", "budget", "--json"]) == 0
    assert [row["name"] for row in json.loads(capsys.readouterr().out)["budgets"]] == [
        "laptop", "paper", "smoke"
    ]  # fmt: skip


def test_sections_that_need_nothing_built_import_nothing_heavy(tmp_path):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "plasticine.cli.main", "list", "metrics"],
        capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PLASTICINE_CACHE_DIR": str(tmp_path)},
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "ratio of dormant units" in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"torch", "gymnasium", "mujoco"}
    assert after.ru_utime - before.ru_utime < 2
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_leaves_early_gets_no_traceback(tmp_path):
    line = f"{sys.executable} -m plasticine.cli.main list metrics --json | true"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stderr == ""
