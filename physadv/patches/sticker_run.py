"""One sticker from its settings to a bundle, in steps that can be stopped, killed and taken up
again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from physadv.core.errors import GeometryError, ModelError, OptionError
from physadv.core.image_io import read_image
from physadv.core.random_streams import derive
from physadv.defenses.load_model import load_model
from physadv.eot.mask_shapes import area_share, make_mask
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset, is_import_path, pipeline_from, ranges_from_toml
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.load import SceneSources, load_scene_sources
from physadv.eot.scenes.photos import PatchPose
from physadv.eot.scenes.signs import PhotoScenes, PhotoSign, SceneSize
from physadv.models.cards import LoadedModel
from physadv.models.checks import check_model, looks_like_probabilities
from physadv.models.classifiers import Preprocessed
from physadv.patches.bundle import CardPlacement as CardPlacement
from physadv.patches.bundle import (
    ModelInfo,
    PatchBundle,
    PatchCard,
    PatchInfo,
    PatchSize,
    write_bundle,
)
from physadv.patches.calibrated import (
    PROFILES,
    color_map_of,
    keep_profiles,
    profile_checksums,
    with_camera_profile,
)
from physadv.patches.optimize import (
    PatchMeasurement,
    PatchProgress,
    PatchTask,
    measure_patch,
    optimize_patch,
    to_8bit,
)
from physadv.patches.photo_task import (
    ANYWHERE,
    ROLL_DEG,
    SHARES,
    check_object,
    object_share,
    photo_material,
)
from physadv.patches.preview import preview_picture
from physadv.patches.resume import load_checkpoint, save_checkpoint
from physadv.threat.patch_goals import PatchGoal
from physadv.threat.printability import PatchAppearance, parse_palette

OCTAGON_SHARE = 0.8284
"""Area of a regular octagon over that of its bounding square."""
STOP_NAMES = ("stop", "stop sign", "street sign")
"""What GTSRB, COCO and ImageNet call it."""


@dataclass(frozen=True)
class StickerSettings:
    """Everything that decides a sticker; written on its card, so that `verify` can measure it anew."""

    model: str = "signs"
    weights: str | None = None
    goal: str = "untargeted"
    true_class: str = "stop"
    target_class: str | None = None
    mask: str = "rectangle"
    width_mm: float = 190.0
    height_mm: float = 150.0
    center_mm: tuple[float, float] = (0.0, 95.0)
    sign_width_mm: float = 457.0
    """The 18 in stop sign of bikeways: the largest whose default sticker fits on A4 and Letter."""
    signs: str | None = None
    backgrounds: str | None = None
    boxes: str | None = None
    """Boxes of the signs or objects in the photos, where they do not lie beside them as boxes.csv.
    """
    object: str = "sign"
    """What carries the patch: a flat "sign", a class of the detector ("person"), or "anywhere" in
    any photo."""
    photos: str | None = None
    share: tuple[float, float] | None = None
    """Width of the patch over the object's diagonal, or anywhere over the picture's side; None: as
    published."""
    ensemble: tuple[str, ...] = ()
    """Further victims, each NAME or NAME=WEIGHTS, that the patch shall beat as well."""
    palette: str | None = None
    content: str | None = None
    content_weight: float = 5.0
    eot: str = "default"
    """A preset of EOT ranges, or ``module:factory`` of a pipeline or stages of one's own."""
    eot_ranges: str | None = None
    """A TOML file of ranges that replace those of the preset."""
    profile: str | None = None
    """A color profile of `calibrate fit`: the measured map takes the place of drawn inks and of
    non-printability."""
    camera_profile: str | None = None
    """A camera profile of `calibrate camera`: its angle of view and distortion take the place of
    the drawn ones."""
    steps: int = 400
    draws: int = 32
    lr: float = 0.04
    tv: float = 0.15
    nps: float = 0.05
    resolution: int = 64
    test_draws: int = 400
    threshold: float | None = None
    """Detection score from which a detector's box counts; None takes the victim's own, or 0.25."""
    seed: int = 0
    device: str = "cpu"
    name: str = ""

    def as_card_table(self) -> dict[str, Any]:
        """The settings as a card spells them: there the model is called ``model``."""
        return {"victim" if k == "model" else k: v for k, v in asdict(self).items()}

    def key(self) -> int:
        """Identifies the settings that decide the optimization: a checkpoint is only taken up by
        its own run."""
        table = {**self.as_card_table(), **profile_checksums(asdict(self))}
        ignored = {"test_draws", "name", "eot_ranges", *PROFILES}
        words = [f"{k}={v}" for k, v in table.items() if k not in ignored]
        if self.eot_ranges:  # what the file states decides, not its name
            words.append(f"eot_ranges={stated_ranges(self).as_dict()}")
        return derive(self.seed, *words)


