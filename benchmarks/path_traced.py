"""A patch in path-traced frames, by distance, angle and light.

    python benchmarks/path_traced.py stop-sticker-signs-v1 --model signs --faces stop-drawings
    python benchmarks/path_traced.py table

Needs `pip install 'physadv[benchmarks]'` (Mitsuba 3). Each pose (a distance, an angle, a kind of
light) is traced once and kept in --cache; every face, clean, with a blank sticker and with the patch,
is then laid into its light exactly and photographed by the cameras of path_traced_camera.py, which
share no code with the twin. The blocks of a pose share path, light and noise, so they are compared
pose by pose. Rows that exist are not measured again: kill it at any moment.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from path_traced_camera import DEVICES, F32, U8, Camera
from path_traced_poses import BINS, FOCAL, LIGHTS, YAWS, all_poses

from physadv.camera.localization.boxes import box_of, crop_square, resize_box, square_around
from physadv.check.frame_verdict import VerdictRule, frame_verdicts, verdict_rule
from physadv.check.run_check import MARGIN
from physadv.core.image_io import save_png, to_tensor
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, append_rows, drop_torn_row, read_rows
from physadv.core.sign_artwork import SignFace, sign_face
from physadv.defenses.load_model import load_model
from physadv.eot.scenes.load import read_signs
from physadv.evaluation.metrics.intervals import clustered_interval, paired_difference
from physadv.models.cards import LoadedModel
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.twin.linear_light import srgb_to_light

if TYPE_CHECKING:
    from path_traced_scene import TracedPose

ROWS = Path(__file__).with_suffix(".jsonl")
BLOCKS = ("clean", "blank", "patch")
TEXELS = 2048

Photograph = Callable[[F32], U8]


def reflectances(face: SignFace, bundle: PatchBundle) -> dict[str, F32]:
    """Return the sign of each block, premultiplied RGBA (n, n, 4) of linear reflectances.

    Sheeting reflects 2 to 85 % and the print 3.5 to 88 %, the blank sticker like the print's white.
    """
    size = (TEXELS, TEXELS)
    rgba = cv2.resize(face.rgba, size, interpolation=cv2.INTER_AREA)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    color = 0.02 + 0.83 * srgb_to_light(rgba[..., :3] / 255.0)
    clean = np.concatenate([color * alpha, alpha], 2).astype(np.float32)

    card = bundle.card
    per_mm = TEXELS / card.placement.sign_width_mm
    width, height = round(card.size.width_mm * per_mm), round(card.size.height_mm * per_mm)
    picture = bundle.patch[0].permute(1, 2, 0).numpy()
    patch = cv2.resize(picture, (width, height), interpolation=cv2.INTER_LINEAR)
    mask = cv2.resize(bundle.mask[0, 0].numpy(), (width, height), interpolation=cv2.INTER_LINEAR)
    left, top = (
        round(TEXELS / 2 + middle * per_mm - side / 2)
        for middle, side in zip(card.placement.center_mm, (width, height), strict=True)
    )
    place = np.s_[top : top + height, left : left + width]

    blocks = {"clean": clean}
    for block, encoded in (("blank", np.ones_like(patch)), ("patch", patch)):
        printed = np.dstack([0.035 + 0.845 * srgb_to_light(encoded), np.ones((height, width))])
        sign = clean.copy()
        sign[place] = sign[place] * (1 - mask[..., None]) + printed * mask[..., None]
        blocks[block] = sign
    return blocks


def rule_of(bundle: PatchBundle, model: LoadedModel, true_class: str | None) -> VerdictRule:
    """Return what counts as success: the bundle's goal, on the model's own class of the sign."""
    about = bundle.card.patch
    names = [true_class] if true_class else [about.true_class, "stop sign", "stop"]
    known = next((n for n in names if n in model.card.classes), names[0])
    target = about.target_class if about.goal == "targeted" else None
    return verdict_rule(model.card, goal=about.goal, true_class=known, target_class=target or None)


def judge(model: LoadedModel, rule: VerdictRule, frame: U8, corners: Any) -> dict[str, Any]:
    """Return the verdict on one frame: a detector sees all of it, a classifier the sign's square."""
    box = box_of(corners)
    pixels = frame
    if model.card.task != "detect":
        pixels = crop_square(frame, *square_around(box, MARGIN))
        if model.card.resizing is not None:
            height, width = model.card.resizing.uncropped_size
            pixels = resize_box(pixels, width, height)
    with torch.no_grad():
        prediction = model(to_tensor(pixels)[None])
    verdict = frame_verdicts(prediction, [box], rule)[0]
    return {
        "verdict": verdict.verdict,
        "true_score": verdict.true_score,
        "true": verdict.true,
        "success": verdict.success,
    }


