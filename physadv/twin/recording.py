"""Output of a simulation: motion-JPEG clips, truth rows, settings and a contact sheet."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import cv2
import numpy as np

from physadv.core.errors import CaptureError, DataError, OptionError
from physadv.core.files import atomic_path, make_folder, remove_file
from physadv.core.image_io import save_png
from physadv.core.rows import append_rows
from physadv.core.tables import read_table
from physadv.core.utf8_paths import utf8_path
from physadv.twin.linear_light import U8

TRUTH, SETTINGS, CONTACT = "truth.jsonl", "twin.json", "contact.png"
FPS = 12.0


class ClipWriter:
    """Writer of one clip number's motion-JPEG videos, moved into place together on success and
    removed on failure.

    Args:
        folder: Folder of the run.
        number: Clip number.
        blocks: Blocks, one video each.
        size: Width and height of a frame.
        quality: JPEG quality, 1 to 100.
    """

    def __init__(
        self, folder: Path, number: int, blocks: Iterable[str], size: tuple[int, int], quality: int
    ) -> None:
        self.names = {block: f"clips/{block}-{number:02d}.avi" for block in blocks}
        self._folder, self._size, self._quality = folder, size, quality
        self._stack = ExitStack()
        self._writers: dict[str, cv2.VideoWriter] = {}

    def __enter__(self) -> ClipWriter:
        with ExitStack() as opening:
            for block, name in self.names.items():
                temporary = opening.enter_context(atomic_path(self._folder / name))
                code = cv2.VideoWriter.fourcc(*"MJPG")

                folder = opening.enter_context(utf8_path(temporary.parent))
                writer = cv2.VideoWriter(
                    str(folder / temporary.name), cv2.CAP_OPENCV_MJPEG, code, FPS, self._size
                )
                opening.push(partial(_release, writer, temporary, self._folder / name))
                if not writer.isOpened():
                    raise CaptureError(
                        f"{self._folder / name}",
                        "cannot write motion JPEG",
                        "Reinstall opencv-python",
                    )
                writer.set(cv2.VIDEOWRITER_PROP_QUALITY, float(self._quality))
                self._writers[block] = writer
            self._stack = opening.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def write(self, block: str, frame: U8) -> None:
        """Append one ``frame`` (h, w, 3) uint8 RGB to the video of ``block``."""
        self._writers[block].write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))


def _release(
    writer: cv2.VideoWriter,
    temporary: Path,
    file: Path,
    kind: type[BaseException] | None,
    error: BaseException | None,
    trace: TracebackType | None,
) -> None:
    """End the video of ``writer`` in ``temporary``, which becomes ``file``.

    OpenCV does not tell where the disk was full: the length that the file states is compared.

    Raises:
        OSError: A part of it is missing, and no other ``error`` is under way.
    """
    writer.release()
    if error is not None:
        return
    size = temporary.stat().st_size
    with temporary.open("rb") as stream:
        stated = int.from_bytes(stream.read(8)[4:], "little")
    if stated + 8 != size:
        raise OSError(errno.EIO, "The video could not be written whole", str(file))


def prepare_folder(out: Path) -> None:
    """Create the folder ``out``, or remove the files of an earlier simulation from it.

    Raises:
        OptionError: The folder holds files of something else.
    """
    if (out / TRUTH).exists() or (out / SETTINGS).exists():
        if not _is_ours(out):
            raise OptionError(f"{out}", "holds other rows already", "Name a new folder with --out")
        for clip in (out / "clips").glob("*-[0-9][0-9].avi"):
            remove_file(clip)
        for name in (TRUTH, SETTINGS, CONTACT):
            remove_file(out / name)
    make_folder(out / "clips")


def append_truth(out: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Append ``rows`` to truth.jsonl in ``out`` and force them to disk."""
    append_rows(out / TRUTH, (dict(row) for row in rows))


def write_contact(out: Path, picked: Mapping[str, list[U8]]) -> Path:
    """Write a contact sheet: one row per block, one column per clip, labeled "simulation".

    Args:
        out: Folder of the run.
        picked: One frame of each clip, by block.

    Returns:
        The file.
    """
    rows, width = [], 320
    for block, frames in picked.items():
        shrunk = [
            cv2.resize(
                f, (width, round(width * f.shape[0] / f.shape[1])), interpolation=cv2.INTER_AREA
            )
            for f in frames
        ]

        row = np.hstack(shrunk)
        rows.append(_label(row, f"{block} (simulation)"))
    return save_png(out / CONTACT, np.vstack(rows))


def _label(picture: U8, text: str) -> U8:
    bar = np.full((26, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 1, cv2.LINE_AA)
    return np.vstack([bar, picture])


def _is_ours(out: Path) -> bool:
    """Whether twin.json marks the folder as a simulation's."""
    try:
        return bool(read_table(out / SETTINGS, finite=False).get("simulation"))
    except (OSError, DataError):
        return False