def stated_ranges(settings: StickerSettings) -> EotRanges:
    """Return the EOT ranges that ``settings`` name: a preset's, with those of a file over them."""
    preset = "default" if is_import_path(settings.eot) else settings.eot
    ranges = eot_preset(preset)
    return ranges if settings.eot_ranges is None else ranges_from_toml(settings.eot_ranges, ranges)


def build_task(
    settings: StickerSettings, *, ranges: EotRanges | None = None
) -> tuple[PatchTask, LoadedModel]:
    """Load the model and the scenes of ``settings`` and test them.

    ``ranges`` take the place of those that the settings name. Raises a PhysadvError for whatever
    cannot be used.
    """
    if settings.steps < 1 or settings.draws < 1 or settings.test_draws < 1:
        raise OptionError(
            "--steps, --draws and --test-draws", "each at least 1", "give positive numbers"
        )
    if not settings.lr > 0 or settings.tv < 0 or settings.nps < 0:
        raise OptionError("--lr, --tv and --nps", "lr over 0, weights at least 0", "correct them")
    models = load_models(settings)
    model = models[0]
    mask = make_mask(
        settings.mask, settings.width_mm, settings.height_mm, longest_px=settings.resolution
    )
    goals = [goal_for(settings, v) for v in models]
    goal, view = goals[0], view_for(models)
    whole, width_mm = view.whole_frame, settings.sign_width_mm
    if ranges is None:
        ranges = with_camera_profile(
            stated_ranges(settings), settings.camera_profile, width_mm, whole_frame=whole
        )
    colors = color_map_of(settings.profile)
    pipeline = None
    if is_import_path(settings.eot):
        pipeline = pipeline_from(settings.eot, ranges, colors=colors)
        ranges = replace(ranges, **pipeline.pose)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def accept(photos: Sequence[PhotoSign]) -> list[bool]:
        return recognized_photos(model, goal, photos, settings.sign_width_mm, device)

    if settings.object == "sign":
        placement = Placement(settings.width_mm, settings.height_mm, settings.center_mm)
        _check_on_sign(placement, settings)
        material = load_scene_sources(
            _path(settings.signs),
            _path(settings.backgrounds),
            width_mm=settings.sign_width_mm,
            seed=settings.seed,
            accept=accept,
            boxes=_path(settings.boxes),
        )
    else:
        placement = Placement(settings.width_mm, settings.height_mm)
        material = photo_material(
            _path(settings.photos),
            kind=settings.object,
            lie=lie_of(settings),
            model=model,
            goal=goal,
            view=view,
            seed=settings.seed,
            boxes=_path(settings.boxes),
        )
    task = PatchTask(
        models,
        goal,
        material,
        mask,
        placement,
        settings.sign_width_mm,
        view,
        ranges,
        settings.seed,
        device,
        goals,
        _look(settings, mask),
        colors,
        pipeline,
    )
    notes = (*material.notes, *_trusted(model, _probe(task).to(device)))
    return replace(task, material=replace(material, notes=notes)), model