def traced_camera(scene: TracedPose, name: str, sign_mm: float) -> tuple[Photograph, Any]:
    """Return how a device of path_traced_camera.py photographs a pose, and the sign's corners."""
    pose = scene.pose
    device = next(device for device in DEVICES if device.name == name)
    camera = Camera(
        device,
        scene.around,
        scene.on_plane,
        pose.homography,
        sign_mm=sign_mm,
        distance_m=pose.distance_m,
        focal=FOCAL,
        lux=LIGHTS[pose.light],
        seed=numpy_generator(0, "path traced", "camera", name, pose.number),
    )
    return camera.photograph, camera.corners()


ARMS = {"tracer": traced_camera}


def measure(options: argparse.Namespace) -> None:
    """Photograph and judge every pose that has no row yet."""
    from path_traced_scene import traced  # needs Mitsuba, which the table does not

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    bundle = read_bundle(options.bundle)
    model = load_model(options.model, weights=options.weights)
    rule = rule_of(bundle, model, options.true_class)
    sign_mm = bundle.card.placement.sign_width_mm

    faces = [sign_face(bundle.card.placement.sign, TEXELS)]
    if options.faces:
        faces += read_signs(options.faces)[1]
    blocks = {face.name: reflectances(face, bundle) for face in faces}

    about = {"bundle": bundle.card.patch.name, "run_id": bundle.card.patch.run_id}
    about["model"] = model.card.name
    done = set()
    if options.rows.is_file():
        drop_torn_row(options.rows)
        done = {_key(row) for row in read_rows(options.rows)}

    for scene in traced(all_poses(sign_mm, options.each), sign_mm, options.cache):
        pose = scene.pose
        for arm, photographer in ARMS.items():
            for device in DEVICES:
                where = {**about, "arm": arm, "camera": device.name, "pose": pose.number}
                waiting = [name for name in blocks if _key({**where, "face": name}) not in done]
                if not waiting:
                    continue
                photograph, corners = photographer(scene, device.name, sign_mm)
                for name in waiting:
                    row: Row = {**where, "face": name, "distance_m": round(pose.distance_m, 3)}
                    row |= {"yaw_deg": round(pose.yaw_deg, 1), "light": pose.light}
                    row["sign_px"] = round(float(np.ptp(corners[:, 1])), 1)
                    for block in BLOCKS:
                        frame = photograph(blocks[name][block])
                        row[block] = judge(model, rule, frame, corners)
                        if options.pictures:
                            file = f"{pose.number:03d}-{arm}-{device.name}-{name}-{block}.png"
                            save_png(options.pictures / file, frame)
                    append_rows(options.rows, [row])
        print(f"pose {pose.number}", flush=True)
    table(list(read_rows(options.rows)))


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(
        row[name] for name in ("bundle", "run_id", "model", "arm", "camera", "pose", "face")
    )


def table(rows: Sequence[Row]) -> None:
    """Print success by bundle, model and arm: all frames, then by distance, angle, light, face."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["bundle"], row["model"], row["arm"]), []).append(row)

    print("| bundle | model | frames of | bin | clean | blank | patch | patch less blank | poses |")
    print("|---" * 9 + "|")
    for (bundle, model, arm), mine in groups.items():
        for name, part in _bins(mine).items():
            cells = [_rate(part, block) for block in BLOCKS]
            poses = [row["pose"] for row in part]
            gain = paired_difference(
                [row["blank"]["success"] for row in part],
                [row["patch"]["success"] for row in part],
                poses,
            )
            cells += [str(gain), f"{len(set(poses))}"]
            print("| " + " | ".join([bundle, model, arm, name, *cells]) + " |", flush=True)


def _bins(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Split rows by each axis; bins without rows are left out."""
    bins = {"all": list(rows)}
    for name, (near, far) in BINS.items():
        bins[name] = [row for row in rows if near < row["distance_m"] <= far]
    for yaw in YAWS:
        bins[f"{yaw:g} deg"] = [row for row in rows if abs(abs(row["yaw_deg"]) - yaw) <= 6]
    for light in LIGHTS:
        bins[light] = [row for row in rows if row["light"] == light]
    for key in ("camera", "face"):
        for value in dict.fromkeys(row[key] for row in rows):
            bins[f"{key} {value}"] = [row for row in rows if row[key] == value]
    return {name: part for name, part in bins.items() if part}


def _rate(rows: Sequence[Row], block: str) -> str:
    rate = clustered_interval([row[block]["success"] for row in rows], [r["pose"] for r in rows])
    return f"{rate.rate:.0%} [{rate.low:.0%}, {rate.high:.0%}]".replace("%", " %")


def main() -> None:
    """Measure a bundle, or print the table of all rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", help="folder or name of a bundle, or 'table'")
    parser.add_argument("--model", default="signs")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--true-class", help="the model's class of the sign")
    parser.add_argument(
        "--faces", type=Path, help="folder of drawings, beside the bundle's own sign"
    )
    parser.add_argument(
        "--each", type=int, default=2, help="poses of each distance, angle and light"
    )
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--pictures", type=Path, help="folder that keeps the frames")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "physadv-path-traced"
    )
    options = parser.parse_args()
    if options.bundle == "table":
        table(list(read_rows(options.rows)))
    else:
        measure(options)


if __name__ == "__main__":
    main()
