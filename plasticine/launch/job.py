"""One run of a launch, and how it is carried out in whatever process it ends up in."""

from __future__ import annotations

import contextlib
import faulthandler
import functools
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from plasticine.cell import agent_name, cell_id, env_name, method_label, run_dir
from plasticine.errors import UserError
from plasticine.launch.folder import RunFolder
from plasticine.launch.provenance import Provenance

__all__ = ["Job", "LaunchError", "UnwritableError", "carry_out", "inspect"]

Config = dict[str, Any]


class LaunchError(RuntimeError):
    """Nothing can be run, and it is not the user's mistake: a worker does not start, a check crashes."""


class UnwritableError(LaunchError):
    """Nothing can be written where the runs are: a full disk, a file system that is away. It may pass."""


class Stop(Protocol):
    """Asks a run to save and leave."""

    def is_set(self) -> bool:
        """Whether to stop."""


@dataclass
class Job:
    """A run as the launching process sees it.

    Attributes:
        config: Plain configuration.
        folder: Its folder.
        state: ``waiting``, ``running``, ``finished``, ``failed``, ``interrupted``, or ``elsewhere`` (another
            launch is running it).
        progress: What the trainer reported last.
        summary: Scores of a finished run.
        error: Last line of a failure.
        was_finished: The run was finished before this launch.
        started: Monotonic time of its start.
        attempts: How often it has been handed to a process.
        note: Why it waits, if that is known.
        show_cell: Other runs of the launch have the same names but another cell.
    """

    config: Config
    folder: RunFolder
    state: str = "waiting"
    progress: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    was_finished: bool = False
    started: float = 0.0
    attempts: int = 0
    note: str = ""
    show_cell: bool = False

    @classmethod
    def of(cls, config: Config, launch_dir: Path) -> Job:
        """Return the job for a configuration, with what its folder says about it."""
        return cls.at(config, RunFolder(run_dir(config, launch_dir)))

    @classmethod
    def at(cls, config: Config, folder: RunFolder) -> Job:
        """Return the job whose folder is known already."""
        job = cls(config, folder)
        status = folder.status()
        if status.get("state") == "finished":
            job.state, job.was_finished = "finished", True
            job.progress, job.summary = status, status.get("summary") or {}
        return job

    @functools.cached_property
    def cell(self) -> str:
        """Identity of everything but the seed."""
        return cell_id(self.config)

    @property
    def group(self) -> tuple[str, str, str]:
        """Method, agent and environment, for people."""
        return method_label(self.config), agent_name(self.config), env_name(self.config)

    @property
    def name(self) -> str:
        """Short name for people, e.g. ``snp ppo classic/cartpole seed=3``."""
        cell = f" {self.cell[:8]}" if self.show_cell else ""
        return f"{' '.join(self.group)}{cell} seed={self.config['seed']}"

    def begin(self) -> None:
        """Note that the run has been handed to a process."""
        self.state, self.started = "running", time.monotonic()
        self.attempts += 1

    def fail(self, error: str, details: str, slurm_job: str | None = None) -> None:
        """Record that the run could not be carried out, unless some process is at it after all.

        Args:
            error: In a line.
            details: For error.txt.
            slurm_job: Job that should have carried it out, if that is not the one this process belongs to.
        """
        self.state, self.error = "failed", error
        with self.folder.locked() as mine:
            if mine:
                more = {"slurm_job": slurm_job} if slurm_job else {}
                self.folder.write_error(details)
                self.folder.write_status("failed", self.folder.status(), error=error, **more)

    def take(self, message: Mapping[str, Any]) -> None:
        """Take over what `carry_out` says."""
        if message["kind"] == "progress":
            self.progress = dict(message["progress"])
        else:
            self.state = message["outcome"]
            self.error = message.get("error", "")
            self.summary = message.get("summary") or {}
            self.progress = dict(message.get("progress") or self.progress)


def inspect(config: Config) -> dict[str, Any]:
    """Check a configuration and return facts about the run; nothing is written.

    Raises:
        UserError: The configuration cannot work.
    """
    from plasticine.compose import build_object
    from plasticine.core.agent import Agent
    from plasticine.core.env import EnvLevel
    from plasticine.run import check

    plan = check(config)
    level = build_object(config["env"], EnvLevel, "env")
    agent = build_object(config["agent"], Agent, "agent")
    return {
        "level": level.level,
        "env": level.spec().name,
        "actions": {"kind": level.spec().action.kind, "n": level.spec().action.n},
        "exact_resume": level.exact_state and agent.exact_resume,
        "iterations": plan.iterations,
        "env_steps": plan.env_steps,
    }


def carry_out(
    config: Config,
    folder: RunFolder,
    facts: Mapping[str, Any],
    provenance: Provenance,
    stop: Stop,
    progress: Callable[[dict[str, Any]], None],
    capture: bool,
) -> dict[str, Any]:
    """Run one job in this process and leave its folder in order, whatever happens.

    Args:
        config: Plain configuration.
        folder: Folder of the run.
        facts: What `inspect` returned.
        provenance: Of this launch.
        stop: Asks the run to save and leave.
        progress: Called with the trainer's reports.
        capture: Send everything printed to log.txt.

    Returns:
        ``{"outcome": "finished" | "failed" | "interrupted" | "elsewhere", "summary", "error", "traceback"}``.
    """
    with folder.locked() as mine:
        if not mine:
            return {"outcome": "elsewhere"}
        if folder.finished:  # another launch finished it while this one was waiting
            return {"outcome": "finished", "summary": folder.status().get("summary")}
        last: dict[str, Any] = folder.status()

        def report(now: dict[str, Any]) -> None:
            last.update(now)
            folder.report_progress(now)
            progress(now)

        try:
            folder.describe(config, facts, provenance)
            folder.write_status("running", last)
            with _captured(folder.path / "log.txt") if capture else contextlib.nullcontext():
                from plasticine.run import execute

                result = execute(config, folder.path, stop, report)
        except KeyboardInterrupt:
            folder.write_status("interrupted", last)
            raise
        except Exception as error:  # noqa: BLE001 - recorded in the folder and reported; the launch decides
            text = traceback.format_exc()
            line = error.what if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            try:
                folder.write_error(text)
                folder.write_status("failed", last, error=line)
            except OSError as problem:  # a full disk: whoever started this run hears of it all the same
                line += f" (not written down: {problem})"
            return {"outcome": "failed", "error": line, "traceback": text}
        folder.write_status(result["outcome"], last, summary=result["summary"])
        return {"outcome": result["outcome"], "summary": folder.status().get("summary"), "progress": last}


@contextlib.contextmanager
def _captured(path: Path) -> Iterator[None]:
    """Append everything this process and its children print to `path`, native crashes included."""
    with open(path, "ab", buffering=0) as log:
        sys.stdout.flush()
        sys.stderr.flush()
        saved = os.dup(1), os.dup(2)
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        faulthandler.enable(file=2)
        try:
            yield
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            faulthandler.disable()
            sys.stdout.flush()
            sys.stderr.flush()
            for number, copy in zip((1, 2), saved, strict=True):
                os.dup2(copy, number)
                os.close(copy)
