"""Zip archives of torch: what they state they hold against what they hold."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

from physadv.core.errors import ModelError

_MOST_TEXT = 64 << 20
"""Bytes by which members may exceed the archive: torch compresses the source of TorchScript alone,
and stores tensors as they are."""


def assert_holds_its_members(source: Path | io.BytesIO, *, name: str = "") -> None:
    """Refuse an archive of torch whose members would take far more memory than the archive itself.

    Args:
        source: The archive, as a file or in memory.
        name: What an error calls it; the path where empty.

    Raises:
        ModelError: The archive is damaged, or its members state more bytes than it has.
    """
    size = source.stat().st_size if isinstance(source, Path) else source.seek(0, os.SEEK_END)
    try:
        with zipfile.ZipFile(source) as archive:
            stated = sum(member.file_size for member in archive.infolist())
    except Exception as error:  # zipfile raises several kinds for a damaged archive
        reason = str(error) or type(error).__name__
        raise ModelError(
            name or f"{source}", f"damaged or not a torch file ({reason})", "Fetch it anew"
        ) from error
    if stated > size + _MOST_TEXT:
        raise ModelError(
            name or f"{source}",
            f"an archive of {size} bytes states {stated} bytes of members, which torch does not "
            "write",
            "Fetch it anew, or save it anew with torch",
        )
