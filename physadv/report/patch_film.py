"""Short film of a patch at work: the clean sign beside the patched one, frame by frame with the
model's answer, in simulation."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from physadv.camera.open_source import open_frame_source
from physadv.check.check_patch import check
from physadv.core.animations import save_gif
from physadv.core.errors import OptionError
from physadv.core.files import write_bytes
from physadv.core.image_io import Array
from physadv.core.model_settings import ModelSettings
from physadv.core.rows import Row
from physadv.core.visible_text import visible_line
from physadv.core.wording import count_noun, format_percent
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.patches.reverify import refuse_foreign_models
from physadv.printing.layout import smallest_paper
from physadv.printing.sheet import write_sheet
from physadv.twin.simulate import simulate_clips

SUFFIXES = (".gif", ".mp4")
FRAMES_A_SECOND = 8
_CAPTION_PX = 40
_SIDES = ("clean", "patch")
_INK, _PAPER, _MET = (235, 238, 242), (24, 30, 37), (240, 140, 60)


@dataclass(frozen=True)
class PatchFilm:
    """A film and what it shows.

    Attributes:
        frames: Pictures (h, w, 3) uint8, clean and patched side by side.
        met: Frames in which the patch met its goal, of those that were judged.
        judged: Frames that were judged.
    """

    frames: Sequence[Array]
    met: int
    judged: int

    def __str__(self) -> str:
        share = f"{self.met} of {count_noun(self.judged, 'frame')}"
        return f"simulation: the goal is met in {share} of this one clip, which supports no claim"


def film_patch(
    bundle: str | Path | PatchBundle,
    *,
    model: str | None = None,
    weights: str | None = None,
    frames: int = 24,
    frame_size: tuple[int, int] = (480, 270),
    seed: int = 0,
    report: Callable[[str], None] = lambda note: None,
) -> PatchFilm:
    """Print and film a patch in simulation, in one approach, and let the model judge each frame.

    Args:
        bundle: The patch: a bundle, its folder or its name.
        model: Model that judges; None for the one that the card names.
        weights: Weights file of the model, where it does not carry its own.
        frames: Frames, 1 or more.
        frame_size: Width and height of one side in px, even.
        seed: Named seed of path, light and camera.
        report: Called with what begins.

    Returns:
        The film.

    Raises:
        BundleError: The bundle cannot be read, or names a model of one's own and ``model`` is None.
        OptionError: A size or number is out of range, or the twin cannot film its object.
        ModelError: The model cannot be loaded.
    """
    patch = bundle if isinstance(bundle, PatchBundle) else read_bundle(bundle)
    if model is None:
        refuse_foreign_models(patch, (patch.card.victim.name,))  # before it is filmed, not after
    with TemporaryDirectory() as folder:
        twin = Path(folder, "twin")
        report("filming (simulation)")
        _simulate(patch, Path(folder), twin, frames, frame_size, seed)
        report("judging")
        given: dict[str, Any] = {} if weights is None else {"weights": weights}
        if model == patch.card.victim.name:
            given |= _recorded_reading(patch)
        rows = check(twin, bundle=patch.folder, model=model, **given).rows
        answers = {(str(row["block"]), int(row["frame"])): row for row in rows}
        with open_frame_source(twin) as source:
            pictures: dict[str, list[tuple[Array, Row | None]]] = {side: [] for side in _SIDES}
            for frame in source:
                if frame.block in pictures:
                    answer = answers.get((str(frame.block), frame.index))
                    pictures[str(frame.block)].append((frame.image, answer))
    judged = [row for _, row in pictures["patch"] if row is not None]
    return PatchFilm(
        list(_composed(pictures)), sum(bool(row["success"]) for row in judged), len(judged)
    )


def _recorded_reading(patch: PatchBundle) -> dict[str, Any]:
    """Return how the patch's own model was read, as the card records it; no file is read."""
    recorded = patch.card.optimisation
    given = {f.name: recorded[f.name] for f in fields(ModelSettings) if f.name in recorded}
    if "," not in str(given.get("classes", ",")):
        del given["classes"]  # It may be the name of a file.
    return given


def write_film(film: PatchFilm, path: str | Path) -> Path:
    """Write ``film`` as an animated GIF or an MP4, by the suffix of ``path``, and return the path.

    Raises:
        OptionError: The suffix is another one.
    """
    file = Path(path)
    assert_film_name(file)
    if file.suffix.lower() == ".gif":
        times = [1000 // FRAMES_A_SECOND] * len(film.frames)
        return save_gif(file, film.frames, milliseconds=times)
    return write_bytes(file, _as_mp4(film.frames))


def assert_film_name(file: Path) -> None:
    """Raise OptionError where the suffix of ``file`` is no film's."""
    if file.suffix.lower() not in SUFFIXES:
        raise OptionError(
            f'--video "{file}"', f"Films are {' or '.join(SUFFIXES)}", "Name it with one of these"
        )


def _simulate(
    patch: PatchBundle, folder: Path, twin: Path, frames: int, size: tuple[int, int], seed: int
) -> None:
    """Film one clip of each block into ``twin``."""
    paper = smallest_paper(patch.card.size.width_mm, patch.card.size.height_mm)
    sheet = folder / "sheet.pdf"
    write_sheet(patch, sheet, paper=paper)
    steps = simulate_clips(
        patch.folder, sheet, twin, clips=1, frames=frames, frame_size=size, seed=seed
    )
    for _ in steps:
        pass


def _composed(pictures: dict[str, list[tuple[Array, Row | None]]]) -> Iterator[Array]:
    """Both sides of each frame with a line of words below."""
    for sides in zip(*(pictures[side] for side in _SIDES), strict=True):
        halves = []
        for name, (picture, row) in zip(_SIDES, sides, strict=True):
            height, width = picture.shape[:2]
            sheet = Image.new("RGB", (width, height + _CAPTION_PX), _PAPER)
            sheet.paste(Image.fromarray(picture), (0, 0))
            words = "not judged"
            if row is not None:
                words = (
                    f"{visible_line(str(row['verdict']))} {format_percent(row['confidence'], 0)}"
                )
            color = _MET if row is not None and row["success"] else _INK
            font: Any = ImageFont.load_default(15)
            ImageDraw.Draw(sheet).text(
                (8, height + 10), f"{name} (simulation): {words}", font=font, fill=color
            )
            halves.append(np.asarray(sheet, np.uint8))
        yield np.concatenate(halves, axis=1)


def _as_mp4(frames: Sequence[Array]) -> bytes:
    """H.264 in MP4, as browsers and phones play it."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=FRAMES_A_SECOND)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return buffer.getvalue()
