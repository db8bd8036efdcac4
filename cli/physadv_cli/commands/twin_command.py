"""``physadv twin``: print, stick and film a patch in simulation, with clean and blank controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from physadv.core.visible_text import visible_line
from physadv.core.wording import count_noun
from physadv.twin.config import TwinConfig
from physadv_cli.configured import from_config
from physadv_cli.runs import RunOptions, console, print_unused

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from physadv.core.image_io import Array
    from physadv.core.sign_artwork import SignFace
    from physadv.patches.bundle import PatchBundle
    from physadv.twin.photo_clips import PhotoScene
    from physadv.twin.simulate import ClipDone


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command(
        "twin",
        short_help="Film the printed patch in simulation, with clean and blank controls.",
        rich_help_panel=panel,
    )(from_config(film_twin, TwinConfig, threads=None))


def film_twin(config: TwinConfig, run: RunOptions) -> None:
    """Film the printed patch in simulation: printer, paper, light, path, lens, sensor and JPEG.

    Each clip is filmed three times, with the clean sign, a blank sticker and the patch. What
    `physadv check` measures on these clips is a simulation's figure and is marked so wherever it
    appears.

    Example: physadv twin runs/stop --clips 12 --out runs/twin

    Example: physadv twin runs/stop --camera all --clips 14 --printer newsprint --without motion
    --out runs/hard
    """
    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle

    patch = read_bundle(bundle_folder(Path(config.bundle)))
    simulation = _prepare(config, patch)
    folder = run.open_folder(config)
    sheet = _sheet(patch, folder) if config.sheet is None else Path(config.sheet)
    for note in simulation["notes"]:
        console.print(visible_line(note), style="dim")

    clips, stopped = _film(config, simulation, patch, sheet, folder)
    result = {
        "simulation": True,
        "out": folder,
        "sheet": sheet,
        "clips": clips,
        "frames": 3 * clips * config.frames,
        "blocks": ["clean", "blank", "patch"],
        "stopped": stopped,
        "notes": simulation["notes"],
    }
    run.finish(
        result,
        f"simulation: {count_noun(clips, 'clip')} of each block (clean, blank, patch), "
        f"{count_noun(config.frames, 'frame')} each, in {folder}\n"
        f"next: physadv check {folder} --bundle {config.bundle}"
        f"{_model_to_name(patch)}",
    )


def _model_to_name(patch: PatchBundle) -> str:
    """The option that `check` needs for a model that no bundle may name: never the card's own
    text, which would have its reader run what a stranger wrote there."""
    from physadv.models.load import is_built_in

    return "" if is_built_in(patch.card.victim.name) else " --model YOUR-MODEL"


def _prepare(config: TwinConfig, patch: PatchBundle) -> dict[str, Any]:
    """Scenes, faces, backgrounds, cameras and notes, before anything is written."""
    from physadv.twin.cameras import cameras_named

    scenes, faces, notes = _signs(config.signs, patch) if config.signs else ([], [], [])
    if scenes:
        why = "the photos of --signs are filmed as they are"
        print_unused(config.unused_options(dict.fromkeys(("backgrounds", "distances"), why)))
    return {
        "scenes": scenes,
        "signs": faces,
        "backgrounds": _backgrounds(Path(config.backgrounds)) if config.backgrounds else None,
        "cameras": cameras_named(config.camera),
        "notes": notes,
    }


def _film(
    config: TwinConfig, simulation: dict[str, Any], patch: PatchBundle, sheet: Path, folder: Path
) -> tuple[int, bool]:
    """Film with progress; the number of clips that are complete, and whether Ctrl-C ended it."""
    from physadv.twin.simulate import simulate_clips
    from physadv_cli.progress import bar

    steps: Iterator[ClipDone] = simulate_clips(
        patch.folder,
        sheet,
        folder,
        clips=config.clips,
        frames=config.frames,
        frame_size=config.frame_size,
        seed=config.seed,
        signs=simulation["signs"] or None,
        backgrounds=simulation["backgrounds"],
        scenes=simulation["scenes"] or None,
        distances_m=config.distances,
        cameras=simulation["cameras"],
        printer=config.printer,
        without=config.without,
    )
    complete = 0
    with bar() as progress:
        task = progress.add_task("filming (simulation)", total=config.clips)
        try:
            for clip in steps:
                complete = clip.number + 1
                progress.update(task, completed=complete, note=clip.camera)
        except KeyboardInterrupt:
            return complete, True
    return complete, False


def _sheet(patch: PatchBundle, folder: Path) -> Path:
    """The print sheet, written to ``folder``, on the smallest paper that takes the sticker."""
    from physadv.printing.layout import smallest_paper
    from physadv.printing.sheet import write_sheet

    size = patch.card.size
    write_sheet(patch, folder / "sheet.pdf", paper=smallest_paper(size.width_mm, size.height_mm))
    return folder / "sheet.pdf"


def _signs(
    folders: Sequence[str], patch: PatchBundle
) -> tuple[list[PhotoScene], list[SignFace], list[str]]:
    """Photos with their signs located, or drawings; and notes on what is filmed.

    Of photos with which the patch was optimized, only the held-out ones are filmed.
    """
    from dataclasses import replace

    import cv2
    import numpy as np

    from physadv.core.errors import DataError
    from physadv.core.rows import read_rows
    from physadv.core.stop_signs import STOP_NAMES
    from physadv.eot.scenes.load import read_sign_folders
    from physadv.twin.photo_clips import PhotoScene, worn_square

    photos, faces, notes = read_sign_folders(folders)
    width = patch.card.placement.sign_width_mm
    if not photos:
        return [], [replace(face, width_mm=width) for face in faces], notes

    large = [p for p in photos if cv2.contourArea(p.corners.astype(np.float32)) >= 256]
    if not large:
        raise DataError(", ".join(folders), "no sign in it is 16 px wide", "Use larger photos")

    rows = patch.folder / "rows.jsonl"
    groups = {str(row.get("group")) for row in read_rows(rows)} if rows.is_file() else set()
    groups |= {group.partition("/")[2] for group in groups}  # of several folders each led its own
    held_out = [p for p in large if p.group in groups]
    if held_out and len(held_out) < len(large):
        notes.append(
            f"filmed: {count_noun(len(held_out), 'photo')} held out from the patch's "
            f"optimization, not the other {len(large) - len(held_out)}"
        )
    placement = patch.card.placement
    scenes = []
    for photo in held_out or large:
        corners = np.asarray(photo.corners, float)
        if placement.sign in STOP_NAMES:
            scenes.append(PhotoScene(photo.image, corners, photo.group))
        else:
            square = worn_square(corners, placement.sign)
            scenes.append(PhotoScene(photo.image, square, photo.group, seen=corners))
    return scenes, [], notes


def _backgrounds(folder: Path) -> list[Array]:
    from physadv.core.image_io import list_images, read_rgb

    return [read_rgb(path) for path in list_images(folder)[:200]]
