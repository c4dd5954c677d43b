"""``plasticine-run``: compose runs from YAML files and the command line, and run them."""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from plasticine import hydra_plugins
from plasticine.cell import plain, register_resolvers, run_dir
from plasticine.cli.advice import advise
from plasticine.cli.argv import CommandLine, split
from plasticine.cli.explain import explain
from plasticine.cli.help import help_text
from plasticine.cli.request import Request, make_schema, resolve
from plasticine.errors import UserError
from plasticine.launch.job import LaunchError
from plasticine.paths import config_dirs

__all__ = ["main"]

#: Flags that show something instead of running.
_SHOWS = frozenset({"--hydra-help", "--version", "--cfg", "--shell-completion", "--info"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    0: all runs finished; 1: a run failed; 2: the request cannot work; 130: interrupted.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(split(arguments), arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except KeyboardInterrupt:
        return 130
    except LaunchError as error:
        print(f"plasticine-run: {error}", file=sys.stderr)
        return 1
    except Exception as error:  # noqa: BLE001 - the outermost frame: everything is reported, nothing swallowed
        mistake = explain(error)
        if mistake is None:
            traceback.print_exc()
            return 1
        print(f"plasticine-run: {mistake.what}", file=sys.stderr)
        if mistake.fix:
            print(f"  {mistake.fix}", file=sys.stderr)
        return 2


def _main(line: CommandLine, arguments: Sequence[str]) -> int:
    if "--experimental-rerun" in line.flags or "--config-path" in line.flags:
        raise UserError(
            "--experimental-rerun and --config-path are not supported",
            "continue a run with the command that started it; add YAML folders with --config-dir",
        )
    shown = [flag for flag in ("--cfg", "--info") if flag in line.flags]
    if line.multirun and shown:
        raise UserError(f"{shown[0]} shows one configuration, -m asks for several runs", "leave -m out")
    schema = make_schema(line)
    if "--help" in line.flags:
        print(help_text(schema), end="")
        return 0
    request = Request(multirun=False)
    if not _SHOWS.intersection(line.flags) or "--cfg" in line.flags:
        request = resolve(line, schema)
        if "--cfg" not in line.flags:
            for expansion in request.expansions:
                print(expansion, flush=True)
            line = CommandLine(line.flags, request.overrides)
    return _through_hydra(line, request, ["plasticine-run", *arguments])


def _through_hydra(line: CommandLine, request: Request, command: list[str]) -> int:
    """Let Hydra compose; run what it composed once Hydra is done, so that it is not in the way."""
    jobs: list[dict[str, Any]] = []
    single: list[DictConfig] = []

    def task(cfg: DictConfig) -> int:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            return _run_now(cfg, command)  # a stock launcher has called us, perhaps on another machine
        single.append(cfg)
        return 0

    hydra_plugins.register()
    register_resolvers()
    hydra_plugins.PlasticineLauncher.take_jobs = jobs.extend
    hydra_plugins.PlasticineSweeper.lines = request.lines
    GlobalHydra.instance().clear()
    with _as_hydra_wants(line):
        hydra.main(version_base="1.3", config_path=str(config_dirs()[0]), config_name="run")(task)()
    jobs.extend(plain(cfg) for cfg in single)
    if not jobs:
        return 0  # something was shown, or a stock launcher ran the jobs
    if request.saved.leave_out:
        from plasticine.cli.leave_out import fitting_runs

        jobs, told = fitting_runs(jobs, swap=request.saved.pairs)
        for text in told:
            print(text, flush=True)
    if request.multirun:
        print(counted(jobs), flush=True)
    from plasticine.launch.session import launch

    try:
        return launch(jobs, Path.cwd(), command=command, several=line.multirun or len(jobs) > 1)
    except UserError as error:
        raise advise(error, jobs, make_schema(line)) from error


def counted(configs: Sequence[dict[str, Any]]) -> str:
    """Return how many runs there are, for a person."""
    folders = {run_dir(config, Path()) for config in configs}
    cells = {folder.parent for folder in folders}
    seeds = sorted({sum(folder.parent == cell for folder in folders) for cell in cells})
    each = f"{seeds[0]}" if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
    return f"{len(folders)} run(s): {len(cells)} variant(s) x {each} seed(s)"


def _run_now(cfg: DictConfig, command: list[str]) -> int:
    from plasticine.launch.session import launch

    code = launch([plain(cfg)], Path.cwd(), command=command, several=False)
    if code:
        raise LaunchError("a run failed; error.txt in its folder says why")
    return code


@contextlib.contextmanager
def _as_hydra_wants(line: CommandLine) -> Iterator[None]:
    """Give Hydra its arguments through ``sys.argv`` and make it raise instead of printing."""
    old_argv, old_error = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["plasticine-run", *line.argv()]
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        yield
    finally:
        sys.argv = old_argv
        del os.environ["HYDRA_FULL_ERROR"]
        if old_error is not None:
            os.environ["HYDRA_FULL_ERROR"] = old_error


if __name__ == "__main__":
    sys.exit(main())
