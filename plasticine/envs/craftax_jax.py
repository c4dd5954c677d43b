"""Getting JAX and Craftax into this process, on the right device and with their caches in a user's folder."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import importlib
import importlib.metadata
import os
import platform
import types
import warnings
from pathlib import Path
from typing import Any

from plasticine.errors import UserError

__all__ = ["cache_folder", "load_textures", "make_simulator", "require_craftax", "require_jax"]

_INSTALL = "pip install 'plasticine[craftax]' (needs Python 3.11 or newer)"
#: Older versions reward differently: the first plant never ripened, death by lava cost health in Classic.
_OLDEST = (1, 6)


def require_craftax() -> dict[str, str]:
    """Return the versions of craftax and jax without importing them.

    Raises:
        UserError: If one is missing, or craftax is older than 1.6 (its rewards differ).
    """
    try:
        found = {name: importlib.metadata.version(name) for name in ("craftax", "jax")}
    except importlib.metadata.PackageNotFoundError as missing:
        raise UserError(f"the Craftax level needs the package {missing.name}", _INSTALL) from missing
    if tuple(int(part) for part in found["craftax"].split(".")[:2]) < _OLDEST:
        raise UserError(
            f"craftax {found['craftax']} is installed; before 1.6 plants never ripened and lava cost reward",
            _INSTALL,
        )
    return found


def cache_folder() -> Path:
    """Create and return the folder for compiled programs and textures.

    It is ``$PLASTICINE_CACHE_DIR``, else ``$XDG_CACHE_HOME/plasticine``, else ``~/.cache/plasticine``.

    Raises:
        UserError: If it cannot be created.
    """
    own = os.environ.get("PLASTICINE_CACHE_DIR")
    folder = Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "plasticine"
    try:
        folder = folder.expanduser().absolute()
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        raise UserError(
            f"the cache folder {folder} cannot be created: {error}", "set PLASTICINE_CACHE_DIR to another one"
        ) from error
    return folder


def _processor() -> str:
    """Short name of the kind of processor, as compiled programs do not run on every other kind."""
    text = platform.machine()
    with contextlib.suppress(OSError):  # systems without /proc are told apart by their architecture only
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        text += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@functools.cache
def require_jax() -> types.ModuleType:
    """Import JAX for the processor, without grabbing accelerator memory, with a cache of compiled programs.

    ``JAX_PLATFORMS`` (e.g. ``cuda``) and ``JAX_COMPILATION_CACHE_DIR``, if set, are respected.
    """
    require_craftax()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    jax = importlib.import_module("jax")
    with warnings.catch_warnings():
        # Asked for the first time in a thread without denormal numbers, it warns that they are missing.
        warnings.filterwarnings("ignore", message="The value of the smallest subnormal")
        jax.numpy.finfo(jax.numpy.float32)
    if jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / f"jax-{_processor()}"))
        # The default of one second would leave out the small programs, which add up.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return jax


def load_textures(constants: Any) -> None:
    """Load the textures through a file of ours: Craftax would write them into site-packages, unlocked."""
    name = Path(constants.TEXTURE_CACHE_FILE).name
    folder = cache_folder()
    if Path(constants.TEXTURE_CACHE_FILE).parent == folder:
        return  # loaded before, for the observations or for pictures
    final = folder / f"{importlib.metadata.version('craftax')}-{name}"
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process draws them (about a minute), the others wait
        if not final.exists():
            partial = final.with_suffix(".partial")
            partial.unlink(missing_ok=True)  # left by a process that was killed
            constants.TEXTURE_CACHE_FILE = str(partial)
            constants.load_all_textures()
            partial.replace(final)
        constants.TEXTURE_CACHE_FILE = str(final)
        constants.load_all_textures()


def make_simulator(name: str) -> Any:
    """Build Craftax's environment `name` (e.g. ``Craftax-Symbolic-v1``) without its automatic resets."""
    require_jax()
    if "Pixels" in name:
        package = "craftax.craftax_classic" if "Classic" in name else "craftax.craftax"
        load_textures(importlib.import_module(f"{package}.constants"))
    return importlib.import_module("craftax.craftax_env").make_craftax_env_from_name(name, auto_reset=False)
