"""The command as a process of its own."""

import os
import resource
import subprocess
import sys


def plasticine_run(folder, *words, **variables):
    return subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "plasticine.cli.run", *words],
        cwd=folder, env={**os.environ, **variables}, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def processor_seconds() -> float:
    """Time used by processes that have ended: unlike wall time, it does not depend on what else runs here."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_is_quick_and_imports_nothing_heavy(tmp_path):
    times = []
    for _ in range(3):
        start = processor_seconds()
        done = plasticine_run(tmp_path, "--help")
        times.append(processor_seconds() - start)
    assert done.returncode == 0
    assert "usage: plasticine-run" in done.stdout
    imported = {
        line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time:" in line
    }
    assert "hydra" in imported
    assert not imported & {"torch", "mlflow", "gymnasium", "pandas", "mujoco"}
    assert min(times) < 1.5
    assert list(tmp_path.iterdir()) == []


def test_other_packages_bring_yaml_files_by_entry_point(tmp_path):
    site = tmp_path / "site"
    (site / "mylab" / "conf" / "method").mkdir(parents=True)
    for package in (site / "mylab", site / "mylab" / "conf"):
        (package / "__init__.py").touch()
    (site / "mylab" / "conf" / "method" / "my_reset.yaml").write_text(
        "my_reset: {_target_: mylab.reset.Reset}\n"
    )
    info = site / "mylab-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mylab\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[plasticine.configs]\nmylab = mylab.conf\n")
    work = tmp_path / "work"
    work.mkdir()
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    done = plasticine_run(work, "method=[my_reset,vanilla]", "--cfg", "job", PYTHONPATH=path)
    assert done.returncode == 0, done.stderr
    assert "mylab.reset.Reset" in done.stdout
    wrong = plasticine_run(work, "method=my_rest", PYTHONPATH=path)
    assert wrong.returncode == 2
    assert "did you mean 'my_reset'" in wrong.stderr
    assert list(work.iterdir()) == []
