"""A patch in path-traced frames, beside the twin's frames of the same poses.

    python benchmarks/path_traced.py stop-sticker-signs-v1 --model signs --faces stop-drawings
    python benchmarks/path_traced.py table

Needs `pip install 'physadv[benchmarks]'` (Mitsuba 3). Each pose (a distance, an angle, a kind of
light) is traced once and kept in --cache; every face, clean, with a blank sticker and with the patch,
is then laid into its light exactly and photographed by the cameras of path_traced_camera.py, which
share no code with the twin. The blocks of a pose share path, light and noise, so they are compared
pose by pose. Rows that exist are not measured again: kill it at any moment.

Of each frame there are three versions ("arms"): `tracer`, as above; `twin camera`, the same traced
light photographed by the twin's camera of that name; and `twin`, the same face, pose and field of
view filmed by the twin in its own light. The first two differ by the camera alone, the last two by
light, wear, placing and background: both have the same reflectances, and no printer is in between.
More leave out or replace a part of the twin's scene: `twin, even light`, `twin, no wear`, `twin, exact
place`, `twin, white light`, `twin, traced street`, `twin, plain street` and `twin, traced exposure`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import cv2
import numpy as np
import torch
from path_traced_camera import DEVICES, F32, U8, Camera, Device, corners_px
from path_traced_poses import BINS, FOCAL, LIGHTS, SIZE, YAWS, all_poses

from physadv.camera.localization.boxes import box_of, crop_square, resize_box, square_around
from physadv.check.frame_verdict import VerdictRule, frame_verdicts, verdict_rule
from physadv.check.run_check import MARGIN
from physadv.core.drawn_streets import drawn_street
from physadv.core.image_io import save_png, to_tensor
from physadv.core.random_streams import numpy_generator
from physadv.core.rows import Row, append_rows, mend_last_row, read_rows
from physadv.core.sign_artwork import SignFace, sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.defenses.load_model import load_model
from physadv.eot.scenes.load import read_signs
from physadv.evaluation.metrics.intervals import clustered_interval, paired_difference
from physadv.models.cards import LoadedModel
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.printing.layout import smallest_paper
from physadv.printing.sheet import write_sheet
from physadv.twin import sign_clips, surface
from physadv.twin.cameras import KNOWN, develop_frame, exposure_at
from physadv.twin.linear_light import light_to_srgb, srgb_to_light
from physadv.twin.optics import blur_kernel, blur_light
from physadv.twin.printed_sheet import read_sticker
from physadv.twin.sign_clips import SignClip, StickerPrint, print_out
from physadv.twin.trajectories import AngleLimits, SignPose
from physadv.twin.virtual_printer import IDEAL_WHITE

if TYPE_CHECKING:
    from path_traced_scene import TracedPose

ROWS = Path(__file__).with_suffix(".jsonl")
BLOCKS = ("clean", "blank", "patch")
TEXELS = 2048


def _sheeting(light: F32) -> F32:
    return np.asarray(0.02 + 0.83 * light, np.float32)


def _print(light: F32) -> F32:
    return np.asarray(0.035 + 0.845 * light, np.float32)


def reflectances(face: SignFace, bundle: PatchBundle) -> dict[str, F32]:
    """Return the sign of each block, premultiplied RGBA (n, n, 4) of linear reflectances.

    Sheeting reflects 2 to 85 % and the print 3.5 to 88 %, the blank sticker like the print's white.
    """
    size = (TEXELS, TEXELS)
    rgba = cv2.resize(face.rgba, size, interpolation=cv2.INTER_AREA)
    alpha = rgba[..., 3:].astype(np.float32) / 255
    color = _sheeting(srgb_to_light(rgba[..., :3] / 255.0))
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
        printed = np.dstack([_print(srgb_to_light(encoded)), np.ones((height, width))])
        sign = clean.copy()
        sign[place] = sign[place] * (1 - mask[..., None]) + printed * mask[..., None]
        blocks[block] = sign
    return blocks


def rule_of(
    bundle: PatchBundle,
    model: LoadedModel,
    true_class: str | None,
    threshold: float | None = None,
) -> VerdictRule:
    """Return what counts as success: the bundle's goal, on the model's own class of the sign, at the
    model's own score or at ``threshold``."""
    about = bundle.card.patch
    names = [true_class] if true_class else [about.true_class, "stop sign", "stop"]
    known = next((n for n in names if n in model.card.classes), names[0])
    target = about.target_class if about.goal == "targeted" else None
    return verdict_rule(
        model.card,
        goal=about.goal,
        true_class=known,
        target_class=target or None,
        threshold=threshold,
    )


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


