"""Folders of the project's own data, patches and charts, in a wheel or in a checkout."""

from __future__ import annotations

from pathlib import Path

from physadv.core.errors import DataError

_PACKAGE = Path(__file__).resolve().parent.parent


def _folder(name: str) -> Path:
    for candidate in (_PACKAGE / "_data" / name, _PACKAGE.parent / name):
        if candidate.is_dir():
            return candidate
    raise DataError(f"{name}/", "not found beside the package", "reinstall physadv")


def patches_dir() -> Path:
    """Return the folder of ready-made patch bundles."""
    return _folder("patches")


def calibration_dir() -> Path:
    """Return the folder of charts and fitted profiles."""
    return _folder("calibration")


def bundle_folder(name: Path) -> Path:
    """Return the folder ``name``, or else that of the ready-made bundle of this name."""
    own = patches_dir() / name.name
    return own if not name.exists() and len(name.parts) == 1 and own.is_dir() else name


def ready_made_bundles() -> list[str]:
    """Return the names of the ready-made patch bundles.

    Example:
        >>> "stop-sticker-signs-v1" in ready_made_bundles()
        True
    """
    return sorted(card.parent.name for card in patches_dir().glob("*/card.toml"))
