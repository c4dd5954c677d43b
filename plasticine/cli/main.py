"""``plasticine <command>``: everything around the runs. Runs themselves are ``plasticine-run``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from typing import NamedTuple

from plasticine import __version__
from plasticine.errors import UserError, nearest

__all__ = ["COMMANDS", "Command", "main"]


class Command(NamedTuple):
    """A subcommand: the module has ``configure(parser)`` and ``run(arguments) -> exit code``."""

    module: str
    summary: str


#: Imported only when called: `plasticine --help` is instant.
COMMANDS = {
    "list": Command("plasticine.cli.list", "show what there is to choose from, and what goes with what"),
    "status": Command(
        "plasticine.cli.status", "show which runs are done, go on, wait, failed or are missing"
    ),
    "logs": Command("plasticine.cli.logs", "print what a run has said and why it failed"),
    "cancel": Command("plasticine.cli.cancel", "take runs out of SLURM's queue"),
    "retry": Command("plasticine.cli.retry", "start failed runs again"),
    "rerun": Command("plasticine.cli.rerun", "do a run again from its record and compare"),
    "diagnose": Command(
        "plasticine.cli.diagnose", "say which runs show signs of a known failure, and what acts on it"
    ),
    "report": Command("plasticine.cli.report", "compare the runs of a study: figures, tables, one page"),
    "export": Command("plasticine.cli.export", "write a study as a data set that can be passed on"),
    "import": Command("plasticine.cli.import_", "make runs of a data set, after verifying its files"),
    "sync": Command("plasticine.cli.sync", "send the records of runs to MLflow"),
    "ui": Command("plasticine.cli.ui", "open MLflow's pages where the methods of a study are compared"),
    "doctor": Command("plasticine.cli.doctor", "check this installation and say how to repair it"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand; return its exit code (2: a mistake in the request, told without a traceback)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _dispatch(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # whoever reads our output (head, less) has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(arguments: list[str]) -> int:
    name = arguments[0] if arguments else "--help"
    if name in ("-h", "--help"):
        print(_overview())
        return 0
    if name == "--version":
        print(f"plasticine {__version__}")
        return 0
    if name not in COMMANDS:
        raise UserError(f"there is no command {name!r}", nearest(name, COMMANDS))
    command = COMMANDS[name]
    module = importlib.import_module(command.module)
    parser = argparse.ArgumentParser(
        prog=f"plasticine {name}", description=f"{command.summary.capitalize()}."
    )
    module.configure(parser)
    return int(module.run(parser.parse_args(arguments[1:])))


def _overview() -> str:
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    head = ["usage: plasticine <command> [--help]", "", "commands:", *rows]
    return "\n".join([*head, "", "Runs are started with plasticine-run."])


if __name__ == "__main__":
    sys.exit(main())
