"""A finished grid, ``plasticine ui`` on it, and a browser. Without a browser tests are skipped, in CI they fail."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

#: Screenshots, for whoever wants to look; not part of the repository.
SHOTS = Path(__file__).resolve().parents[2] / "test-artifacts" / "ui"
PATIENCE = 120.0  # seconds; generous, since nothing here measures time
_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


class Ui(NamedTuple):
    """A running ``plasticine ui``: the process, its address, its links by title."""

    process: subprocess.Popen[str]
    address: str
    links: dict[str, str]


@pytest.fixture(scope="session")
def grid(tmp_path_factory) -> Path:
    """Two methods and two seeds of the smallest real experiment, forwarded to a store of its own."""
    folder = tmp_path_factory.mktemp("grid")
    command = [
        sys.executable, "-m", "plasticine.cli.run", "-m", "launcher=debug", "env=classic", "method=vanilla,snp",
        "seed=0-1", "study=grid", "budget=smoke", "env.num_tasks=2", "env.steps_per_task=1024",
        "agent.num_steps=64", "agent.epochs=1", "network.hidden=[16]", "metrics.every=2", "metrics.probe_size=64",
        "evaluation.every=null", "tracker.finish_timeout=300",
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=400, env=environment(), check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "warning" not in done.stdout, done.stdout
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("compare: "))
    assert line == f"compare: plasticine ui --uri sqlite:///{folder}/mlflow.db"
    return folder


@pytest.fixture(scope="session")
def ui(grid) -> Iterator[Ui]:
    """The command in the launch folder, its port being taken; at the end Ctrl-C must end all that it started."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_ui(grid, "--uri", "sqlite:///mlflow.db", "--port", str(port))
        address, links = read_links(process)
    assert port < int(address.rsplit(":", 1)[1]) < port + 20
    try:
        yield Ui(process, address, links)
    finally:
        children = processes_of(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (0, "stopped\n", "")
    assert children
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def processes_of(parent: int) -> list[int]:
    """MLflow's processes below another one, whatever group they are in."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, NotADirectoryError):
            if entry.name.isdigit():
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
    found, todo = [], [parent]
    while todo:
        above = todo.pop()
        below = [pid for pid, its in parents.items() if its == above]
        found += below
        todo += below
    return found


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, _BROWSERS)), None)
    if path is None:
        reason = f"there is no browser here ({', '.join(_BROWSERS)})"
        if os.environ.get("REQUIRE_BROWSER") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        options = [
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
        ]  # as in a container without rights
        chromium = playwright.chromium.launch(executable_path=path, args=options)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def quiet(browser, ui) -> Any:
    return quiet_state(browser, ui.address)


@pytest.fixture
def page(browser, quiet) -> Iterator[Any]:
    with open_page(browser, quiet) as page:
        yield page


def quiet_state(browser: Any, address: str) -> Any:
    """Close MLflow's own side panel, which covers a third of the page; return what the browser has to remember."""
    with open_page(browser, None) as page:
        page.goto(f"{address}/#/experiments")
        page.get_by_role("button", name="Close", exact=True).first.click()
        return page.context.storage_state()


@contextlib.contextmanager
def open_page(browser: Any, state: Any) -> Iterator[Any]:
    """A page of somebody who was never there before, but for the side panel."""
    SHOTS.mkdir(parents=True, exist_ok=True)
    context = browser.new_context(viewport={"width": 1600, "height": 1000}, storage_state=state)
    context.set_default_timeout(1000 * PATIENCE)
    yield context.new_page()
    context.close()


def environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    return {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def start_ui(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "plasticine.cli.main", "ui", *arguments],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def read_links(process: subprocess.Popen[str]) -> tuple[str, dict[str, str]]:
    """Read what the command prints until it serves; return the address and its links by title."""
    assert process.stdout is not None
    lines: list[str] = []
    for line in process.stdout:
        lines.append(line.rstrip())
        if line.startswith("Ctrl-C"):
            break
    else:
        raise AssertionError(process.communicate(timeout=PATIENCE)[1])
    links = {
        title.strip(): link.strip() for title, link in pairwise(lines) if link.strip().startswith("http")
    }
    (address,) = {re.match(r"http://[^/]+", link).group() for link in links.values()}  # type: ignore[union-attr]
    return address, links


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)
