"""The code of queued runs: a copy from the moment of submission, so that later edits do not change them."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import site
import sysconfig
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

__all__ = ["source_roots", "take"]

_SKIPPED = frozenset(
    {"__pycache__", ".git", ".venv", "venv", "node_modules", "runs", "mlruns", "mlartifacts"}
)
_LARGEST = 16_000_000  # bytes of a file that can still be source


def source_roots(configs: Iterable[Mapping[str, Any]]) -> dict[str, Path]:
    """Return ``{top-level module: its file or folder}`` of what the runs' targets name and pip did not install.

    Plasticine itself is always in it. Modules in site-packages stay where they are: environments are changed by
    installing, which is a decision; source folders are changed by saving a file.
    """
    names = {"plasticine"}
    for config in configs:
        names.update(target.partition(".")[0] for target in _targets(config))
    installed = [Path(path).resolve() for path in (*site.getsitepackages(), sysconfig.get_path("stdlib"))]
    found = {}
    for name in sorted(names):
        spec = importlib.util.find_spec(name)
        if spec is None:
            continue  # the check has already refused a target that does not exist
        folders = list(spec.submodule_search_locations or [])
        path = Path(folders[0] if folders else spec.origin or "").resolve()
        if name == "plasticine" or not any(path.is_relative_to(folder) for folder in installed):
            found[name] = path
    return found


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def take(roots: Mapping[str, Path], folder: Path) -> Path:
    """Copy modules into ``folder/<hash of their content>`` and return it; the same content is copied once.

    Raises:
        OSError: The folder cannot be written.
    """
    files = sorted((name, path, relative) for name, root in roots.items() for path, relative in _files(root))
    digest = hashlib.sha1()
    for name, path, relative in files:
        digest.update(f"{name}/{relative}\0".encode())
        digest.update(path.read_bytes())
    target = folder / digest.hexdigest()[:16]
    if target.is_dir():
        return target
    partial = folder / f".{target.name}.{os.getpid()}"
    try:
        for name, path, relative in files:
            copy = partial / (name if relative else path.name) / relative
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, copy)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    try:
        partial.rename(target)
    except OSError:
        if not target.is_dir():
            raise
        shutil.rmtree(partial)  # another submitter was faster
    return target


def _files(root: Path) -> Iterator[tuple[Path, str]]:
    if root.is_file():
        yield root, ""
        return
    for parent, folders, names in os.walk(root):
        folders[:] = sorted(name for name in folders if name not in _SKIPPED)
        for name in sorted(names):
            path = Path(parent, name)
            if not name.endswith(".pyc") and path.is_file() and path.stat().st_size <= _LARGEST:
                yield path, path.relative_to(root).as_posix()
