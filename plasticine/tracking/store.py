"""Where MLflow keeps its runs, and how that place comes into being without a race."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from plasticine.errors import UserError

if TYPE_CHECKING:
    from mlflow import MlflowClient

__all__ = ["artifact_root", "connect", "file_lock", "prepare_store", "resolve_uri"]

#: Set before MLflow is imported, unless the user has set them: no telemetry, no call that hangs for minutes.
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_LOCK_SECONDS = 180.0


def resolve_uri(uri: str | None, folder: Path) -> str:
    """Return the absolute tracking URI; None means the SQLite file ``mlflow.db`` in `folder`.

    Raises:
        UserError: The URI names MLflow's file store, which MLflow no longer supports.
    """
    folder = Path(folder).absolute()
    if uri is None:
        return f"sqlite:///{folder / 'mlflow.db'}"
    scheme = urlsplit(uri).scheme
    if scheme in ("", "file"):
        raise UserError(
            f"tracker.uri={uri} names an MLflow file store; MLflow >= 3.13 refuses to write to one",
            f"leave tracker.uri unset (sqlite:///{folder / 'mlflow.db'}) or give sqlite:///<file> or http://<server>",
        )
    if scheme == "sqlite":
        return f"sqlite:///{folder / _sqlite_file(uri)}"
    return uri


def artifact_root(uri: str, folder: Path, experiment: str) -> Path | None:
    """Return the absolute folder for an experiment's artifacts, or None where the server decides."""
    if urlsplit(uri).scheme in ("http", "https", "databricks"):
        return None
    return Path(folder).absolute() / "mlartifacts" / re.sub(r"[^\w.=-]", "_", experiment)


def connect(uri: str) -> MlflowClient:
    """Import MLflow, without telemetry and with short timeouts, and return a client; talks to nobody yet."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri=uri)


def prepare_store(uri: str, experiment: str, root: Path | None, lock_dir: Path | None = None) -> str:
    """Make the store and the experiment if they are not there yet; return the id of the experiment.

    Several processes may call this at once: they take turns under a file lock. A new SQLite store is built
    under another name and renamed, because MLflow never recovers a database whose first migration was cut
    short.

    Args:
        uri: Absolute tracking URI, from `resolve_uri`.
        experiment: Name of the experiment.
        root: Absolute folder for the artifacts, from `artifact_root`; None where the server decides.
        lock_dir: Folder of the lock for stores that are not SQLite files; None: the system's temporary one.

    Raises:
        UserError: The experiment was deleted, or the lock is held for three minutes.
        mlflow.exceptions.MlflowException: The store cannot be reached or used.
    """
    database = _sqlite_file(uri) if urlsplit(uri).scheme == "sqlite" else None
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        lock = database.with_name(f".{database.name}.lock")
    else:
        folder = lock_dir or Path(tempfile.gettempdir())
        folder.mkdir(parents=True, exist_ok=True)
        lock = folder / f".mlflow-{hashlib.sha256(uri.encode()).hexdigest()[:8]}.lock"
    with file_lock(lock, _LOCK_SECONDS):
        if database is not None and not database.exists():
            _create_database(database)
        return _experiment_id(connect(uri), experiment, root)


def _create_database(database: Path) -> None:
    prefix = f".{database.name}.new-"
    for leftover in database.parent.glob(f"{prefix}*"):
        leftover.unlink()
    unfinished = database.with_name(f"{prefix}{os.getpid()}")
    connect(f"sqlite:///{unfinished}").search_experiments(max_results=1)
    os.replace(unfinished, database)


def _experiment_id(client: MlflowClient, name: str, root: Path | None) -> str:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None
        if root is not None:
            root.mkdir(parents=True, exist_ok=True)
            location = root.as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another machine was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        raise UserError(
            f"the MLflow experiment {name!r} was deleted",
            f"`mlflow experiments restore -x {found.experiment_id}` brings it back; or choose another study=",
        )
    return str(found.experiment_id)


def _sqlite_file(uri: str) -> Path:
    """Return the file of a SQLite URI: three slashes and a relative path, or four and an absolute one."""
    return Path(uri[len("sqlite:///") :])


@contextlib.contextmanager
def file_lock(path: Path, seconds: float) -> Iterator[None]:
    """Hold an exclusive lock on `path`.

    Raises:
        UserError: Somebody else held it for `seconds`.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + seconds
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise UserError(
                        f"another process has held {path} for {seconds:.0f} s",
                        f"find it with `fuser {path}` and stop it if it hangs",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
