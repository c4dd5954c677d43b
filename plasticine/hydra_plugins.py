"""Our parts of Hydra: where it looks for YAML, how a multirun becomes jobs, and who runs them.

Registered by code when the command starts, so that no `hydra_plugins` namespace package is needed and other
uses of Hydra in the same Python environment are left alone.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from plasticine.errors import UserError
from plasticine.paths import config_dirs, outside_configs

__all__ = ["PlasticineLauncher", "PlasticineSearchPath", "PlasticineSweeper", "register"]

Override = Sequence[str]

#: An override of something inside a method, and the method's name.
_OF_METHOD = re.compile(r"[+~]{0,2}method\.([^.=]+)\.")

#: Hydra instantiates launchers and sweepers only if their module is called like this.
_NAMESPACE = "hydra_plugins.plasticine"


class PlasticineSearchPath(SearchPathPlugin):
    """Adds launchers/, sweeps/ and the YAML folders of other packages to Hydra's search path."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append our folders, then the outside ones in the order of their names."""
        _, launchers, sweeps = config_dirs()
        search_path.append("plasticine-launchers", f"file://{launchers}")
        search_path.append("plasticine-sweeps", f"file://{sweeps}")
        for name, path in outside_configs().items():
            search_path.append(f"plasticine.configs:{name}", path)


class PlasticineSweeper(Sweeper):
    """All values of each line multiplied out, as one batch, without writing a file.

    Args:
        max_batch_size: Not used: all jobs go to the launcher at once.
        params, rows, pairs, unfit, best_of: What a ``sweep=...`` file says. The command line makes lines of it
            (`plasticine.cli.saved`) and sets them.
    """

    #: Set by the command line: overrides whose values are multiplied out together, several times.
    lines: list[list[str]] | None = None

    def __init__(
        self,
        max_batch_size: int | None = None,
        params: Any = None,
        rows: Any = None,
        pairs: Any = None,
        unfit: Any = None,
        best_of: Any = None,
    ) -> None:
        self.launcher: Launcher | None = None
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Make the launcher that the configuration names: ours, or a stock one such as submitit_slurm."""
        self.config, self.hydra_context = config, hydra_context
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Hand all jobs to the launcher and return its results.

        Raises:
            UserError: If a sweep has no values.
        """
        assert self.hydra_context is not None
        assert self.launcher is not None
        assert self.config is not None
        lines = type(self).lines
        if lines is None:
            raise RuntimeError("PlasticineSweeper.lines is not set: start multiruns with plasticine-run")
        loader, master = self.hydra_context.config_loader, self.config
        batch = multiplied(lines, lambda job: set(loader.load_sweep_config(master, list(job))["method"]))
        if not batch:
            raise UserError("this multirun has no jobs", "give every swept key at least one value")
        results = self.launcher.launch(batch, initial_job_idx=0)
        for result in results:  # of a stock launcher; ours returns none
            if result.status == JobStatus.FAILED:
                _ = result.return_value  # raises what the job raised
        return [results]


class PlasticineLauncher(Launcher):
    """Composes all jobs and hands their plain configurations to `take_jobs`, to run outside of Hydra."""

    #: Set by the command line.
    take_jobs: Callable[[list[dict[str, Any]]], None] | None = None

    def __init__(self) -> None:
        self._config: DictConfig | None = None
        self._context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composition needs."""
        self._config, self._context = config, hydra_context

    def launch(self, job_overrides: Sequence[Override], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose all jobs. There are no results yet, so none are returned."""
        assert self._config is not None
        assert self._context is not None
        take_jobs = type(self).take_jobs
        if take_jobs is None:
            raise RuntimeError("PlasticineLauncher.take_jobs is not set: start runs with plasticine-run")
        loader, master = self._context.config_loader, self._config
        take_jobs(compose_jobs(lambda job: loader.load_sweep_config(master, list(job)), job_overrides))
        return []


