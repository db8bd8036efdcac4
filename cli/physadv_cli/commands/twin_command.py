"""`physadv twin`: print, stick and film a patch in simulation, with clean and blank controls."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from physadv_cli import options
from physadv_cli.runs import console, finish, open_run

if TYPE_CHECKING:
    from physadv.core.image_io import Array
    from physadv.core.sign_artwork import SignFace
    from physadv.patches.bundle import PatchBundle
    from physadv.twin.photo_clips import PhotoScene


CAMERAS = "phone, webcam, dashcam, old-phone, system-camera, action-cam, cctv, or all"
PRINTERS = (
    "drawn (another machine for each seed), office-laser, office-inkjet, photo-inkjet, "
    "vinyl-latex, poster-offset, "
    "newsprint or ideal."
)
EFFECTS = "printer, distortion, defocus, motion, vignette, noise, bayer, white-balance, tone, sharpening or jpeg"


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command."""
    app.command("twin", rich_help_panel=panel)(film_twin)


def film_twin(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle folder, or a name in patches/.", metavar="BUNDLE")
    ],
    sheet: Annotated[
        Path | None,
        typer.Option(
            "--sheet", help="PDF of `physadv print`. (default: made here, in the run's folder)"
        ),
    ] = None,
    signs: options.Signs = None,
    backgrounds: options.Backgrounds = None,
    clips: Annotated[
        int, typer.Option("--clips", help="Clips of each block: clean, blank, patch.", min=1)
    ] = 6,
    frames: Annotated[int, typer.Option("--frames", help="Frames a clip.", min=1)] = 24,
    distance: Annotated[
        str | None,
        typer.Option(
            "--distance",
            help="Nearest and farthest in m, e.g. 2,12. (default: sign 40-220 px wide)",
        ),
    ] = None,
    camera: Annotated[
        list[str] | None,
        typer.Option("--camera", help=f"{CAMERAS}; repeat it. (default: phone, webcam, dashcam)"),
    ] = None,
    printer: Annotated[str, typer.Option("--printer", help=PRINTERS)] = "drawn",
    without: Annotated[
        list[str] | None, typer.Option("--without", help=f"Leave out {EFFECTS}; repeat it.")
    ] = None,
    seed: options.Seed = 0,
    out: options.Out = None,
    json: options.Json = False,
) -> None:
    """Film the printed patch in simulation: printer, paper, light, path, lens, sensor, JPEG; with
    both controls.

    What `physadv check` measures on these clips is a simulation's figure, and is marked so wherever
    it appears.

    Example: physadv twin runs/stop --clips 12 --out runs/twin

    Example: physadv twin runs/stop --camera all --clips 14 --printer newsprint --without motion
    --out runs/hard
    """
    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle
    from physadv.twin.cameras import CAMERAS as USUAL
    from physadv.twin.cameras import cameras_named
    from physadv.twin.simulate import simulate_clips
    from physadv_cli.progress import bar

    bundle = bundle_folder(bundle)
    patch = read_bundle(bundle)
    filming = cameras_named(camera) if camera else USUAL
    reach = None if distance is None else _meters(distance)
    scenes, faces, notes = _signs(signs, patch) if signs is not None else ([], [], [])
    photos = _backgrounds(backgrounds) if backgrounds is not None else None
    config = {
        "bundle": bundle,
        "sheet": sheet,
        "signs": signs,
        "backgrounds": backgrounds,
        "clips": clips,
        "frames": frames,
        "distance": distance,
        "camera": [c.name for c in filming],
        "printer": printer,
        "without": without or [],
        "seed": seed,
        "simulation": True,
    }
    folder = open_run("twin", out, config)
    sheet = sheet or _sheet(patch, folder)
    for note in notes:
        console.print(f"[dim]{note}[/]")
    done, stopped = 0, False
    with bar() as progress:
        task = progress.add_task("filming (simulation)", total=clips, note="")
        try:
            for clip in simulate_clips(
                bundle,
                sheet,
                folder,
                clips=clips,
                frames=frames,
                seed=seed,
                signs=faces or None,
                backgrounds=photos,
                scenes=scenes or None,
                distances_m=reach,
                cameras=filming,
                printer=printer,
                without=without or (),
            ):
                done = clip.number + 1
                progress.update(task, completed=done, note=clip.camera)
        except KeyboardInterrupt:
            stopped = True
    result = {
        "simulation": True,
        "out": folder,
        "sheet": sheet,
        "clips": done,
        "frames": 3 * done * frames,
        "blocks": ["clean", "blank", "patch"],
        "stopped": stopped,
        "notes": notes,
    }
    summary = f"simulation: {done} clips of each block (clean, blank, patch), {frames} frames each, in {folder}\n"
    finish(
        result, as_json=json, summary=summary + f"next: physadv check {folder} --bundle {bundle}"
    )


def _meters(text: str) -> tuple[float, float]:
    from physadv.core.errors import OptionError

    try:
        near, far = (float(part) for part in text.split(","))
    except ValueError as error:
        raise OptionError(
            f"--distance {text!r}", "two numbers in m are needed", "write --distance 2,12"
        ) from error
    return near, far


def _sheet(patch: PatchBundle, folder: Path) -> Path:
    """The print sheet on the smallest paper that takes the sticker."""
    from physadv.printing.layout import smallest_paper
    from physadv.printing.sheet import write_sheet

    size = patch.card.size
    write_sheet(patch, folder / "sheet.pdf", paper=smallest_paper(size.width_mm, size.height_mm))
    return folder / "sheet.pdf"


def _signs(path: Path, patch: PatchBundle) -> tuple[list[PhotoScene], list[SignFace], list[str]]:
    """Photos with their signs located, or drawings; of photos the patch was optimized on, only the
    held-out ones."""
    from dataclasses import replace

    import cv2
    import numpy as np

    from physadv.core.errors import DataError
    from physadv.core.rows import read_rows
    from physadv.eot.scenes.load import read_signs
    from physadv.twin.photo_clips import PhotoScene

    photos, faces, notes = read_signs(path)
    width = patch.card.placement.sign_width_mm
    if not photos:
        return [], [replace(face, width_mm=width) for face in faces], notes
    large = [p for p in photos if cv2.contourArea(p.corners.astype(np.float32)) >= 256]
    if not large:
        raise DataError(f"{path}", "no sign in it is 16 px wide", "use larger photos")
    rows = patch.folder / "rows.jsonl"
    held_out = {str(row.get("group")) for row in read_rows(rows)} if rows.is_file() else set()
    kept = [p for p in large if p.group in held_out]
    if kept and len(kept) < len(large):
        notes.append(
            f"{len(kept)} photos held out from the patch's making are filmed, "
            f"{len(large) - len(kept)} are not"
        )
    return (
        [PhotoScene(p.image, np.asarray(p.corners, float), p.group) for p in kept or large],
        [],
        notes,
    )


def _backgrounds(folder: Path) -> list[Array]:
    from physadv.core.image_io import list_images, read_rgba

    return [read_rgba(path)[..., :3] for path in list_images(folder)[:200]]
