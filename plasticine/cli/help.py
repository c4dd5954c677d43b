"""The text of ``plasticine-run --help``."""

from __future__ import annotations

import textwrap

from plasticine.cli.schema import Schema

__all__ = ["help_text"]

_HEAD = """\
plasticine-run: train agents under non-stationarity, with plasticity methods, and record what happens to them.

usage: plasticine-run [-m] [group=option ...] [key=value ...]

  plasticine-run                                              one run with everything at its default
  plasticine-run method=snp env=continual_dmc -m seed=0-9     ten seeds, in parallel
  plasticine-run -m method=vanilla,snp,[snp,layer_norm] seed=0-4   three variants, five seeds each
  plasticine-run sweep=smoke                                  a saved multirun
  plasticine-run method=snp --cfg job                         print the configuration, run nothing

The same command again skips finished runs and continues the others. Ctrl-C stops at the next safe point.

Groups (group=option; the option in brackets is the default, a level may bring its own network):
"""

_TAIL = """
Keys (key=value; any value that `--cfg job` prints can be set):
  seed=0                     -m seed=0-9 (ten seeds), seed=0-4,7, seed=0-20:5 (0,5,10,15,20)
  study=NAME                 folder and MLflow experiment the runs belong to
  agent.*  method.NAME.*  env.*  network.*    hyper-parameters, e.g. agent.gamma=0.95
  budget=smoke               seconds a run; laptop: minutes; paper: as published
  tracker.uri=URI            an MLflow server; default: mlflow.db in this folder
  compute=gpu  compute.threads=2
  launcher.workers=4         parallel runs; default: as many as cores allow; launcher=debug: none
  runs_dir=PATH              where run folders go

Options:
  -m, --multirun             run every combination of the comma-separated values and ranges
  --cfg job [--resolve]      print the configuration and stop
  --config-dir DIR           a folder with YAML files of your own (DIR/method/mine.yaml: method=mine)
  --info [defaults-tree]     where values come from
  --hydra-help               everything else

Exit codes: 0 all finished, 1 a run failed, 2 the request cannot work, 130 interrupted.
See also: plasticine list (a line about each option, and what goes with what), plasticine --help
"""


def help_text(schema: Schema) -> str:
    """Return the whole help, with the groups and options that are in reach."""
    choices = schema.compose([]).hydra.runtime.choices
    lines = []
    for group in schema.groups():
        default = choices.get(group)
        names = [f"[{name}]" if name == default else name for name in schema.options(group)]
        lines.append(
            textwrap.fill(
                "  ".join(names), 110, initial_indent=f"  {group:<10} ", subsequent_indent=" " * 13,
                break_on_hyphens=False, break_long_words=False,
            )
        )  # fmt: skip
    return _HEAD + "\n".join(lines) + "\n" + _TAIL
