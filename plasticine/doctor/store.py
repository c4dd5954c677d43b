"""Whether MLflow takes a metric: a real store in a temporary folder, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from plasticine.doctor.check import Check

__all__ = ["check_store"]

_SECONDS = 120


def check_store(python: str = sys.executable) -> Check:
    """Make a store, write one metric and read it back (about 5 s); broken installations may crash, not hang.

    Args:
        python: Interpreter that does it.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [python, "-m", "plasticine.doctor.store", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
        except (OSError, subprocess.TimeoutExpired) as error:
            return _failed(str(error))
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return _failed(lines[-1] if lines else f"exit code {done.returncode}")
    return Check("MLflow store", "ok", done.stdout.strip().splitlines()[-1])


def _failed(reason: str) -> Check:
    fix = 'pip install --force-reinstall "mlflow>=3.13,<4"; until then tracker=local keeps every record'
    return Check("MLflow store", "error", reason, fix)


def _probe(folder: Path) -> str:
    from plasticine.tracking.store import artifact_root, connect, prepare_store, resolve_uri

    began = time.monotonic()
    uri = resolve_uri(None, folder)
    experiment_id = prepare_store(uri, "doctor", artifact_root(uri, folder, "doctor"))
    client = connect(uri)
    run = client.create_run(experiment_id)
    client.log_metric(run.info.run_id, "probe", 0.5, step=1)
    (point,) = client.get_metric_history(run.info.run_id, "probe")
    if (point.step, point.value) != (1, 0.5):
        raise RuntimeError(f"wrote 0.5 at step 1, read {point.value} at step {point.step}")
    return f"one metric written and read back in {time.monotonic() - began:.1f} s"


if __name__ == "__main__":
    print(_probe(Path(sys.argv[1])))
