"""The door from Python: the same composition as the command line, for notebooks and tests."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticine.cell import plain, register_resolvers
from plasticine.errors import UserError
from plasticine.hydra_plugins import register
from plasticine.paths import config_dirs

if TYPE_CHECKING:
    from plasticine.core.trainer import Trainer

__all__ = ["configure", "make"]


def configure(*overrides: str, config_dir: str | Path | None = None) -> dict[str, Any]:
    """Compose a run as ``plasticine-run`` would and return its plain configuration.

    Args:
        overrides: As on the command line: ``"method=[snp,layer_norm]"``, ``"agent.gamma=0.9"``.
        config_dir: A further folder with YAML groups of your own.

    Raises:
        hydra.errors.HydraException: The overrides do not compose.
    """
    from hydra import compose, initialize_config_dir

    register()
    register_resolvers()
    own = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir is not None else []
    with initialize_config_dir(str(config_dirs()[0]), version_base="1.3"):
        return plain(compose("run", overrides=[*own, *overrides]))


def make(*overrides: str, config_dir: str | Path | None = None) -> Trainer:
    """Build a trainer that keeps its record in memory and writes nothing: ``make("env=classic").fit()``.

    Raises:
        plasticine.errors.UserError: The configuration cannot work.
    """
    from plasticine.compose import build_trainer
    from plasticine.core.tracker import NullTracker

    config = configure(*overrides, config_dir=config_dir)
    try:
        return build_trainer(
            config, tracker=NullTracker(), checkpoints=None, stop=threading.Event(), progress=_silent
        )
    except UserError as error:
        from plasticine.cli.advice import advise
        from plasticine.cli.schema import Schema

        raise advise(error, [config], Schema(config_dir=str(config_dir) if config_dir else None)) from error


def _silent(facts: dict[str, Any]) -> None:
    pass