@torch.no_grad()
def _trusted(model: LoadedModel, images: Tensor) -> list[str]:
    """Warnings about the victim. Raises ModelError for what no patch can be optimized on, softmax
    among it."""
    with torch.enable_grad():
        warnings = check_model(model, images)
    prediction = model(images)
    if isinstance(prediction, Tensor) and looks_like_probabilities(prediction):
        remedy = 'return logits, or wrap it with as_model(..., outputs="probabilities")'
        raise ModelError("the victim returns softmax probabilities", "logits are needed", remedy)
    return warnings


def load_models(settings: StickerSettings) -> list[LoadedModel]:
    """The victim and the further ones of its ensemble, all of one task: they are shown the same
    pictures."""
    models = [load_model(settings.model, weights=settings.weights, device=settings.device)]
    for text in settings.ensemble:
        name, _, weights = text.partition("=")
        models.append(load_model(name, weights=weights or None, device=settings.device))
    if len({v.card.task for v in models}) > 1:
        said = ", ".join(f"{v.card.name} ({v.card.task})" for v in models)
        raise OptionError(
            said, "an ensemble is of classifiers or of detectors", "make a patch for each kind"
        )
    return models


def lie_of(settings: StickerSettings) -> PatchPose:
    """How a patch lies on photos: the settings, and what is published where they are silent."""
    kind = ANYWHERE if settings.object == ANYWHERE else "objects"
    share = settings.share or SHARES[kind]
    if not 0 < share[0] <= share[1] <= 1:
        raise OptionError(
            f"--share {share[0]:g}:{share[1]:g}",
            "0 < low <= high <= 1",
            "write for example 0.3:0.5",
        )
    return PatchPose(settings.width_mm, settings.height_mm, share, ROLL_DEG[kind])


def _look(settings: StickerSettings, mask: Tensor) -> PatchAppearance:
    palette = None if settings.palette is None else parse_palette(settings.palette)
    if settings.content is None:
        return PatchAppearance(palette)
    picture = read_image(settings.content)[None]
    size = (mask.shape[-2], mask.shape[-1])
    content = torch.nn.functional.interpolate(
        picture, size=size, mode="bilinear", antialias=True
    ).clamp(0, 1)
    return PatchAppearance(palette, content, settings.content_weight)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _probe(task: PatchTask) -> Tensor:
    from physadv.patches.optimize import scenes_of

    return scenes_of(task, task.material.train, 2, "probe").images


def _check_on_sign(placement: Placement, settings: StickerSettings) -> None:
    x, y = placement.center_mm
    half = settings.sign_width_mm / 2
    if abs(x) + placement.width_mm / 2 > half or abs(y) + placement.height_mm / 2 > half:
        raise GeometryError(
            f"sticker {placement.width_mm:g} x {placement.height_mm:g} mm at {x:g}, {y:g}",
            f"reaches beyond the sign of {settings.sign_width_mm:g} mm",
            "make it smaller or move it with --center",
        )


def goal_for(settings: StickerSettings, model: LoadedModel) -> PatchGoal:
    """The settings' goal in the numbers of one victim's classes. Raises ModelError for a class it
    does not know."""
    card, name = model.card, settings.true_class
    if settings.object not in ("sign", ANYWHERE):
        check_object(settings.object, model)
        name = settings.object
    true = 0 if settings.object == ANYWHERE else card.class_index(own_name(name, card.classes))
    target = (
        None
        if settings.target_class is None
        else card.class_index(own_name(settings.target_class, card.classes))
    )
    threshold = settings.threshold
    if threshold is None:
        threshold = float(card.extra.get("score_threshold", 0.25))
    if (
        settings.object == ANYWHERE and target == true
    ):  # every photo has its own class: this one is never used
        true = 1 if target == 0 else 0
    return PatchGoal(settings.goal, true, target, score_threshold=threshold)


