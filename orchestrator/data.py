"""Finds the files that ship with the package: templates and configuration.

A wheel carries them inside the package; a checkout and an editable install have them beside it.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped(name: str) -> Path:
    """Path of a shipped folder ("slurm_templates", "config"): in a wheel, a checkout or an editable install."""
    for base in (_PACKAGE / "_data", _PACKAGE.parent):
        if (base / name).is_dir():
            return base / name
    raise FileNotFoundError(f"{name}: not shipped with {_PACKAGE}; the installation is incomplete.")
