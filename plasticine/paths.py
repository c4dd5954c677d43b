"""Where the YAML files are: next to the source in a checkout, inside the package once it is installed."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path

from plasticine.errors import UserError

__all__ = ["ENTRY_POINT_GROUP", "config_dirs", "config_root", "outside_configs"]

#: Other packages announce their YAML files here:
#: ``[project.entry-points."plasticine.configs"]`` with a line ``mylab = "mylab.conf"``.
ENTRY_POINT_GROUP = "plasticine.configs"

_PACKAGE = Path(__file__).resolve().parent


def config_root() -> Path:
    """Return the folder that holds ``conf``, ``launchers`` and ``sweeps``.

    Raises:
        UserError: If the installation has none (a broken wheel, or a copied source folder).
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        if (root / "conf" / "run.yaml").is_file():
            return root
    raise UserError(
        f"no conf/run.yaml in {_PACKAGE / '_data'} or {_PACKAGE.parent}",
        "reinstall plasticine (pip install --force-reinstall plasticine, or pip install -e . in a checkout)",
    )


def config_dirs() -> tuple[Path, Path, Path]:
    """Return the folders ``conf`` (which holds run.yaml), ``launchers`` and ``sweeps``."""
    root = config_root()
    return root / "conf", root / "launchers", root / "sweeps"


def outside_configs() -> dict[str, str]:
    """Return ``{name: hydra search path}`` of the YAML folders that other installed packages announce."""
    found = {entry.name: entry.value for entry in entry_points(group=ENTRY_POINT_GROUP)}
    return {name: f"pkg://{value}" for name, value in sorted(found.items())}