@dataclass(frozen=True)
class Signs:
    """The signs of a bundle.

    Attributes:
        faces: Faces by name.
        blocks: Reflectances of :func:`reflectances` by face.
        in_twin: Faces by name as the twin is given them, of the same reflectances.
        printed: The sticker in the twin, of the same reflectances too.
        sign_mm: Width of the sign.
    """

    faces: dict[str, SignFace]
    blocks: dict[str, dict[str, F32]]
    in_twin: dict[str, SignFace]
    printed: StickerPrint
    sign_mm: float


def signs_of(bundle: PatchBundle, drawings: Path | None) -> Signs:
    """Return the bundle's own sign and the ``drawings``, with its stickers on them."""
    placement, size = bundle.card.placement, bundle.card.size
    faces = [sign_face(placement.sign, TEXELS)]
    if drawings:
        faces += read_signs(drawings)[1]
    faces = [replace(face, width_mm=placement.sign_width_mm) for face in faces]

    with tempfile.TemporaryDirectory() as folder:
        sheet = Path(folder) / "sheet.pdf"
        write_sheet(bundle, sheet, paper=smallest_paper(size.width_mm, size.height_mm))
        sticker = read_sticker(bundle.folder, sheet)
    ideal = print_out(sticker, None, 0)
    printed = replace(
        ideal,
        colors=_print(ideal.colors / np.float32(IDEAL_WHITE)),
        paper=_print(ideal.paper / np.float32(IDEAL_WHITE)),
    )
    return Signs(
        {face.name: face for face in faces},
        {face.name: reflectances(face, bundle) for face in faces},
        {face.name: _of_sheeting(face) for face in faces},
        printed,
        placement.sign_width_mm,
    )


def _of_sheeting(face: SignFace) -> SignFace:
    """Return the face with its colors encoded as what sheeting reflects of them."""
    rgba = face.rgba.copy()
    light = _sheeting(srgb_to_light(rgba[..., :3] / 255.0))
    rgba[..., :3] = np.round(255 * light_to_srgb(light))
    return replace(face, rgba=rgba)


Photographer = Callable[[str], Mapping[str, U8]]
"""Photographs the three blocks of a face."""


