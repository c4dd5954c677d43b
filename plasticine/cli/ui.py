"""``plasticine ui``: MLflow's pages on the right store, opened where methods are compared."""

from __future__ import annotations

import argparse
import signal
import socket
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from plasticine.errors import UserError, nearest
from plasticine.tracking.jsonfile import read_json
from plasticine.tracking.server import UiServer, free_port
from plasticine.tracking.state import STATE_FILE
from plasticine.tracking.store import connect, one_line, resolve_uri, store_errors
from plasticine.tracking.sync import find_runs
from plasticine.tracking.views import view_links

__all__ = ["configure", "run"]

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHOWN = 5  # experiments whose links are printed


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument(
        "--runs-dir", default="runs", type=Path, help="folder of the runs whose store to open (default: runs)"
    )
    parser.add_argument("--uri", help="MLflow store; default: where these runs went, else ./mlflow.db")
    parser.add_argument("--study", help="only the links of this study")
    parser.add_argument("--port", default=5000, type=int, help="the next free one is taken (default: 5000)")
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument(
        "--allowed-hosts",
        help="with --host: names under which browsers reach it, with and without port: box,box:5000",
    )


def run(arguments: argparse.Namespace) -> int:
    """Start the server, print the links, wait for Ctrl-C."""
    uri = _store(arguments.uri, arguments.runs_dir, arguments.study)
    experiments = _experiments(uri, arguments.study)
    if urlsplit(uri).scheme in ("http", "https"):
        _print_links(uri.rstrip("/"), experiments)
        return 0
    if arguments.host not in _LOOPBACK:
        _warn(arguments.host, arguments.port, arguments.allowed_hosts)
    port = free_port(arguments.host, arguments.port)
    if port != arguments.port:
        print(f"port {arguments.port} is taken, so it is {port}", flush=True)
    print(f"store: {uri}", flush=True)
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with UiServer(uri, arguments.host, port, arguments.allowed_hosts).running() as process:
            name = arguments.host if arguments.host in _LOOPBACK else socket.gethostname()
            _print_links(f"http://{f'[{name}]' if ':' in name else name}:{port}", experiments)
            print("\nCtrl-C stops it", flush=True)
            code = process.wait()
            raise UserError(f"MLflow's server has ended (exit code {code})", "start it again")
    except KeyboardInterrupt:
        print("stopped", flush=True)
        return 0
    finally:
        signal.signal(signal.SIGTERM, before)


def _store(uri: str | None, runs_dir: Path, study: str | None) -> str:
    """Return the absolute URI of the store to open."""
    folder = Path.cwd()
    if uri is None and runs_dir.is_dir():
        notes = [run / STATE_FILE for run in find_runs(runs_dir, study)]
        notes = sorted((note for note in notes if note.exists()), key=lambda note: note.stat().st_mtime)
        known = list(dict.fromkeys(str((read_json(note) or {}).get("uri")) for note in reversed(notes)))
        known = [store for store in known if store != "None"]
        if len(known) > 1:
            print(f"other stores of these runs: {', '.join(known[1:])} (--uri opens one)", flush=True)
        uri = known[0] if known else None
    resolved = resolve_uri(uri, folder)
    if resolved.startswith("sqlite:///") and not Path(resolved[len("sqlite:///") :]).exists():
        raise UserError(
            f"there is no MLflow store {resolved[len('sqlite:///') :]}",
            "start it where the runs were started, or name it: --runs-dir <folder> or --uri sqlite:///<file>; "
            "runs that were recorded without MLflow get into one with `plasticine sync`",
        )
    return resolved


def _experiments(uri: str, study: str | None) -> list[Any]:
    """Return the experiments with runs of ours, the latest first."""
    try:
        client = connect(uri)
        found = [e for e in client.search_experiments(max_results=1000) if e.name != "Default"]
    except store_errors() as error:
        raise UserError(
            f"the MLflow store {uri} cannot be read: {one_line(error)}",
            f"is it reachable? A store of an older MLflow: mlflow db upgrade {uri}",
        ) from error
    found.sort(key=lambda experiment: -(experiment.last_update_time or 0))
    if study is not None:
        names = [experiment.name for experiment in found]
        found = [experiment for experiment in found if experiment.name == study]
        if not found:
            raise UserError(f"there is no study {study!r} in {uri}", nearest(study, names))
    return found


def _print_links(address: str, experiments: list[Any]) -> None:
    if not experiments:
        print(f"there are no runs yet: {address}", flush=True)
    for experiment in experiments[:_SHOWN]:
        print(f"\nstudy {experiment.name}", flush=True)
        for title, link in view_links(experiment.experiment_id, experiment.tags).items():
            print(f"  {title}\n    {address}{link}", flush=True)
    if len(experiments) > _SHOWN:
        print(f"\n{len(experiments) - _SHOWN} more: {address} (--study prints one's links)", flush=True)


def _warn(host: str, port: int, allowed_hosts: str | None) -> None:
    """Say what it means to be reachable from other machines."""
    name = socket.gethostname()
    lines = [
        f"warning: with --host {host}, everybody who reaches this machine can read, change and delete the runs;",
        "  MLflow asks for no password. From one other machine, this is safer, without --host:",
        f"    ssh -L {port}:127.0.0.1:{port} {name}",
        "  With passwords: mlflow server --app-name basic-auth, with MLFLOW_AUTH_ADMIN_PASSWORD and",
        "  MLFLOW_FLASK_SERVER_SECRET_KEY set (docs/tracking.md).",
    ]
    if allowed_hosts is None:
        lines += [
            "  Browsers may use this machine's address in a private network, but no name. To allow names:",
            f"    --allowed-hosts {name},{name}:{port}",
        ]
    print("\n".join(lines), file=sys.stderr, flush=True)
