"""Reading of a check's folder: rows, settings and example frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physadv.check.folder import ROWS, SETTINGS
from physadv.check.stopping_rule import check_width
from physadv.core.animations import webp_uri
from physadv.core.errors import DataError
from physadv.core.image_io import read_image, to_uint8
from physadv.core.members import member_of
from physadv.core.rows import Row, read_rows
from physadv.core.tables import read_table, read_table_list
from physadv.report.design import member_uri

_FRAME_MS = 700


def read_check(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Return the rows and settings of the check in ``folder``.

    Raises:
        DataError: The folder holds no check, or a row lacks a field.
    """
    settings_file, rows_file = member_of(folder, SETTINGS), member_of(folder, ROWS)
    if not settings_file.is_file():
        raise DataError(
            f"{folder}", f"holds no {SETTINGS}", "Name the folder of a `physadv check` run"
        )
    settings = read_table(settings_file, remedy="run the check again", finite=False)
    check_width(settings.get("width") or None)
    rows = list(read_rows(rows_file)) if rows_file.is_file() else []
    for number, row in enumerate(rows, 1):
        lacking = {"clip", "block", "verdict", "true", "success"} - row.keys()
        if lacking:
            raise DataError(
                f"{folder / ROWS}:{number}",
                f"has no {', '.join(sorted(lacking))}",
                "Run the check again",
            )
    return rows, settings


def read_example_frames(folder: Path) -> list[dict[str, Any]]:
    """Return the example frames in ``folder`` with their pictures as data URIs under ``uri``;
    none where there is no index.

    Raises:
        DataError: The index names a file outside of ``folder``, or one that is no picture.
    """
    index = member_of(folder, "index.json")
    if not index.is_file():
        return []
    shots = [
        {**shot, "uri": member_uri(folder, shot.get("file"))} for shot in read_table_list(index)
    ]
    return [shot for shot in shots if shot["uri"]]


def moving_frames(folder: Path, shots: Sequence[Mapping[str, Any]]) -> str:
    """Return example frames of ``folder`` one after the other, as an animation's data URI; empty
    where there are fewer than two, or their sizes differ.

    Args:
        folder: Folder of the example frames.
        shots: Rows of :func:`read_example_frames`.

    Raises:
        ImageError: A file is no picture.
    """
    frames = [to_uint8(read_image(member_of(folder, shot["file"]))) for shot in shots]
    if len(frames) < 2 or len({frame.shape for frame in frames}) > 1:
        return ""
    return webp_uri(frames, milliseconds=_FRAME_MS)
