"""A real SLURM for the tests of this folder. Where it is not installed they are skipped, in CI they fail."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.launch.conftest import Launcher
from tests.slurm.cluster import Cluster, missing_programs

#: Small enough that a test can see arrays being split.
MAX_ARRAY_SIZE = 201


def demand(missing: list[str]) -> None:
    """Skip where programs are missing; with REQUIRE_SLURM=1, which CI sets, fail."""
    if missing:
        reason = f"SLURM is not installed here (no {', '.join(missing)})"
        if os.environ.get("REQUIRE_SLURM") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def cluster():
    demand(missing_programs())
    folder = Path(tempfile.mkdtemp(prefix="slurm."))  # short: a unix socket's path has 108 bytes at most
    made = Cluster(folder, options={"MaxArraySize": str(MAX_ARRAY_SIZE)})
    try:
        made.up()
        yield made
    finally:
        made.down()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(cluster, monkeypatch):
    """The cluster, with this process as its client; an allocation the tests may run in does not shine through."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "SQUEUE_")):
            monkeypatch.delenv(name)
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    yield cluster
    cluster.client(["scancel", "--full", "--signal=KILL", "--user", str(os.getuid())])
    cluster.client(["scancel", "--user", str(os.getuid())])


@pytest.fixture
def launcher(slurm, tmp_path):
    """plasticine-run as a process in a folder of its own, and a cluster it can submit to."""
    made = Launcher(tmp_path)
    yield made
    made.end()