def in_traced_light(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """Photograph a pose's traced light by a device of path_traced_camera.py."""
    camera = _camera(scene, next(d for d in DEVICES if d.name == name), signs)
    return lambda face: {b: camera.photograph(signs.blocks[face][b]) for b in BLOCKS}


def by_twin_camera(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """Photograph a pose's traced light by the twin's camera, with the exposure of the device."""
    device = next(d for d in DEVICES if d.name == name)
    shot = _camera(scene, device, signs).shot
    camera = replace(KNOWN[name], focal=FOCAL, k1=0.0)
    settings = exposure_at(camera, LIGHTS[scene.pose.light], shot.gain)
    kernel = blur_kernel(camera.blur_px(SIZE[0]), np.array(shot.motion_px))
    drawn = _camera(scene, replace(device, oversampling=1), signs)

    def photograph(face: str) -> dict[str, U8]:
        frames = {}
        for block in BLOCKS:
            light = blur_light(drawn.light(signs.blocks[face][block]), kernel) * shot.balance
            rng = numpy_generator(0, "path traced", "twin camera", name, scene.pose.number)
            frames[block] = _stored(develop_frame(light, camera, settings, rng), camera.jpeg)
        return frames

    return photograph


def in_twin(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """Film a pose in the twin: its light, its wear, its background and its camera."""
    camera = replace(KNOWN[name], focal=FOCAL, k1=0.0)
    pose = scene.pose
    u, v = cv2.perspectiveTransform(np.zeros((1, 1, 2)), pose.homography)[0, 0].tolist()
    path = [SignPose(1000 * pose.distance_m, *pose.angles_deg, u, v)]
    number = ("path traced", "twin", name, pose.number)
    background = drawn_street(0, *number, height=SIZE[1] * 6 // 5, width=SIZE[0] * 6 // 5)

    def photograph(face: str) -> dict[str, U8]:
        clip = SignClip(
            numpy_generator(0, *number),
            signs.in_twin[face],
            np.asarray(background, np.uint8),
            signs.printed,
            camera,
            frames=1,
            size=SIZE,
            distances_mm=(path[0].distance_mm, path[0].distance_mm),
            angles=AngleLimits(),
            path=path,
        )
        clip.shot = exposure_at(camera, LIGHTS[pose.light], clip.shot.exposure, clip.shot.white)
        frames = {}
        for block, light in clip.frame(0)[0].items():
            rng = numpy_generator(0, *number, "noise")
            frames[block] = _stored(develop_frame(light, camera, clip.shot, rng), camera.jpeg)
        return frames

    return photograph


def _changed_twin(scene: TracedPose, name: str, signs: Signs, *changes: Any) -> Photographer:
    """As :func:`in_twin`, the same draws, with parts of the twin replaced by ``changes``, which
    are patchers of :mod:`unittest.mock`."""

    def photograph(face: str) -> Mapping[str, U8]:
        with ExitStack() as stack:
            for change in changes:
                stack.enter_context(change)
            return in_twin(scene, name, signs)(face)

    return photograph


def in_even_light(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """As :func:`in_twin`, without ramp, shadow and glare on the sign."""
    real = sign_clips.random_light

    def even(rng: np.random.Generator, level: F32) -> surface.SignLight:
        return replace(real(rng, level), ramp=0.0, shadow=0.0, gloss=0.0)

    return _changed_twin(scene, name, signs, mock.patch.object(sign_clips, "random_light", even))


def without_wear(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """As :func:`in_twin`, on a face that is neither faded nor dirty."""
    real = surface._weathered

    def new(layer: F32, rng: np.random.Generator) -> F32:
        real(layer.copy(), rng)
        return layer

    return _changed_twin(scene, name, signs, mock.patch.object(surface, "_weathered", new))


def exactly_placed(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """As :func:`in_twin`, with the sticker exactly where the card says."""
    real = surface.sticker_layer

    class Steady:
        def normal(self, mean: float, deviation: float, size: int | None = None) -> Any:
            return 0.0 if size is None else np.zeros(size)

    def placed(*given: Any) -> F32:
        return real(*given[:-1], Steady())  # type: ignore[arg-type]

    return _changed_twin(scene, name, signs, mock.patch.object(sign_clips, "sticker_layer", placed))


def in_white_light(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """As :func:`in_twin`, in light of 6500 K and with the right white balance."""
    real = sign_clips.random_exposure
    neutral = np.ones(3, np.float32)

    def white(camera: Any, rng: np.random.Generator, exposure: float) -> Any:
        return replace(real(camera, rng, exposure), white=neutral)

    return _changed_twin(
        scene,
        name,
        signs,
        mock.patch.object(sign_clips, "random_exposure", white),
        mock.patch.object(sign_clips, "daylight_tint", return_value=neutral),
    )


def before_traced_street(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """As :func:`in_twin`, before the traced picture of the pose, which sets light and exposure."""
    light = scene.around * min(1.0, 0.9 / float(np.quantile(scene.around @ surface.LUMA, 0.99)))
    encoded = np.round(255 * light_to_srgb(light)).astype(np.uint8)
    street = mock.patch(f"{__name__}.drawn_street", return_value=encoded)
    return _changed_twin(scene, name, signs, street)


def before_plain_street(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """As :func:`in_twin`, the same draws, before the plainer pictures that the twin once drew."""
    with mock.patch(f"{__name__}.drawn_street", synthetic_background):
        return in_twin(scene, name, signs)


def exposed_as_traced(scene: TracedPose, name: str, signs: Signs) -> Photographer:
    """As :func:`in_twin`, the same draws, exposed so that a white sign is as bright as the device's
    automatic control makes it in the traced frame."""
    shot = _camera(scene, next(d for d in DEVICES if d.name == name), signs).shot
    white = shot.gain * float((scene.on_plane @ surface.LUMA).mean())
    light, real = sign_clips.random_light, exposure_at

    def photograph(face: str) -> Mapping[str, U8]:
        levels: list[F32] = []

        def told(rng: np.random.Generator, level: F32) -> surface.SignLight:
            levels.append(level)
            return light(rng, level)

        def exposed(*given: Any) -> Any:
            return replace(real(*given), exposure=white / float(levels[-1] @ surface.LUMA))

        with (
            mock.patch.object(sign_clips, "random_light", told),
            mock.patch(f"{__name__}.exposure_at", exposed),
        ):
            return in_twin(scene, name, signs)(face)

    return photograph


ARMS = {
    "tracer": in_traced_light,
    "twin camera": by_twin_camera,
    "twin": in_twin,
    "twin, even light": in_even_light,
    "twin, no wear": without_wear,
    "twin, exact place": exactly_placed,
    "twin, white light": in_white_light,
    "twin, traced street": before_traced_street,
    "twin, plain street": before_plain_street,
    "twin, traced exposure": exposed_as_traced,
}


def _camera(scene: TracedPose, device: Device, signs: Signs) -> Camera:
    pose = scene.pose
    return Camera(
        device,
        scene.around,
        scene.on_plane,
        pose.homography,
        sign_mm=signs.sign_mm,
        distance_m=pose.distance_m,
        focal=FOCAL,
        lux=LIGHTS[pose.light],
        seed=numpy_generator(0, "path traced", "camera", device.name, pose.number),
    )


def _stored(picture: U8, quality: int) -> U8:
    _, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.ascontiguousarray(cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1])


def measure(options: argparse.Namespace) -> None:
    """Photograph and judge every pose that has no row yet."""
    from path_traced_scene import traced  # needs Mitsuba, which the table does not

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    bundle = read_bundle(options.bundle)
    model = load_model(options.model, weights=options.weights)
    rule = rule_of(bundle, model, options.true_class, options.threshold)
    signs = signs_of(bundle, options.faces)

    about = {"bundle": bundle.card.patch.name, "run_id": bundle.card.patch.run_id}
    about["model"] = model.card.name
    done = set()
    if options.rows.is_file():
        mend_last_row(options.rows)
        done = {_key(row) for row in read_rows(options.rows)}

    near, far = BINS[options.span] if options.span else (0.0, np.inf)
    every = all_poses(signs.sign_mm, options.each)
    poses = [pose for pose in every if near < pose.distance_m <= far]
    for scene in traced(poses, signs.sign_mm, options.cache):
        pose = scene.pose
        corners = corners_px(pose.homography, signs.sign_mm)
        for arm in options.arms:
            for device in DEVICES:
                where = {**about, "arm": arm, "camera": device.name, "pose": pose.number}
                waiting = [
                    name for name in signs.faces if _key({**where, "face": name}) not in done
                ]
                photograph = ARMS[arm](scene, device.name, signs) if waiting else None
                for name in waiting if photograph else []:
                    row: Row = {**where, "face": name, "distance_m": round(pose.distance_m, 3)}
                    row |= {"threshold": rule.threshold} if model.card.task == "detect" else {}
                    row |= {"yaw_deg": round(pose.yaw_deg, 1), "light": pose.light}
                    row["sign_px"] = round(float(np.ptp(corners[:, 1])), 1)
                    frames = photograph(name)
                    row |= {block: judge(model, rule, frames[block], corners) for block in BLOCKS}
                    append_rows(options.rows, [row])
                    if options.pictures:
                        options.pictures.mkdir(parents=True, exist_ok=True)
                        head = f"{pose.number:03d}-{arm}-{device.name}-{name}".replace(" ", "-")
                        for block, frame in frames.items():
                            save_png(options.pictures / f"{head}-{block}.png", frame)
        print(f"pose {pose.number}", flush=True)
    table(rows_of_table(options))


def rows_of_table(options: argparse.Namespace) -> list[Row]:
    """Return the rows asked for: all, or those of the model at the threshold that is given."""
    rows = list(read_rows(options.rows))
    if options.threshold is None:
        return rows
    return hidden_below([row for row in rows if row["model"] == options.model], options.threshold)


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(
        row[name] for name in ("bundle", "run_id", "model", "arm", "camera", "pose", "face")
    )


def hidden_below(rows: Sequence[Row], threshold: float) -> list[Row]:
    """Judge the rows of hidden signs anew, at another score from which a detection counts."""
    judged = []
    for row in rows:
        blocks = {
            block: {**row[block], "success": row[block]["true_score"] < threshold}
            for block in BLOCKS
        }
        judged.append({**row, **blocks, "threshold": threshold})
    return judged


def table(rows: Sequence[Row]) -> None:
    """Print success by bundle, model and arm: all frames, then by distance, angle, light, face."""
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        key = (row["bundle"], row["run_id"], row["model"], row["arm"])
        groups.setdefault(key, []).append(row)

    print("| bundle | run | model | frames of | bin | clean | blank | patch | over blank | poses |")
    print("|---" * 10 + "|")
    for (bundle, run, model, arm), mine in groups.items():
        for name, part in _bins(mine).items():
            cells = [_rate(part, block) for block in BLOCKS]
            gain = _paired(part, part, "blank", "patch")
            cells += [gain, f"{len({row['pose'] for row in part})}"]
            print("| " + " | ".join([bundle, run, model, arm, name, *cells]) + " |", flush=True)

    for (bundle, run, model, arm), mine in groups.items():
        traced = groups.get((bundle, run, model, "tracer"), [])
        if arm == "tracer" or not traced:
            continue
        print(f"\n{arm} less tracer, points, {bundle} ({run}), {model}\n")
        print("| bin | clean | blank | patch | pairs |\n|---|---|---|---|---|")
        first, second = _partners(traced, mine)
        bins = _bins(second)
        for name, part in _bins(first).items():
            cells = [_paired(part, bins[name], block, block) for block in BLOCKS]
            print("| " + " | ".join([name, *cells, f"{len(part)}"]) + " |", flush=True)


def _partners(first: Sequence[Row], second: Sequence[Row]) -> tuple[list[Row], list[Row]]:
    """Return the rows of two arms that show the same pose, camera and face, in one order."""
    by_frame = {(row["pose"], row["camera"], row["face"]): row for row in second}
    pairs = [
        (row, by_frame[key])
        for row in first
        if (key := (row["pose"], row["camera"], row["face"])) in by_frame
    ]
    return [one for one, _ in pairs], [other for _, other in pairs]


def _paired(first: Sequence[Row], second: Sequence[Row], before: str, after: str) -> str:
    """Return how much more often ``after`` succeeds in the second rows than ``before`` in the first,
    with an interval over poses."""
    change = paired_difference(
        [row[before]["success"] for row in first],
        [row[after]["success"] for row in second],
        [row["pose"] for row in first],
    )
    value, low, high = (round(100 * x) for x in (change.value, change.low, change.high))
    return f"{value:+} [{low:+}, {high:+}]"


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
    parser.add_argument("--span", choices=list(BINS), help="poses at these distances alone")
    parser.add_argument("--arms", nargs="*", default=list(ARMS)[:3], choices=list(ARMS))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument(
        "--threshold",
        type=float,
        help="score from which a detection counts, where not the model's own; with 'table', the rows "
        "of --model are judged anew at it (goal: vanish)",
    )
    parser.add_argument("--pictures", type=Path, help="folder that keeps the frames")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "physadv-path-traced"
    )
    options = parser.parse_args()
    if options.bundle == "table":
        table(rows_of_table(options))
    else:
        measure(options)


if __name__ == "__main__":
    main()