def own_name(name: str, classes: Sequence[str]) -> str:
    """A class as this victim calls it: some call a stop sign "stop", "stop sign" or just "street
    sign"."""
    if classes and name not in classes and name in STOP_NAMES:
        return next((own for own in STOP_NAMES if own in classes), name)
    return name


def view_for(models: Sequence[LoadedModel]) -> SceneSize:
    """Square pictures as large as the victim that sees most, before its own crop."""
    sides = [max(v.card.input_size or (64, 64)) for v in models]
    crops = [
        v.net.crop[1] for v in models if isinstance(v.net, Preprocessed) and v.net.crop is not None
    ]
    return SceneSize(max(sides + crops), models[0].card.task == "detect")


@torch.no_grad()
def recognized_photos(
    model: LoadedModel,
    goal: PatchGoal,
    photos: Sequence[PhotoSign],
    width_mm: float,
    device: torch.device,
) -> list[bool]:
    """Which located signs the victim sees as the true class in at least half of a few mild,
    unpatched views."""
    from physadv.core.random_streams import numpy_generator
    from physadv.patches.optimize import sign_boxes

    mild = EotRanges(
        yaw_deg=(-8, 8),
        pitch_deg=(-4, 4),
        roll_deg=(-3, 3),
        size_px=(400, 401),
        frame_share=(0.25, 0.5),
    )
    kept = []
    for number, photo in enumerate(photos):
        scenes = PhotoScenes([photo], width_mm).sample(
            4, view_for([model]), mild, numpy_generator(0, "accept", number)
        )
        boxes = sign_boxes(scenes.homography, width_mm, scenes.images.shape[-1]).to(device)
        kept.append(
            bool(goal.recognized(model(scenes.images.to(device)), boxes).float().mean() >= 0.5)
        )
    return kept


class StickerRun:
    """An optimization with its folder: every validation is a checkpoint, and a second start goes on
    from it."""

    def __init__(self, settings: StickerSettings, out: Path) -> None:
        self.settings, self.out = settings, out
        self.task, self.model = build_task(settings)
        self.resumed_at = 0
        self._last: PatchProgress | None = None

    def steps(self, *, validate_every: int = 50) -> Iterator[PatchProgress]:
        """Run the remaining steps; the best patch so far is on disk whenever ``success`` is not
        None."""
        saved = load_checkpoint(
            self.out, self.settings.key(), self.settings.lr, self.settings.steps
        )
        start: dict[str, Any] = {}
        if saved is not None:
            self.resumed_at, self._last = saved.step, saved
            start = {
                "start": saved.step,
                "patch": saved.patch,
                "state": saved.state,
                "best": (saved.best, saved.best_success),
            }
        loop = optimize_patch(
            self.task,
            steps=self.settings.steps,
            draws=self.settings.draws,
            lr=self.settings.lr,
            tv=self.settings.tv,
            nps=0.0 if self.settings.profile else self.settings.nps,
            validate_every=validate_every,
            **start,
        )
        for progress in loop:
            self._last = progress
            if progress.success is not None:
                save_checkpoint(self.out, progress, self.settings.key())
            yield progress

    def finish(
        self, report: Callable[[int], None] | None = None
    ) -> tuple[PatchBundle, PatchMeasurement]:
        """Measure the best patch on the held-out scenes and write the bundle. OptionError before
        the first step."""
        if self._last is None:
            raise OptionError("no step was made", "at least one is needed", "let it run longer")
        best = to_8bit(
            self.task, self._last.best if self._last.best_success >= 0 else self._last.patch
        )
        measured = measure_patch(self.task, best, draws=self.settings.test_draws, report=report)
        card = make_card(self.settings, self.task, self.model, measured, steps_done=self._last.step)
        card.heldout.update(self._further(best))
        picture = preview_picture(self.task, best)
        bundle = write_bundle(
            self.out,
            card=card,
            patch=best,
            mask=self.task.mask,
            preview=picture,
            rows=list(measured.rows),
        )
        keep_profiles(asdict(self.settings), self.out)
        return bundle, measured

    def _further(self, best: Tensor) -> dict[str, Any]:
        """For the card of an ensemble: the same draws judged by each of its further victims."""
        tables = {}
        for number, text in enumerate(self.settings.ensemble, 1):
            judged = measure_patch(self.task, best, draws=self.settings.test_draws, model=number)
            tables[text.partition("=")[0]] = rates_table(judged)
        return {"further_victims": tables} if tables else {}


