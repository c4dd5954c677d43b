"""Hydra's and OmegaConf's exceptions as one sentence a person can act on."""

from __future__ import annotations

import yaml
from hydra.errors import HydraException, MissingConfigException
from omegaconf.errors import OmegaConfBaseException

from plasticine.errors import UserError

__all__ = ["explain"]


def explain(error: BaseException) -> UserError | None:
    """Return what an exception means for the user, or None if it is a defect of the program."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    for item in chain:
        if isinstance(item, UserError):
            return item
    for item in chain:
        if isinstance(item, yaml.YAMLError):
            return UserError(f"a YAML file cannot be read: {' '.join(str(item).split())}", "correct the file")
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    return _composition(error, chain)


def _composition(error: BaseException, chain: list[BaseException]) -> UserError:
    text = str(error)
    if isinstance(error, MissingConfigException):
        noise = ("earch path", "provider=")
        kept = [line for line in text.splitlines() if line and not any(word in line for word in noise)]
        return UserError(" ".join(kept), "see `plasticine-run --help` for what is available")
    sentences = [" ".join(str(item).split()) for item in chain if str(item) not in ("", "None")]
    what = "; ".join(dict.fromkeys(sentences)) or type(error).__name__
    return UserError(what, "`--cfg job` shows the configuration")
