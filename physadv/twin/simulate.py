"""Simulation of a printed sticker: from a bundle and its sheet to filmed clips with their truth."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from physadv.core.drawn_streets import drawn_street
from physadv.core.errors import OptionError
from physadv.core.files import sha256_of, write_json
from physadv.core.image_io import Array
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import SignFace, sign_face
from physadv.twin.cameras import (
    CAMERAS,
    EFFECTS,
    FRAME_SIZE,
    VirtualCamera,
    develop_frame,
    leave_out,
)
from physadv.twin.linear_light import U8
from physadv.twin.photo_clips import PhotoClip, PhotoScene
from physadv.twin.printed_sheet import read_sticker
from physadv.twin.recording import SETTINGS, ClipWriter, append_truth, prepare_folder, write_contact
from physadv.twin.sign_clips import BLOCKS, FilmedClip, SignClip, print_out
from physadv.twin.surface import square_side
from physadv.twin.trajectories import AngleLimits
from physadv.twin.virtual_printer import printer_named

SIGN_SHARE = (1 / 16, 11 / 32)
"""Default widths of the sign in widths of the picture, 80 to 440 px of 1280: small detectors lose a
clean sign that is smaller."""


LEAVABLE = ("printer", *EFFECTS)
"""Effects that can be left out of a simulation."""


@dataclass(frozen=True)
class ClipDone:
    """Progress of a simulation after one clip number.

    Attributes:
        number: Clip number, from 0.
        total: Number of clip numbers.
        frames: Frames in each clip.
        camera: Name of the camera.
        files: Video files written.
    """

    number: int
    total: int
    frames: int
    camera: str
    files: tuple[str, ...]


def simulate_clips(
    bundle_folder: str | Path,
    sheet_pdf: str | Path,
    out: str | Path,
    *,
    clips: int = 6,
    frames: int = 24,
    frame_size: tuple[int, int] = FRAME_SIZE,
    seed: int = 0,
    cameras: Sequence[VirtualCamera] = CAMERAS,
    printer: str = "drawn",
    without: Collection[str] = (),
    signs: Sequence[SignFace] | None = None,
    backgrounds: Sequence[Array] | None = None,
    scenes: Sequence[PhotoScene] | None = None,
    distances_m: tuple[float, float] | None = None,
    angles: AngleLimits | None = None,
) -> Iterator[ClipDone]:
    """Film clips of each block (clean, blank, patch) into a folder, yielding after each clip
    number.

    A clip number has one path, light, camera and background for all three blocks. Files are
    clips/<block>-<NN>.avi, truth.jsonl, contact.png and twin.json ("simulation": true). Complete
    clips stay when the caller stops early. Nothing happens before the first ``next``.

    Args:
        bundle_folder: Folder of the bundle.
        sheet_pdf: Printed sheet of the bundle.
        out: Folder to write.
        clips: Clips of each block, 1 to 99.
        frames: Frames of a clip, 1 to 10000.
        frame_size: Width and height of a frame, even, 64 to 8192.
        seed: Seed of all random streams.
        cameras: Cameras, used in turn.
        printer: One of ``virtual_printer.PRINTERS``.
        without: Effects of ``LEAVABLE`` to leave out, so that the influence of each can be
            measured.
        signs: Signs to film before ``backgrounds``; None draws the bundle's, unless ``scenes`` are
            given.
        backgrounds: Pictures (h, w, 3) uint8; None draws synthetic ones.
        scenes: Photos with a sign in them, on which the sticker is composited.
        distances_m: Nearest and farthest distance in m; None makes the sign 1/16 to 11/32 of the
            picture wide.
        angles: Largest angles of the sign.

    Yields:
        The progress after each clip number.

    Raises:
        OptionError: A count, size, distance, angle or name is out of range.
        BundleError: The bundle or the sheet cannot be read.
        GeometryError: The sheet or the mask does not fit the card.

    Example:
        >>> import tempfile
        >>> from physadv.core.package_data import bundle_folder
        >>> bundle = bundle_folder(Path("stop-sticker-signs-v1"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     run = simulate_clips(bundle, bundle / "sheet.pdf", folder, clips=1, frames=2)
        ...     files = [name for clip in run for name in clip.files]
        >>> files
        ['clips/clean-00.avi', 'clips/blank-00.avi', 'clips/patch-00.avi']
    """
    folder, angles = Path(out), angles or AngleLimits()
    _check(clips, frames, frame_size, cameras, distances_m, angles)
    _check_effects(without)

    sticker = read_sticker(bundle_folder, sheet_pdf)
    device = printer_named("ideal" if "printer" in without else printer, seed)
    printed = print_out(sticker, device, seed)
    cameras = [leave_out(camera, without) for camera in cameras]
    prepare_folder(folder)

    sources: list[SignFace | PhotoScene] = [*(scenes or []), *(signs or [])]
    if not sources:
        sources = [sign_face(sticker.sign, 1024, sticker.sign_width_mm)]

    settings = {
        "simulation": True,
        "seed": seed,
        "clips": clips,
        "frames": frames,
        "frame_size": list(frame_size),
        "bundle": str(bundle_folder),
        "bundle_sha256": sticker.sha256,
        "run_id": sticker.run_id,
        "sheet": str(sheet_pdf),
        "sheet_sha256": sha256_of(sheet_pdf),
        "sign": sticker.sign,
        "sign_width_mm": sticker.sign_width_mm,
        "signs": [_name(s) for s in sources],
        "backgrounds": len(backgrounds) if backgrounds else "made by code",
        "distances_m": distances_m,
        "angles_deg": asdict(angles),
        "cameras": [c.as_dict() for c in cameras],
        "printer": {"name": "ideal"} if device is None else device.as_dict(),
        "without": sorted(without),
        "pixels": "origin at the outer corner of the top-left pixel",
        "complete": False,
    }
    write_json(folder / SETTINGS, settings)

    contact_frames: dict[str, list[U8]] = {block: [] for block in BLOCKS}

    for number in range(clips):
        camera, source = cameras[number % len(cameras)], sources[number % len(sources)]
        rng = numpy_generator(seed, "twin", "clip", number)
        clip: FilmedClip
        if isinstance(source, PhotoScene):
            clip = PhotoClip(
                rng,
                source,
                printed,
                camera,
                frames=frames,
                size=frame_size,
                sign_px=(SIGN_SHARE[0] * frame_size[0], SIGN_SHARE[1] * frame_size[0]),
            )
        else:
            scene = _background(backgrounds, seed, number, frame_size)
            reach = _distances(distances_m, square_side(source), camera.focal)
            clip = SignClip(
                rng,
                source,
                scene,
                printed,
                camera,
                frames=frames,
                size=frame_size,
                distances_mm=reach,
                angles=angles,
            )

        files = _film(clip, number, folder, frame_size, seed, contact_frames)
        yield ClipDone(number, clips, frames, camera.name, files)

    write_contact(folder, contact_frames)
    write_json(folder / SETTINGS, {**settings, "complete": True})


def _check_effects(without: Collection[str]) -> None:
    for name in without:
        if name not in LEAVABLE:
            raise OptionError(
                f"effect {name!r}", f"one of {', '.join(LEAVABLE)}", "Choose one of these"
            )


def _film(
    clip: FilmedClip,
    number: int,
    out: Path,
    size: tuple[int, int],
    seed: int,
    contact_frames: dict[str, list[U8]],
) -> tuple[str, ...]:
    """Record one clip number in all blocks; its rows are written once the videos are in place."""
    rows: dict[str, list[dict[str, Any]]] = {block: [] for block in BLOCKS}
    # Every block has its own stream of the same numbers: they differ by the sticker alone.
    noise = {block: numpy_generator(seed, "twin", "noise", number) for block in BLOCKS}
    samples: dict[str, U8] = {}

    with ClipWriter(out, number, BLOCKS, size, clip.camera.jpeg) as writer:
        for index in range(len(clip)):
            pictures, truth = clip.frame(index)
            for block in BLOCKS:
                frame = develop_frame(pictures[block], clip.camera, clip.shot, noise[block])
                writer.write(block, frame)
                if index == (2 * len(clip)) // 3:
                    samples[block] = frame
                head = {
                    "clip": f"{block}-{number:02d}",
                    "block": block,
                    "frame": index,
                    "file": writer.names[block],
                }
                rows[block].append({**head, **truth, "camera": clip.camera.name})

    append_truth(out, [row for block in BLOCKS for row in rows[block]])
    for block, frame in samples.items():
        contact_frames[block].append(frame)
    return tuple(writer.names.values())


def _background(
    backgrounds: Sequence[Array] | None, seed: int, number: int, size: tuple[int, int]
) -> U8:
    """Return a photo in shuffled order, or a synthetic background."""
    if not backgrounds:
        height, width = int(size[1] * 1.2), int(size[0] * 1.2)
        return np.asarray(drawn_street(seed, "twin", number, height=height, width=width), np.uint8)
    order = numpy_generator(seed, "twin", "backgrounds").permutation(len(backgrounds))
    return np.asarray(backgrounds[int(order[number % len(order)])], np.uint8)[..., :3]


def _distances(
    distances_m: tuple[float, float] | None, side_mm: float, focal: float
) -> tuple[float, float]:
    """Return nearest and farthest distance in mm; by default those at which the sign has
    SIGN_SHARE of the picture, whose focal length is ``focal`` widths."""
    if distances_m is not None:
        return distances_m[0] * 1000, distances_m[1] * 1000
    return side_mm * focal / SIGN_SHARE[1], side_mm * focal / SIGN_SHARE[0]


def _name(source: SignFace | PhotoScene) -> str:
    return (
        f"photo {source.name}"
        if isinstance(source, PhotoScene)
        else f"{source.name} {source.width_mm:g} mm"
    )


def _check(
    clips: int,
    frames: int,
    size: tuple[int, int],
    cameras: Sequence[VirtualCamera],
    distances_m: tuple[float, float] | None,
    angles: AngleLimits,
) -> None:
    if not 1 <= clips <= 99:
        raise OptionError(f"{clips} clips", "1 to 99 are allowed", "Choose another --clips")
    if not 1 <= frames <= 10_000:
        raise OptionError(f"{frames} frames", "1 to 10000 are allowed", "Choose another --frames")
    if min(size) < 64 or max(size) > 8192 or size[0] % 2 or size[1] % 2:
        raise OptionError(
            f"frame size {size[0]}x{size[1]}", "even sides from 64 to 8192", "Choose another size"
        )

    if not cameras:
        raise OptionError(
            "no camera", "at least one is needed", "Leave cameras out for the usual ones"
        )
    if distances_m is not None and not 0 < distances_m[0] <= distances_m[1]:
        raise OptionError(f"distances {distances_m}", "0 < nearest <= farthest (m)", "Correct them")
    if not (0 <= angles.yaw <= 75 and 0 <= angles.pitch <= 60 and 0 <= angles.roll <= 180):
        raise OptionError(
            f"angles of yaw {angles.yaw:g}, pitch {angles.pitch:g}, roll {angles.roll:g} degrees",
            "0 to 75, 0 to 60 and 0 to 180 are allowed",
            "Choose smaller angles",
        )