def make_card(
    settings: StickerSettings,
    task: PatchTask,
    model: LoadedModel,
    measured: PatchMeasurement,
    *,
    steps_done: int,
) -> PatchCard:
    """The card of a sticker: what it is, where it goes, how it was made, and what was measured."""
    true = ANYWHERE if settings.object == ANYWHERE else model.card.class_name(task.goal.true_class)
    target = (
        None if task.goal.target_class is None else model.card.class_name(task.goal.target_class)
    )
    name = settings.name or f"{model.card.name}-{settings.goal}-{settings.mask}"
    plain = {k: v for k, v in settings.as_card_table().items() if v is not None}
    kept = {k: f"{k}.json" for k in PROFILES if k in plain} | profile_checksums(plain)
    return PatchCard(
        patch=PatchInfo(
            name=name,
            goal=settings.goal,
            true_class=true,
            target_class=target,
            created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            physadv=version("physadv"),
        ),
        size=PatchSize(settings.width_mm, settings.height_mm),
        placement=_card_placement(settings, task),
        victim=ModelInfo(model.card.name, model.card.task, model.card.sha256),
        eot=task.ranges.as_dict(),
        optimisation={
            **plain,
            **kept,
            "steps_done": steps_done,
            "score_threshold": task.goal.score_threshold,
        },
        heldout=heldout_table(task.material, measured),
        versions={
            name: version(name) for name in ("physadv", "torch", "kornia", "numpy", "opencv-python")
        },
    )


def _card_placement(settings: StickerSettings, task: PatchTask) -> CardPlacement:
    """Where it goes: on the sign, or as large a share of an object or of a picture as the photos
    had it on average."""
    if settings.object == "sign":
        sign_mm2 = OCTAGON_SHARE * settings.sign_width_mm**2
        share = area_share(task.mask, settings.width_mm, settings.height_mm, sign_mm2)
        return CardPlacement("stop", settings.sign_width_mm, settings.center_mm, round(share, 4))
    lie = lie_of(settings)
    share = object_share(task.material, lie) * float(task.mask.mean())
    across_mm = round(2 * settings.width_mm / sum(lie.share), 1)
    return CardPlacement(settings.object, across_mm, (0.0, 0.0), round(share, 4))


def heldout_table(material: SceneSources, measured: PatchMeasurement) -> dict[str, Any]:
    """The [heldout] table: rates with their intervals, and in words how the scenes were held out."""
    return {
        **rates_table(measured),
        "scenes": material.kind,
        "notes": list(material.notes),
        "meaning": "success: goal met with the patch, in simulated draws whose clean control is "
        "recognised",
    }


def rates_table(measured: PatchMeasurement) -> dict[str, Any]:
    """The rates of one measurement; for a detector misses, AP and extra boxes of each block beside
    them."""
    rates: dict[str, Any] = {
        "success": measured.success.as_dict(),
        "blank_success": measured.blank_success.as_dict(),
        "clean_recognised": measured.clean_recognised.as_dict(),
        "blank_recognised": measured.blank_recognised.as_dict(),
        "patch_recognised": measured.patch_recognised.as_dict(),
    }
    if measured.detection:
        rates["detection"] = {block: found.as_dict() for block, found in measured.detection.items()}
    return rates
