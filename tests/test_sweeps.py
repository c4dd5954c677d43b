"""Saved multiruns: what the shipped ones ask for, the grammar of rows, and what becomes of typed keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from plasticine import paths
from plasticine.cell import agent_name, cell_id, env_name, method_label
from plasticine.errors import UserError
from plasticine.fitting import Tried
from plasticine.launch.best import best_methods
from tests.cli.conftest import CommandLineRunner, Result

SWEEPS = sorted(path.stem for path in (paths.config_dirs()[2] / "sweep").glob("*.yaml"))

#: What to type so that every part of a file is composed, but not every combination; and how many runs that makes.
QUICK = {
    "composition": ("method=snp,redo,layer_norm,dff", 4 + 5),  # redo and dff do not go together
    "cross_algorithm": ("method=snp", 5),
    "first_three": ("", 5),
    "fresh_baseline": ("", 1),
    "grid": ("method=full_reset", 3),  # needs switches
    "intervention_frequency": ("method=vanilla", 1),  # the others: test_frequency_times_strength,
    "smoke": ("", 2),
    "smoke_grid": ("method=vanilla,trac,crelu", 3),
    "transfer_open_ended": ("method=vanilla,snp", 2),
}

THEIRS = {
    "rows": """
      params: {budget: smoke, seed: 0-1}
      rows:
        - {method: vanilla}
        - {method: snp, method.snp.shrink: [0.9, 0.99]}
        - {method: redo, method.redo.tau: "0.1,0.2,0.3", method.redo.when: [[{every: 1, unit: iterations}]]}
        - {method: [[snp, redo]], env: continual_dmc, env.domain: dog}
    """,
    "stranger": "rows: [{method: vanilla}, {method: snp, method.redo.tau: 0.1}]",
    "typo": "rows: [{method: vanilla}, {method: snp, method.snp.shrunk: 0.1}]",
    "empty": "rows: [{method: []}]",
    "mapping": "rows: {method: snp}",
    "unfit": "unfit: drop",
    "unpaired": "pairs: 2",
    "refused": "params: {method: '[snp,dff],[dff,redo]'}",
    "left": "{unfit: leave_out, params: {method: '[snp,dff],[dff,redo]', seed: 0-1}}",
    "none": "{unfit: leave_out, params: {method: '[dff,redo]'}}",
    "pairs": "{unfit: leave_out, pairs: true, params: {method: 'vanilla,trac,kron,c_chain'}}",
    "wrong": "{unfit: leave_out, params: {method: snp, method.snp.shrink: '0.5,-1'}}",
    "agents": "{unfit: leave_out, params: {agent: 'ppo,td3', env: standard_ale}}",
}


@pytest.fixture
def cli(tmp_path, capsys, monkeypatch):
    """The command line, with the files above at hand; launching only notes what was to be run."""
    folder, outside = tmp_path / "empty", tmp_path / "outside"
    folder.mkdir()
    (outside / "sweep").mkdir(parents=True)
    for name, text in THEIRS.items():
        indented = text.strip("\n") if text.startswith("\n") else f"      {text}"
        lines = f"# @package _global_\nhydra:\n  mode: MULTIRUN\n  sweeper:\n{indented}\n"
        (outside / "sweep" / f"{name}.yaml").write_text(lines)
    return CommandLineRunner(folder, outside, capsys, monkeypatch)


def variants(result: Result) -> list[str]:
    """Method, agent and environment of each variant, in order."""
    assert result.code == 0, result.err
    found = {cell_id(c): " ".join((method_label(c), agent_name(c), env_name(c))) for c in result.configs}
    return list(found.values())


# -- the shipped ones ----------------------------------------------------------------------------------------
def test_none_is_forgotten():
    assert set(QUICK) == set(SWEEPS)


@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_of_a_shipped_sweep_can_be_built(cli, name):
    words, runs = QUICK[name]
    result = cli(f"sweep={name} seed=3 {words}", config_dir=False)
    assert result.code == 0, result.err
    assert len(result.configs) == len(set(result.dirs)) == len({cell_id(c) for c in result.configs}) == runs
    assert f"{runs} run(s): {runs} variant(s) x 1 seed(s)" in result.out
    assert {c["seed"] for c in result.configs} == {3}
    assert name == "fresh_baseline" or {c["study"] for c in result.configs} == {name}
    tried = Tried()
    assert [why for c in result.configs if (why := tried.why_not(c))] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SWEEPS if name != "transfer_open_ended"])
def test_all_of_it_can_be_built(cli, name):
    result = cli(f"sweep={name} seed=3", config_dir=False)
    tried = Tried()
    assert [why for c in result.configs if (why := tried.why_not(c))] == []
    expected = {"grid": 31 * 7 - 3 * 4 - 1, "composition": 14 + 78 - 2, "intervention_frequency": 19}
    if name in expected:
        assert len(result.configs) == expected[name], result.out


def test_the_papers_three_experiments(cli):
    result = cli("sweep=first_three", config_dir=False)
    assert variants(result) == [
        "vanilla ppo standard_procgen/starpilot",
        "vanilla pqn standard_ale/breakout",
        "layer_norm pqn standard_ale/breakout",
        "vanilla td3 continual_dmc/dog",
        "snp td3 continual_dmc/dog",
    ]
    assert Counter(c["seed"] for c in result.configs) == dict.fromkeys(range(5), 5)
    assert {c["agent"]["layer_norm"] for c in result.configs if agent_name(c) == "pqn"} == {False}
    for config in result.configs:
        assert {"rdu", "srank", "stable_rank", "gradient_norm"} <= set(config["metrics"]["set"])


def test_frequency_times_strength(cli):
    result = cli("sweep=intervention_frequency seed=0 method=redo,snp_hard", config_dir=False)
    redo = [c["method"]["redo"] for c in result.configs if "redo" in c["method"]]
    snp = [c["method"]["snp_hard"] for c in result.configs if "snp_hard" in c["method"]]
    assert len(redo) + len(snp) == len(result.configs) == 18  # without the baseline, which was not asked for
    assert {(n["tau"], n["when"][0]["every"]) for n in redo} == {
        (t, e) for t in (0.01, 0.025, 0.1) for e in (1, 10, 100)
    }
    assert {(n["shrink"], n["noise"]) for n in snp} == {(0.9, 0.1), (0.5, 0.5), (0.2, 0.8)}
    assert sum(n["when"] == [{"on": "task_switch"}] for n in snp) == 3
    assert "left out" not in result.out  # so each of them can be built


# -- typed keys ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "line",
    [
        "sweep=smoke_grid method=snp,redo seed=0-2 agent=td3 budget=laptop",
        "-m seed=0-2 agent=td3 +sweep=smoke_grid budget=laptop method=snp,redo",
    ],
)
def test_what_is_typed_takes_the_place_of_what_the_file_says(cli, line):
    result = cli(line, config_dir=False)
    assert variants(result) == ["snp td3 classic/pendulum", "redo td3 classic/pendulum"]
    assert [c["seed"] for c in result.configs] == [0, 1, 2] * 2
    assert {c["budget"]["name"] for c in result.configs} == {"laptop"}
    assert "6 run(s): 2 variant(s) x 3 seed(s)" in result.out


def test_rows_are_not_multiplied_with_each_other(cli):
    result = cli("sweep=rows")
    grid = [
        (method_label(c), c["method"].get("snp", {}).get("shrink"), c["method"].get("redo", {}).get("tau"))
        for c in result.configs
        if c["seed"] == 0
    ]
    assert grid == [
        ("vanilla", None, None), ("snp", 0.9, None), ("snp", 0.99, None),
        ("redo", None, 0.1), ("redo", None, 0.2), ("redo", None, 0.3), ("snp+redo", 0.999999, 0.025),
    ]  # fmt: skip
    assert len(result.configs) == 14
    assert env_name(result.configs[-1]) == "continual_dmc/dog"
    assert {c["budget"]["name"] for c in result.configs} == {"smoke"}


def test_typed_methods_keep_the_rows_that_are_about_them(cli):
    assert len(variants(cli("sweep=rows method=redo"))) == 4  # three, and one in the other environment
    assert variants(cli("sweep=rows method=l2,vanilla seed=0")) == [
        "l2 ppo classic/cartpole", "vanilla ppo classic/cartpole",
        "l2 ppo continual_dmc/dog", "vanilla ppo continual_dmc/dog",
    ]  # fmt: skip


def test_another_level_drops_what_belongs_to_the_one_it_replaces(cli):
    result = cli("sweep=rows env=standard_dmc seed=0")
    assert {env_name(c) for c in result.configs} == {"standard_dmc/walker-walk"}


def test_a_typed_key_holds_in_the_rows_that_have_it(cli):
    result = cli("sweep=rows env.dynamics.task=run seed=0 method=vanilla")
    assert [c["env"].get("dynamics", {}).get("task") for c in result.configs] == [None, "run"]
    assert "env.dynamics.task=run -> only in rows that have env.dynamics.task" in result.out
    assert "unknown key env.dynamic.task" in cli("sweep=rows env.dynamic.task=run").err


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("stranger", "row 2 of sweep=stranger sets method.redo.tau, but its method is snp"),
        ("typo", "row 2 of sweep=typo: unknown key method.snp.shrunk"),
        ("empty", "hydra.sweeper.rows[0]: method has no values"),
        ("mapping", "hydra.sweeper.rows must be a list of mappings"),
        ("unfit", "hydra.sweeper.unfit=drop: there is no such choice"),
        ("unpaired", "hydra.sweeper.pairs=2 has the wrong type"),
        ("none", "nothing of this multirun goes together"),
        ("wrong", "method.snp: shrink=-1 must lie in 0..1"),
    ],
)
def test_mistakes_in_a_file(cli, name, said):
    result = cli(f"sweep={name} seed=0")
    assert result.code == 2
    assert said in result.err
    assert result.configs == []


def test_sweeps_of_other_packages(cli):
    path = f"hydra.searchpath=[file://{cli.outside}]"
    result = cli(f"{path} method=snp +sweep=rows", config_dir=False)
    assert len(result.configs) == 6


# -- what does not go together -------------------------------------------------------------------------------
def test_what_does_not_go_together_is_left_out_with_a_line(cli):
    assert len(cli("sweep=refused").configs) == 2  # left to the check of the launch, which refuses it
    result = cli("sweep=left")
    assert variants(result) == ["snp+dff ppo classic/cartpole"]
    told = [line for line in result.out.splitlines() if line.startswith("left out: ")]
    assert len(told) == 1
    assert told[0].startswith("left out: dff+redo with ppo in classic/cartpole: method 'redo' finds nothing")
    result = cli("sweep=agents")
    assert variants(result) == ["vanilla ppo standard_ale/breakout"]
    assert "left out: vanilla with td3 in standard_ale/breakout: " in result.out
    assert len(cli("sweep=agents hydra.sweeper.unfit=refuse").configs) == 2


def test_pairs(cli):
    result = cli("sweep=pairs")
    assert [v.split()[0] for v in variants(result)] == [
        "vanilla", "trac", "kron", "c_chain",  # alone
        "kron+trac",  # in the other order
        "trac+c_chain", "kron+c_chain",
    ]  # fmt: skip
    assert "left out: trac+kron with ppo in classic/cartpole (used in the other order): " in result.out
    assert [v.split()[0] for v in variants(cli("sweep=pairs method=snp,vanilla,redo"))] == [
        "snp", "vanilla", "redo", "snp+redo",
    ]  # fmt: skip


# -- methods of a finished study -----------------------------------------------------------------------------
def make(runs: Path, method: str, env: str, score: float, *, state="finished", level="standard", seed=0):
    path = runs / "grid" / f"{method}.ppo.{env}-00000000" / f"seed={seed}"
    path.mkdir(parents=True)
    card = {"method": method, "agent": "ppo", "env": env, "level": level, "cell": "c", "params": {}}
    (path / "run.json").write_text(json.dumps(card))
    (path / "status.json").write_text(json.dumps({"state": state, "summary": {"final_return": score}}))


WANTED = {"study": "grid", "level": "standard", "top": 2, "score": "final_return"}


def test_the_best_methods_of_a_study(tmp_path):
    for env, scale in (("a", 1.0), ("b", 1000.0)):  # ranks: the larger scores of b do not decide
        for method, scores in {"vanilla": (5, 5), "snp": (9, 1), "redo+l2": (8, 6), "kron": (1, 7)}.items():
            make(tmp_path, method, env, scale * scores[env == "b"])
    make(tmp_path, "nap", "a", 99.0)  # not in b
    make(tmp_path, "kron", "a", 99.0, state="failed", seed=1)
    make(tmp_path, "l2", "c", 99.0, level="continual")
    names, told = best_methods(tmp_path, "sweep=x", WANTED)
    assert names == ["vanilla", "[redo,l2]", "kron"]
    assert "redo+l2 2.0, kron 2.5" in told
    assert "among 4 in 2 environment(s), 9 runs" in told
    with pytest.raises(UserError, match=r"best_of\.top=None has the wrong type"):
        best_methods(tmp_path, "sweep=x", {**WANTED, "top": None})
    with pytest.raises(UserError, match="holds no finished runs"):
        best_methods(tmp_path, "sweep=x", {**WANTED, "level": "open_ended"})


def test_transfer_takes_them_or_what_is_typed(cli, tmp_path):
    result = cli("sweep=transfer_open_ended", config_dir=False)
    assert result.code == 2
    assert "takes the best methods at level 'standard' of study 'grid'" in result.err
    assert "method=vanilla,layer_norm,snp" in result.err
    for method, score in {"vanilla": 1.0, "snp": 3.0, "redo": 2.0}.items():
        make(tmp_path / "other", method, "a", score)
    line = f"sweep=transfer_open_ended seed=0 runs_dir={tmp_path / 'other'} hydra.sweeper.best_of.top=1"
    result = cli(line, config_dir=False)
    assert variants(result) == [f"{m} ppo open_craftax/craftax_symbolic" for m in ("vanilla", "snp")]
    assert "by mean rank of final_return among 3" in result.out


# -- for real ------------------------------------------------------------------------------------------------
def shell(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "plasticine.cli.run", *words, "tracker=local"], cwd=folder, text=True,
        capture_output=True, timeout=600, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def finished(folder: Path) -> list[str]:
    states = {p.parts[-3]: json.loads(p.read_text())["state"] for p in folder.glob("runs/*/*/*/status.json")}
    return sorted(name.split(".")[0] for name, state in states.items() if state == "finished")


def test_three_methods_run_and_a_dry_run_counts_what_is_left(tmp_path):
    done = shell(tmp_path, "method=vanilla,trac,crelu", "+sweep=smoke_grid")
    assert done.returncode == 0, done.stderr
    assert finished(tmp_path) == ["crelu", "trac", "vanilla"]
    there = sorted(tmp_path.rglob("*"))
    done = shell(tmp_path, "--dry-run", "sweep=smoke_grid", "method=vanilla,trac,crelu", "seed=0-1")
    assert done.returncode == 0, done.stderr
    assert "dry run: 3 of 6 run(s) to do, all of them can be built; nothing was started" in done.stdout
    assert "classic/cartpole, ppo: 6 run(s) of 3 variant(s) of 6,144 env steps" in done.stdout
    assert "of one worker for 3 of them, at the speed of finished runs" in done.stdout
    assert sorted(tmp_path.rglob("*")) == there


@pytest.mark.slow
def test_every_method_runs(tmp_path):
    done = shell(tmp_path, "sweep=smoke_grid")
    assert done.returncode == 0, done.stdout + done.stderr
    names = {path.stem for path in (paths.config_dirs()[0] / "method").glob("*.yaml")}
    assert set(finished(tmp_path)) == names
