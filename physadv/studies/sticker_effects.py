"""The study `physadv study physical`: what each effect between a sticker and its picture destroys.

Stickers are optimized against the stop sign of `signs` for one view and for more and more of what
lies between print and picture (expectation over transformation). Each is then measured without any
effect, with each effect alone, with all of them, and in the twin, an independent simulation of
printer and camera.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from physadv.camera.localization.boxes import box_of, crop_square, resize_box, square_around
from physadv.check.run_check import MARGIN
from physadv.core.image_io import Array, read_image, to_tensor
from physadv.core.rows import Row
from physadv.core.sign_artwork import sign_face
from physadv.core.synthetic_backgrounds import synthetic_background
from physadv.core.wording import format_percent
from physadv.eot.presets import eot_preset
from physadv.eot.ranges import EFFECTS, NEUTRAL, NOTHING, EotRanges
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.models.outputs import read_logits
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import measure_patch, optimize_patch, render_scenes, to_8bit
from physadv.patches.task import PatchTask, sample_scenes
from physadv.studies.attack_configs import PhysicalConfig
from physadv.studies.page import (
    UNCHECKED,
    Axis,
    Chart,
    Comparison,
    Formula,
    Matrix,
    PageSections,
    Paper,
    Picture,
    Pictures,
    Point,
    Series,
    StudyPage,
    Table,
    cell_ends,
)
from physadv.studies.study import Part, PartRows, Study, Workspace
from physadv.twin.cameras import EFFECTS as CAMERA_EFFECTS
from physadv.twin.cameras import VirtualCamera, cameras_named, develop_frame, leave_out
from physadv.twin.flat_print import stored_picture
from physadv.twin.printed_sheet import CutSticker
from physadv.twin.sign_clips import BLOCKS, SignClip, StickerPrint, print_out
from physadv.twin.simulate import SIGN_SHARE
from physadv.twin.surface import square_side
from physadv.twin.trajectories import AngleLimits
from physadv.twin.virtual_printer import printer_named

ATHALYE = Paper(
    "Athalye et al.", 2017, "Synthesizing Robust Adversarial Examples", "arXiv:1707.07397"
)
EYKHOLT = Paper(
    "Eykholt et al.",
    2017,
    "Robust Physical-World Attacks on Deep Learning Visual Classification",
    "arXiv:1707.08945",
)
LU = Paper(
    "Lu et al.",
    2017,
    "NO Need to Worry about Adversarial Examples in Object Detection in Autonomous Vehicles",
    "arXiv:1707.03501",
)

VIEW = ("yaw_deg", "pitch_deg", "roll_deg")
DISTANCE = ("distance_m", "field_of_view_deg", "sensor_px", "size_px")
FULL = eot_preset("camera")
"""Ranges of everything between print and picture."""


def with_only(*names: str) -> EotRanges:
    """Return the ranges of the whole way in ``names`` alone, all other effects switched off.

    Example:
        >>> with_only("yaw_deg").acts("yaw_deg"), with_only("yaw_deg").acts("jpeg_quality")
        (True, False)
    """
    # What is drawn with a probability, or rolls, has its strength and size in further ranges.
    stems = tuple(
        name.removesuffix("_probability").removesuffix("_ev")
        for name in names
        if name.endswith("_probability") or name == "rolling_ev"
    )
    chosen = [name for name in NEUTRAL if name in names or (stems and name.startswith(stems))]
    return replace(NOTHING, **{name: getattr(FULL, name) for name in chosen})


ARMS: dict[str, EotRanges] = {
    "one view": NOTHING,
    "viewpoints": with_only(*VIEW, *DISTANCE),
    "as Athalye": eot_preset("athalye"),
    "whole camera": FULL,
}
"""Ranges that each sticker is optimized under, by its name."""
NO_EFFECT, ALL_EFFECTS = "no effect", "all"
DIGITAL: dict[str, EotRanges] = {
    NO_EFFECT: NOTHING,
    "angle": with_only(*VIEW),
    "distance": with_only(*DISTANCE),
    "bending": with_only(*EFFECTS["bending"]),
    "print, color": with_only(*EFFECTS["colour"]),
    "shadow, haze": with_only(*EFFECTS["light"]),
    "exposure": with_only(*EFFECTS["exposure"]),
    "blur": with_only(*EFFECTS["blur"]),
    "noise": with_only(*EFFECTS["noise"]),
    "file, stream": with_only(*EFFECTS["codec"]),
    ALL_EFFECTS: FULL,
}
"""Ranges that each sticker is measured under, by the name of the effect."""
YAWS = (0, 15, 30, 45, 60)
"""Angles in degrees at which stickers are measured alone."""
SIZES = (20, 30, 45, 70, 110)
"""Widths of the sign in px at which stickers are measured alone."""
TWIN_ALONE = ("printer", "defocus", "motion", "noise", "jpeg")
"""Effects of the twin that are measured alone, by the last camera."""


@dataclass(frozen=True)
class _Way:
    """A way to film in the twin: printer and camera."""

    name: str
    printer: str
    camera: VirtualCamera


def study_parts(config: PhysicalConfig) -> list[Part]:
    """Return the parts of a study: each sticker is made, measured, and filmed."""
    parts = []
    for arm in _arms(config):
        parts += [
            Part(f"make {arm}", f"optimizing for {arm}", _bound(_made_rows, config, arm)),
            Part(f"effects {arm}", f"measuring {arm}", _bound(_effect_rows, config, arm)),
            Part(f"twin {arm}", f"filming {arm} (simulation)", _bound(_twin_rows, config, arm)),
        ]
    return parts


_ArmRows = Callable[[PhysicalConfig, str, Workspace], Iterator[Row]]


def _bound(
    rows: _ArmRows, config: PhysicalConfig, arm: str
) -> Callable[[Workspace], Iterator[Row]]:
    return lambda workspace: rows(config, arm, workspace)


def _arms(config: PhysicalConfig) -> dict[str, EotRanges]:
    return {name: ARMS[name] for name in list(ARMS)[:: config.scaled(3, 1, 1)]}


def _task(config: PhysicalConfig, workspace: Workspace) -> PatchTask:
    """Return the task of the default sticker on `signs`, made once in a process."""
    return workspace.once(
        "task",
        lambda: PatchTask.from_config(
            PatchConfig(seed=config.seed, device="cpu", resolution=config.scaled(16, 64, 128))
        ),
    )


def _made_rows(config: PhysicalConfig, arm: str, workspace: Workspace) -> Iterator[Row]:
    """Optimize a sticker and save it."""
    task = replace(_task(config, workspace), ranges=ARMS[arm])
    steps = config.scaled(3, 100, 400)
    last = None
    for last in optimize_patch(
        task,
        steps=steps,
        draws=config.scaled(4, 16, 32),
        validate_every=steps,
        validation_draws=config.scaled(8, 64, 256),
    ):
        workspace.tell(f"{arm}: step {last.step} of {steps}")
    assert last is not None  # at least one step is made

    sticker = to_8bit(task, last.patch)[0]
    yield {
        "steps": steps,
        "sticker": workspace.save_picture(f"sticker-{_stem(arm)}", sticker),
        "shown": workspace.save_picture(f"on-sign-{_stem(arm)}", _on_sign(task, sticker[None])),
    }


def _stem(arm: str) -> str:
    return arm.lower().replace(" ", "-")


def _on_sign(task: PatchTask, sticker: Tensor) -> Tensor:
    """Return a frontal view (3, h, w) of the sign with a sticker, without any effect."""
    front = replace(task, ranges=NOTHING)
    scenes = sample_scenes(front, front.scene_sources.test, 1, "front")
    return render_scenes(front, sticker, scenes, ("front",))[0][0].clamp(0, 1)


def _sticker(arm: str, workspace: Workspace) -> Tensor:
    """Return the sticker (1, 3, h, w) that an earlier part saved."""
    return read_image(workspace.folder / "pictures" / f"sticker-{_stem(arm)}.png")[None]


def _effect_rows(config: PhysicalConfig, arm: str, workspace: Workspace) -> Iterator[Row]:
    """Measure a sticker under each effect alone, under all, and at single angles and sizes."""
    task, sticker = _task(config, workspace), _sticker(arm, workspace)
    draws = config.scaled(8, 100, 400)
    settings: list[tuple[str, str | int, EotRanges]] = [
        ("effect", name, ranges) for name, ranges in DIGITAL.items()
    ]
    settings += [("yaw", at, replace(NOTHING, yaw_deg=(at, at))) for at in YAWS]
    settings += [("size", at, replace(NOTHING, size_px=(at, at))) for at in SIZES]
    for kind, at, ranges in settings:
        workspace.tell(f"{arm}: {kind} {at}")
        measured = measure_patch(replace(task, ranges=ranges), sticker, draws=draws)
        yield {
            "kind": kind,
            "at": at,
            "success": round(measured.success.rate * measured.success.n)
            if measured.success.n
            else 0,
            "blank": round(measured.blank_success.rate * measured.blank_success.n)
            if measured.blank_success.n
            else 0,
            "n": measured.success.n,
            "clean": round(measured.clean_recognised.rate * measured.clean_recognised.n),
            "draws": measured.clean_recognised.n,
        }


def twin_ways(config: PhysicalConfig) -> list[_Way]:
    """Return the ways to film: nothing but geometry and light, each effect alone, and whole
    cameras.

    Args:
        config: Configuration of the study.
    """
    cameras = cameras_named(config.scaled(("cctv",), *[("phone", "webcam", "cctv")] * 2))
    strongest = cameras[-1]
    nothing = leave_out(strongest, CAMERA_EFFECTS)
    alone = [
        _Way(
            effect,
            "office-laser" if effect == "printer" else "ideal",
            leave_out(strongest, [other for other in CAMERA_EFFECTS if other != effect]),
        )
        for effect in config.scaled(("printer",), TWIN_ALONE, TWIN_ALONE)
    ]
    whole = [_Way(camera.name, "office-laser", camera) for camera in cameras]
    return [_Way(NO_EFFECT, "ideal", nothing), *alone, *whole]


def _twin_rows(config: PhysicalConfig, arm: str, workspace: Workspace) -> Iterator[Row]:
    """Film a sticker in the twin: each way on the same paths, a frame from each."""
    task, sticker = _task(config, workspace), _sticker(arm, workspace)
    model, goal = task.loaded_model, task.goal
    side = task.scene_size.size
    for way in twin_ways(config):
        workspace.tell(f"{arm}: {way.name}")
        printed = _printed(task, sticker, way.printer, config.seed)
        counts = dict.fromkeys(("clean", "blank", "patch"), 0)
        shots = config.scaled(2, 36, 100)
        for shot in range(shots):
            crops = _filmed(config, workspace, way.camera, printed, shot, side)
            shown = torch.stack([to_tensor(crops[block]) for block in BLOCKS])
            with torch.no_grad():
                classes = read_logits(model(shown), len(BLOCKS)).argmax(1)
            clean, blank, patch = (classes == goal.true_class).tolist()
            counts["clean"] += clean
            counts["blank"] += clean and not blank
            counts["patch"] += clean and not patch
            if shot == 0:
                stem = f"twin-{_stem(arm)}-{_stem(way.name)}"
                picture = workspace.save_picture(stem, crops["patch"])
                read_as = task.loaded_model.card.class_name(int(classes[2]))
        yield {
            "way": way.name,
            "success": counts["patch"],
            "blank": counts["blank"],
            "n": counts["clean"],
            "shots": shots,
            "picture": picture,
            "read_as": read_as,
        }


def _printed(task: PatchTask, sticker: Tensor, printer: str, seed: int) -> StickerPrint:
    """Print a sticker of the task in the twin."""
    place, px_per_mm = task.placement, 4.0
    shape = (round(place.width_mm * px_per_mm), round(place.height_mm * px_per_mm))
    pixels = (sticker[0].permute(1, 2, 0) * 255).round().byte().cpu().numpy()
    cut = CutSticker(
        np.asarray(cv2.resize(pixels, shape, interpolation=cv2.INTER_NEAREST), np.uint8),
        np.ones((shape[1], shape[0]), np.float32),
        place.width_mm,
        place.height_mm,
        place.center_mm,
        "stop",
        task.sign_width_mm,
        px_per_mm,
        "",
        "",
    )
    return print_out(cut, printer_named(printer, seed), seed)


def _filmed(
    config: PhysicalConfig,
    workspace: Workspace,
    camera: VirtualCamera,
    printed: StickerPrint,
    shot: int,
    side: int,
) -> dict[str, Array]:
    """Return the sign's crop (side, side, 3) of one frame with each block, from a path of its
    own."""
    size = config.frame_size
    background = workspace.once(
        f"background {shot % 8}",
        lambda: np.asarray(
            synthetic_background(
                config.seed, "physical", shot % 8, height=size[1] * 6 // 5, width=size[0] * 6 // 5
            ),
            np.uint8,
        ),
    )
    face = workspace.once("face", lambda: sign_face("stop", 512, printed.sticker.sign_width_mm))
    reach = square_side(face) * camera.focal
    clip = SignClip(
        workspace.numpy_generator("path", shot),
        face,
        background,
        printed,
        camera,
        frames=3,
        size=size,
        distances_mm=(reach / SIGN_SHARE[1], reach / SIGN_SHARE[0]),
        angles=AngleLimits(),
    )

    pictures, truth = clip.frame(1)
    square = square_around(box_of(np.asarray(truth["corners"], np.float64)), MARGIN)
    crops = {}
    for block in BLOCKS:
        noise = workspace.numpy_generator("noise", shot)
        frame = stored_picture(
            develop_frame(pictures[block], camera, clip.shot, noise), camera.jpeg
        )
        crops[block] = resize_box(np.ascontiguousarray(crop_square(frame, *square)), side, side)
    return crops


def study_page(config: PhysicalConfig, rows: PartRows) -> StudyPage:
    """Return the page of a study.

    Args:
        config: Its configuration.
        rows: Rows of all parts.
    """
    arms = list(_arms(config))
    sections = PageSections()
    sections.add(
        "Each effect alone",
        [
            "Each column is a sticker of 190 x 150 mm on a stop sign of 457 mm, optimized to be "
            "misread by `signs` under the draws that its name says. Each row adds one effect "
            "between the print and the picture to a sharp view from the front; the last adds all.",
            _effect_matrix(rows, arms),
        ],
    )
    sections.add(
        "In the twin, which shares no code with the optimization",
        [
            "The twin prints the sticker, puts it on a sign on its pole, and films it from a path "
            "of its own: the rows between the first and the whole cameras switch on one effect of "
            "its printer or of its worst camera alone.",
            _twin_matrix(config, rows, arms),
            _twin_pictures(config, rows, arms),
        ],
    )
    sections.add(
        "Angle and size", [_curve_chart(rows, arms, "yaw"), _curve_chart(rows, arms, "size")]
    )
    sections.add("What covering alone does", [_control_table(config, rows, arms)])
    sections.add(
        "How the stickers are made",
        [
            "A sticker for one view minimizes the loss of one picture. Expectation over "
            "transformation minimizes its mean over draws t of everything that may lie between "
            "the print and the picture; the gradient of the mean is the mean of the gradients.",
            Formula(
                r"\min_{\delta} \; \mathbb{E}_{t \sim T} \left[ L\left(f(t(x, \delta)), y\right) "
                r"\right] \approx \frac{1}{m} \sum_{i=1}^{m} L\left(f(t_i(x, \delta)), y\right)",
                "Minimize over the sticker the expected loss of the model on the transformed "
                "sign, estimated by the mean over m draws of the transformation.",
            ),
        ],
    )
    return StudyPage(
        answer=_answer(config, rows, arms),
        sections=tuple(sections.sections),
        comparisons=_comparisons(config, rows, arms),
        limits=(
            "Everything here is simulated: no sticker was printed and no camera used.",
            "The twin and the transformations of the optimization are two models of the same "
            "things, written apart; what both leave out is left out twice.",
            "One sticker of each kind is made, from one seed; the intervals are over views, not "
            "over stickers.",
            "A sticker that covers a sixth of the sign is far more than the papers' graffiti; "
            "covering alone is listed beside it.",
        ),
        terms=(
            (
                "expectation over transformation",
                "optimizing the mean over random views, light and camera effects in place of one "
                "picture.",
            ),
            (
                "success",
                "the sign is misread with the sticker, of views in which it is read "
                "correctly without.",
            ),
            ("blank", "white paper of the sticker's size and place."),
            (
                "twin",
                "a simulation of printer, sign and camera that shares no code with the "
                "transformations that stickers are optimized under.",
            ),
        ),
    )


def _rate(row: Row, key: str = "success") -> RateInterval:
    return wilson_interval(int(row[key]), int(row["n"]))


def _of_kind(rows: PartRows, arm: str, kind: str) -> list[Row]:
    return [row for row in rows[f"effects {arm}"] if row["kind"] == kind]


def _effect(rows: PartRows, arm: str, name: str) -> Row:
    return next(row for row in _of_kind(rows, arm, "effect") if row["at"] == name)


def _way(rows: PartRows, arm: str, name: str) -> Row:
    return next(row for row in rows[f"twin {arm}"] if row["way"] == name)


def _value(rate: RateInterval) -> float | None:
    return rate.rate if rate.n else None


def _note(rate: RateInterval) -> str:
    return cell_ends(rate.low, rate.high) if rate.n else ""


def _by_effect(
    name: str, caption: str, effects: Sequence[str], rates: Mapping[str, Sequence[RateInterval]]
) -> Matrix:
    """Return the matrix of success with a row for each effect and a column for each sticker."""
    lines = list(zip(*rates.values(), strict=True))
    return Matrix(
        name,
        caption,
        tuple(effects),
        tuple(rates),
        tuple(tuple(_value(rate) for rate in line) for line in lines),
        "between print and picture",
        "sticker made for",
        notes=tuple(tuple(_note(rate) for rate in line) for line in lines),
    )


def _effect_matrix(rows: PartRows, arms: Sequence[str]) -> Matrix:
    return _by_effect(
        "effects",
        "Share of views in which the sign is misread with the sticker, of those in which it is "
        "read correctly without; below, the 95 % Wilson interval.",
        tuple(DIGITAL),
        {arm: [_rate(row) for row in _of_kind(rows, arm, "effect")] for arm in arms},
    )


def _twin_matrix(config: PhysicalConfig, rows: PartRows, arms: Sequence[str]) -> Matrix:
    shots = rows[f"twin {arms[0]}"][0]["shots"]
    return _by_effect(
        "twin",
        "The same stickers in the twin: first geometry and light alone, then one effect of "
        f"printer or camera, then whole cameras with a printed sticker; {shots} views each.",
        tuple(way.name for way in twin_ways(config)),
        {arm: [_rate(row) for row in rows[f"twin {arm}"]] for arm in arms},
    )


def _twin_pictures(config: PhysicalConfig, rows: PartRows, arms: Sequence[str]) -> Pictures:
    """Return each sticker on the sign and as the cameras deliver it."""
    ways = [way.name for way in twin_ways(config)]
    shown = [NO_EFFECT, *[name for name in ways if name not in (NO_EFFECT, *TWIN_ALONE)]]
    lines = []
    for arm in arms:
        made = rows[f"make {arm}"][0]
        line = [Picture(made["sticker"], f"made for {arm}", "the sticker")]
        line.append(Picture(made["shown"], "on the sign", "no effect"))
        for name in shown:
            row = _way(rows, arm, name)
            line.append(Picture(row["picture"], f"twin, {name}", f"read as {row['read_as']}"))
        lines.append(tuple(line))
    return Pictures(
        "stickers",
        "The stickers, and the first view of the twin as the model receives it.",
        tuple(lines),
    )


def _curve_chart(rows: PartRows, arms: Sequence[str], kind: str) -> Chart:
    """Return the chart of success at single angles or sizes."""
    series = []
    for arm in arms:
        points = []
        for row in _of_kind(rows, arm, kind):
            rate = _rate(row)
            if rate.n:
                points.append(Point(float(row["at"]), rate.rate, rate.low, rate.high, str(rate)))
        series.append(Series(f"made for {arm}", tuple(points)))
    axes = {
        "yaw": Axis("angle of the sign (degrees)", low=0, high=max(YAWS)),
        "size": Axis("width of the sign in the picture (px)", "log", ticks=SIZES),
    }
    words = {
        "yaw": "Success at one angle, all other effects off.",
        "size": "Success at one size of the sign, all other effects off: what is small is seen "
        "in few pixels, and then enlarged.",
    }
    return Chart(
        f"success-by-{'angle' if kind == 'yaw' else 'size'}",
        words[kind],
        axes[kind],
        Axis("misread", low=0, high=1, percent=True),
        tuple(series),
    )


def _control_table(config: PhysicalConfig, rows: PartRows, arms: Sequence[str]) -> Table:
    """Return the table of sticker and blank paper under all effects."""
    cameras = [way.name for way in twin_ways(config) if way.printer != "ideal"]
    lines = []
    for arm in arms:
        row = _effect(rows, arm, ALL_EFFECTS)
        lines.append((f"made for {arm}", "all, digital", str(_rate(row)), str(_rate(row, "blank"))))
        for name in cameras[1:] or cameras:
            row = _way(rows, arm, name)
            cells = (str(_rate(row)), str(_rate(row, "blank")))
            lines.append((f"made for {arm}", f"twin, {name}", *cells))
    return Table(
        "controls",
        "Misread with the sticker, and with blank paper in its place (95 % Wilson intervals).",
        ("sticker", "seen through", "with the sticker", "with blank paper"),
        tuple(lines),
    )


def _answer(config: PhysicalConfig, rows: PartRows, arms: Sequence[str]) -> str:
    """Return the result in a sentence."""
    first, last = arms[0], arms[-1]
    alone = {
        str(row["at"]): _rate(row)
        for row in _of_kind(rows, first, "effect")
        if row["at"] not in (NO_EFFECT, ALL_EFFECTS) and row["n"]
    }
    worst = min(alone, key=lambda name: alone[name].rate) if alone else "none"
    camera = twin_ways(config)[-1].name
    return (
        f"A sticker made for one view succeeds in "
        f"{_rate(_effect(rows, first, NO_EFFECT)).of('view')} without any effect and in "
        f"{_rate(_effect(rows, first, ALL_EFFECTS)).of('view')} with all of "
        f"them; of single effects {worst} costs it most ({_words(alone.get(worst))}); one made "
        f"for the {last} succeeds in {_rate(_effect(rows, last, ALL_EFFECTS)).of('view')} with "
        "all, and in "
        f"the twin's {camera} the two in {_words(_rate(_way(rows, first, camera)))} and "
        f"{_words(_rate(_way(rows, last, camera)))}."
    )


def _words(rate: RateInterval | None) -> str:
    return "no view" if rate is None or not rate.n else format_percent(rate.rate, 0)


def _comparisons(
    config: PhysicalConfig, rows: PartRows, arms: Sequence[str]
) -> tuple[Comparison, ...]:
    camera = twin_ways(config)[-1].name
    last = arms[-1]
    own: Mapping[str, Row] = {arm: _effect(rows, arm, ALL_EFFECTS) for arm in arms}
    made = [
        Comparison(
            "Success of a robust example over the views it was made for",
            ATHALYE.cited,
            f"96.4 % (2-D, simulated), 83.4 % (3-D, rendered); tables 1 and 2. {UNCHECKED}",
            f"{_rate(own[last])}, made for and measured with the {last}",
            "Towards a chosen class and with small changes of a whole texture there; any wrong "
            "class and a visible sticker here.",
        ),
        Comparison(
            "Success printed and photographed",
            ATHALYE.cited,
            f"82 % of 100 photos of a turtle, 59 % of 100 of a baseball; table 3. {UNCHECKED}",
            f"{_rate(_way(rows, last, camera))}, {camera} in simulation",
            "Real photos there, a simulation here; a chosen class there.",
        ),
        Comparison(
            "Stickers on a stop sign, filmed while driving past",
            EYKHOLT.cited,
            "84.8 % of the frames from a moving car, 100 % of the images in the lab (abstract)",
            f"{_rate(_way(rows, last, camera))}, {camera} in simulation",
            "Real frames there; another net, one large sticker and simulated cameras here.",
        ),
    ]
    return tuple(made)


STUDY = Study(
    name="physical",
    title="From the file to the street",
    question="Which effects between a printed sticker and its picture destroy an attack, and does "
    "optimizing over them save it?",
    config=PhysicalConfig,
    papers=(ATHALYE, EYKHOLT, LU),
    parts=study_parts,
    page=study_page,
)