def multiplied(lines: Sequence[Override], methods: Callable[[Override], set[str]]) -> list[list[str]]:
    """Return the overrides of each job: all combinations of the values of each line.

    Args:
        lines: Overrides, sweeps among them.
        methods: See `relevant`.
    """
    # Imported late: Hydra's plugin scan executes this module again, which would leave us the old class.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    parser = OverridesParser.create()
    batch = [
        job
        for line in lines
        for part in BasicSweeper.split_arguments(parser.parse_overrides(list(line)), None)
        for job in part
    ]
    return relevant(batch, methods)


def relevant(jobs: Sequence[Override], methods: Callable[[Override], set[str]]) -> list[list[str]]:
    """Leave out what is set of a method in the jobs without that method, and then what is there twice.

    Args:
        jobs: Overrides of each job.
        methods: Names of the methods that a job with only these overrides has.
    """
    names: dict[tuple[str, ...], set[str]] = {}
    kept: dict[tuple[str, ...], None] = {}
    for job in jobs:
        of_methods = {item: match[1] for item in job if (match := _OF_METHOD.match(item))}
        if of_methods:
            choice = tuple(item for item in job if item.startswith("method="))
            if choice not in names:
                names[choice] = methods(choice)
            job = [item for item in job if of_methods.get(item, "") in {"", *names[choice]}]
        kept[tuple(job)] = None
    return [list(job) for job in kept]


def compose_jobs(compose: Callable[[Override], DictConfig], jobs: Sequence[Override]) -> list[dict[str, Any]]:
    """Return the plain configuration of each job.

    Composing takes tens of milliseconds and seeds are many, so jobs that differ in nothing but ``seed`` are
    composed once. A configuration that uses ``${seed}`` elsewhere is composed job by job.
    """
    from omegaconf import OmegaConf

    from plasticine.cell import plain

    composed: dict[tuple[str, ...], tuple[dict[str, Any], bool]] = {}
    configs = []
    for job in jobs:
        key = tuple(item for item in job if not item.startswith("seed="))
        seeds = [int(item.partition("=")[2]) for item in job if item.startswith("seed=")]
        if key not in composed or (composed[key][1] and seeds):
            cfg = compose(job)
            ours = OmegaConf.masked_copy(cfg, [str(k) for k in cfg if k != "hydra"])
            uses_seed = "${seed}" in OmegaConf.to_yaml(ours)
            composed[key] = plain(cfg), uses_seed
        config = dict(composed[key][0])
        if seeds:
            config["seed"] = seeds[-1]
        configs.append(config)
    return configs


@dataclass
class _SweeperNode:
    _target_: str = f"{_NAMESPACE}.PlasticineSweeper"
    max_batch_size: int | None = None
    params: Any = None
    rows: Any = None
    pairs: Any = None
    unfit: Any = None
    best_of: Any = None


@dataclass
class _LauncherNode:
    _target_: str = f"{_NAMESPACE}.PlasticineLauncher"


def _alias_module() -> None:
    """Let this module be found as ``hydra_plugins.plasticine``, the only place where Hydra looks."""
    try:
        namespace = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        namespace = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    sys.modules[_NAMESPACE] = sys.modules[__name__]
    namespace.plasticine = sys.modules[__name__]  # type: ignore[attr-defined]


def register() -> None:
    """Make Hydra know the classes of this module. May be called more than once."""
    plugins = Plugins.instance()  # scans for real hydra_plugins packages first
    _alias_module()
    for plugin in (PlasticineSearchPath, PlasticineSweeper, PlasticineLauncher):
        plugin.__module__ = _NAMESPACE
        plugins.register(plugin)
    store = ConfigStore.instance()
    store.store(group="hydra/sweeper", name="plasticine", node=_SweeperNode, provider="plasticine")
    store.store(group="hydra/launcher", name="plasticine", node=_LauncherNode, provider="plasticine")
