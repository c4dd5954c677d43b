"""A launch in which all goes well."""

import json
import sqlite3
import sys

import yaml

from plasticine.tracking.record import read_metrics


def test_a_multirun_fills_folders_forwards_them_and_reports(launcher):
    line = [
        "-m",
        "method=vanilla",
        "seed=0-2",
        "tracker=mlflow",
        "study=first",
        "launcher.workers=2",
        "tracker.uri=null",
    ]
    code, out, err = launcher(*line)
    assert code == 0, out + err
    assert launcher.states() == {f"none/{seed}": "finished" for seed in range(3)}
    assert sorted(p.name for p in launcher.folder.iterdir() if not p.name.startswith(".")) == [
        "mlartifacts", "mlflow.db", "runs",
    ]  # fmt: skip
    for seed in range(3):
        run = launcher.runs()[f"none/{seed}"]
        config = yaml.safe_load((run / "config.yaml").read_text())
        assert config["seed"] == seed
        card = json.loads((run / "run.json").read_text())
        assert (card["method"], card["agent"], card["env"], card["level"]) == (
            "vanilla", "ppo", "classic/cartpole", "continual",
        )  # fmt: skip
        assert card["name"] == f"vanilla s{seed} · ppo · classic/cartpole"
        assert card["params"]["agent.num_steps"] == 64
        facts = json.loads((run / "provenance.json").read_text())
        assert "seed=0-2" in facts["command"]
        assert facts["packages"]["torch"]
        assert facts["python"] == sys.version.split()[0]
        assert read_metrics(run).metrics[-1].env_steps == 1024
    database = sqlite3.connect(launcher.folder / "mlflow.db")
    query = (
        "select tags.value, count(*) from runs join tags using (run_uuid) where tags.key = 'kind' "
        "and status = 'FINISHED' and lifecycle_stage = 'active' group by tags.value"
    )
    assert dict(database.execute(query).fetchall()) == {"seed": 3, "aggregate": 1, "study": 1}
    database.close()
    table = next(line for line in out.splitlines() if line.startswith("vanilla  "))
    assert " 3 " in table
    assert "+-" in table
    assert f"compare: plasticine ui --uri sqlite:///{launcher.folder}/mlflow.db\n" in out

    code, out, _ = launcher(*line)
    assert code == 0
    assert "3 of 3 run(s) already finished" in out
    assert "start " not in out


def test_training_goes_on_when_mlflow_is_out_of_reach(launcher):
    code, out, err = launcher(
        "seed=1", "tracker=mlflow", "tracker.uri=http://127.0.0.1:9", "tracker.finish_timeout=1"
    )
    assert code == 0, out + err
    assert "out of reach" in out
    assert "plasticine sync" in out
    assert launcher.states() == {"none/1": "finished"}


def test_a_stock_launcher_of_hydra_runs_the_same_jobs(launcher):
    code, out, err = launcher("-m", "hydra/launcher=basic", "seed=0-1")
    assert code == 0, out + err
    assert launcher.states() == {"none/0": "finished", "none/1": "finished"}
    assert [path.name for path in launcher.folder.iterdir()] == ["runs"]
    code, out, err = launcher("-m", "hydra/launcher=basic", "env.fault=raise")
    assert code == 1
    assert "a run failed" in err
