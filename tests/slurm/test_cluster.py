"""The cluster of these tests is a real one."""

import time

import pytest

from tests.slurm.conftest import demand


def test_a_missing_slurm_skips_here_and_fails_in_ci(monkeypatch):
    monkeypatch.delenv("REQUIRE_SLURM", raising=False)
    demand([])
    with pytest.raises(pytest.skip.Exception, match="no slurmd"):
        demand(["slurmd"])
    monkeypatch.setenv("REQUIRE_SLURM", "1")
    with pytest.raises(pytest.fail.Exception, match="no slurmd"):
        demand(["slurmd"])


def test_the_node_takes_jobs_and_ends_them(slurm, tmp_path):
    assert slurm.client(["sinfo", "-h", "-o", "%T %c"]) == "idle 4"
    script = tmp_path / "job.sh"
    script.write_text("#!/bin/bash\necho done in $SLURM_JOB_ID\n")
    said = slurm.client(["sbatch", "--parsable", "-o", str(tmp_path / "out"), str(script)])
    end = time.monotonic() + 20
    while "JobState=COMPLETED" not in slurm.client(["scontrol", "show", "job", said]):
        assert time.monotonic() < end, slurm.client(["scontrol", "show", "job", said])
        time.sleep(0.1)
    assert (tmp_path / "out").read_text() == f"done in {said}\n"
