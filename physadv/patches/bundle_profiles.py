"""Printer and camera profiles of a bundle: copies that stay with it, and checksums on its card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from physadv.core.errors import BundleError
from physadv.core.files import atomic_path, sha256_of

PROFILES = ("profile", "camera_profile")
"""Fields that name a profile; the bundle keeps a copy of each as <field>.json."""


def profile_checksums(settings: Mapping[str, object]) -> dict[str, str]:
    """Return the sha256 of every profile named in ``settings``, as <field>_sha256."""
    paths = {name: settings.get(name) for name in PROFILES}
    return {f"{name}_sha256": sha256_of(str(path)) for name, path in paths.items() if path}


def keep_profiles(settings: Mapping[str, object], folder: Path) -> None:
    """Copy the profiles named in ``settings`` into the bundle's ``folder``.

    The bundle can then be measured again wherever it goes.
    """
    for name in PROFILES:
        source = settings.get(name)
        target = folder / f"{name}.json"
        if source and Path(str(source)).resolve() != target.resolve():
            with atomic_path(target) as temporary:
                shutil.copyfile(str(source), temporary)


def check_profiles(
    settings: Mapping[str, object], card: Mapping[str, object], bundle: Path
) -> None:
    """Check that profiles are those that a bundle was measured with.

    Args:
        settings: Fields that name the profiles to use.
        card: Settings on the card, with the recorded checksums.
        bundle: Folder of the bundle, for errors.

    Raises:
        BundleError: A profile has another checksum than the card records.
    """
    for key, actual in profile_checksums(settings).items():
        recorded = card.get(key)
        if recorded and recorded != actual:
            name = key.removesuffix("_sha256")
            raise BundleError(
                f'In "{bundle}" the {name} has sha256 {actual[:12]}',
                f"The card records {str(recorded)[:12]}",
                "Restore the profile that it was made with, or make the patch again",
            )
