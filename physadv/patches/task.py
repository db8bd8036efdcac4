"""One patch problem, built from its configuration: models, goal, scenes, placement and draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from physadv.core.errors import GeometryError, ModelError, OptionError
from physadv.core.image_io import read_image
from physadv.core.random_streams import numpy_generator
from physadv.core.types import Model
from physadv.defenses.load_model import load_model
from physadv.eot.color_map import ColorMap
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset, is_import_path, pipeline_from, ranges_from_toml
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.load import SceneSources, load_scene_sources
from physadv.eot.scenes.photos import PatchPose
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import PhotoScenes, PhotoSign, SceneSize, SceneSource
from physadv.eot.warp import apply_homography, square_corners
from physadv.models.cards import LoadedModel
from physadv.models.checks import check_model, looks_like_probabilities
from physadv.models.classifiers import Preprocessed
from physadv.patches.calibrated import color_map_of, with_camera_profile
from physadv.patches.config import PatchConfig
from physadv.patches.photo_task import (
    ANYWHERE,
    ROLL_DEG,
    SHARES,
    check_object_class,
    load_photo_sources,
)
from physadv.threat.patch_goals import PatchGoal
from physadv.threat.printability import PatchAppearance, parse_palette

STOP_NAMES = ("stop", "stop sign", "street sign")
"""Name of the stop sign's class in GTSRB, COCO and ImageNet."""


@dataclass(frozen=True)
class PatchTask:
    """One patch problem: models, goal, scenes, placement and draws.

    Attributes:
        models: The model under attack and the further ones of its ensemble.
        goal: Goal of the patch in the classes of the first model.
        scene_sources: Scenes for training, validation and test.
        mask: Shape (1, 1, ph, pw) of the patch.
        placement: Place of the patch on the sign.
        sign_width_mm: Width of the sign in mm.
        scene_size: Size of the pictures that the models see.
        ranges: Ranges of the transformations.
        seed: Seed of the random streams.
        device: Device of the models.
        goals: Goal in the classes of each model, for an ensemble.
        appearance: Palette and reference image of the patch.
        colors: Measured printer and camera in place of the drawn inks.
        pipeline: Transformations between print and model; None for the built-in ones.
    """

    models: Sequence[Model]
    goal: PatchGoal
    scene_sources: SceneSources
    mask: Tensor  # (1, 1, ph, pw)
    placement: Placement
    sign_width_mm: float
    scene_size: SceneSize
    ranges: EotRanges = field(default_factory=EotRanges)
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    goals: Sequence[PatchGoal] = ()
    appearance: PatchAppearance = field(default_factory=PatchAppearance)
    colors: ColorMap | None = None
    """A measured printer and camera in place of the drawn inks."""
    pipeline: Pipeline | None = None
    """What lies between print and model; None: the built-in stages under ``ranges``."""

    @property
    def stages(self) -> Pipeline:
        """Return the pipeline that every draw goes through."""
        if self.pipeline is not None:
            return self.pipeline
        return Pipeline.from_ranges(self.ranges, colors=self.colors)

    @classmethod
    def from_config(
        cls,
        config: PatchConfig,
        *,
        ranges: EotRanges | None = None,
        model: LoadedModel | None = None,
    ) -> PatchTask:
        """Load the models and scenes of ``config`` and test them.

        Args:
            config: What to optimize, on what, under which draws.
            ranges: EOT ranges in place of those that the configuration names.
            model: Model in place of the one that the configuration names.

        Returns:
            The task, ready to run.

        Raises:
            PhysadvError: Something named cannot be loaded or used: a ModelError for the model, a
                DataError for data, a GeometryError for a sticker beyond its sign, an OptionError
                for an option out of range.

        Example:
            >>> task = PatchTask.from_config(PatchConfig(steps=1))
            >>> task.goal.kind, task.scene_size.size
            ('untargeted', 64)
        """
        return _task_of(config, ranges, model)

    @property
    def loaded_model(self) -> LoadedModel:
        """The model under attack with its card; TypeError for a task without a card."""
        model = self.models[0]
        if not isinstance(model, LoadedModel):
            raise TypeError("the task's model has no card")
        return model

    def goal_of(self, model: int) -> PatchGoal:
        """Return the goal in the classes of the model of number ``model``."""
        return self.goals[model] if self.goals else self.goal


def sample_scenes(task: PatchTask, source: SceneSource, count: int, *name: str | int) -> SceneBatch:
    """Draw scenes of a source.

    Args:
        task: The patch problem.
        source: Source of the scenes.
        count: Number of scenes.
        name: Name of the draw in the random streams.

    Returns:
        The scenes, on the CPU.
    """
    return source.sample(
        count, task.scene_size, task.ranges, numpy_generator(task.seed, "scenes", *name)
    )


def sign_boxes(homography: Tensor, width_mm: float, size: int) -> Tensor:
    """Return the axis-aligned boxes of signs.

    Args:
        homography: Plane of the sign in mm to px (b, 3, 3).
        width_mm: Width of the sign in mm.
        size: Side of the picture in px.

    Returns:
        Boxes (b, 4) in px, cut at the edge of the picture.
    """
    corners = apply_homography(
        homography, square_corners(width_mm).to(homography).expand(len(homography), 4, 2)
    )
    return torch.cat([corners.amin(1), corners.amax(1)], -1).clamp(0, size)


def configured_ranges(config: PatchConfig) -> EotRanges:
    """Return the EOT ranges that ``config`` names: those of a preset, with those of a file over
    them."""
    preset = "default" if is_import_path(config.eot) else config.eot
    ranges = eot_preset(preset)
    return ranges if config.eot_ranges is None else ranges_from_toml(config.eot_ranges, ranges)


def goal_for(config: PatchConfig, model: LoadedModel) -> PatchGoal:
    """Return the goal of a configuration in the class numbers of a model.

    Args:
        config: The configuration.
        model: The model.

    Returns:
        The goal.

    Raises:
        ModelError: The model does not know a class.
    """
    card, name = model.card, config.true_class
    if config.object not in ("sign", ANYWHERE):
        check_object_class(config.object, model)
        name = config.object
    true = 0 if config.object == ANYWHERE else card.class_index(class_name_for(name, card.classes))
    target = (
        None
        if config.target_class is None
        else card.class_index(class_name_for(config.target_class, card.classes))
    )
    threshold = config.threshold
    if threshold is None:
        threshold = float(card.extra.get("score_threshold", 0.25))
    if (
        config.object == ANYWHERE and target == true
    ):  # every photo has its own class: this one is never used
        true = 1 if target == 0 else 0

    return PatchGoal(config.goal, true, target, score_threshold=threshold)


def class_name_for(name: str, classes: Sequence[str]) -> str:
    """Return the class ``name`` as ``classes`` spell it: a stop sign may be "stop", "stop sign" or
    "street sign"."""
    if classes and name not in classes and name in STOP_NAMES:
        return next((own for own in STOP_NAMES if own in classes), name)
    return name


def scene_size_for(models: Sequence[LoadedModel]) -> SceneSize:
    """Return the size of pictures for ``models``: square, as large as the largest input before its
    own crop."""
    sides = [max(v.card.input_size or (64, 64)) for v in models]
    crops = [
        v.net.crop[1] for v in models if isinstance(v.net, Preprocessed) and v.net.crop is not None
    ]
    return SceneSize(max(sides + crops), models[0].card.task == "detect")


def load_ensemble(config: PatchConfig, given: LoadedModel | None = None) -> list[LoadedModel]:
    """Return the model under attack and the further ones of its ensemble.

    Args:
        config: Names, weights and device.
        given: Model in place of the one that the configuration names.

    Returns:
        The models, of one task, since all are shown the same pictures.

    Raises:
        ModelError: A model cannot be loaded.
        OptionError: The ensemble mixes classifiers and detectors.
    """
    first = given or load_model(config.model, weights=config.weights, device=config.device)
    models = [first]
    for text in config.ensemble:
        name, _, weights = text.partition("=")
        models.append(load_model(name, weights=weights or None, device=config.device))

    if len({model.card.task for model in models}) > 1:
        names = ", ".join(f"{model.card.name} ({model.card.task})" for model in models)
        raise OptionError(
            names, "An ensemble is of classifiers or of detectors", "Make a patch for each kind"
        )
    return models


def pose_of(config: PatchConfig) -> PatchPose:
    """Return how a patch lies in photos: as ``config`` states, else as published. Raises
    OptionError for a share out of range."""
    kind = ANYWHERE if config.object == ANYWHERE else "objects"
    share = config.share or SHARES[kind]
    if not 0 < share[0] <= share[1] <= 1:
        raise OptionError(
            f"--share {share[0]:g}:{share[1]:g}",
            "0 < low <= high <= 1",
            "write for example 0.3:0.5",
        )
    return PatchPose(config.width_mm, config.height_mm, share, ROLL_DEG[kind])


@torch.no_grad()
def recognized_photos(
    model: LoadedModel,
    goal: PatchGoal,
    photos: Sequence[PhotoSign],
    width_mm: float,
    device: torch.device,
) -> list[bool]:
    """Tell which located signs a model recognizes in at least half of a few mild, unpatched views.

    Args:
        model: The model.
        goal: Goal, whose true class counts.
        photos: Located signs.
        width_mm: Width of the sign in mm.
        device: Device of the model.

    Returns:
        One answer a photo.
    """
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
            4, scene_size_for([model]), mild, numpy_generator(0, "accept", number)
        )
        boxes = sign_boxes(scenes.homography, width_mm, scenes.images.shape[-1]).to(device)
        kept.append(
            bool(goal.recognized(model(scenes.images.to(device)), boxes).float().mean() >= 0.5)
        )

    return kept


def _task_of(config: PatchConfig, ranges: EotRanges | None, given: LoadedModel | None) -> PatchTask:
    """Load the models and the scenes of a configuration and test them."""
    if not config.lr > 0:
        raise OptionError(f"--lr {config.lr:g}", "A step size over 0 is needed", "Use 0.04")

    models = load_ensemble(config, given)
    model = models[0]
    mask = make_mask(config.mask, config.width_mm, config.height_mm, longest_px=config.resolution)
    goals = [goal_for(config, v) for v in models]
    goal, view = goals[0], scene_size_for(models)
    whole, width_mm = view.whole_frame, config.sign_width_mm
    if ranges is None:
        ranges = with_camera_profile(
            configured_ranges(config), config.camera_profile, width_mm, whole_frame=whole
        )
    colors = color_map_of(config.profile)
    pipeline = None
    if is_import_path(config.eot):
        pipeline = pipeline_from(config.eot, ranges, colors=colors)
        ranges = replace(ranges, **pipeline.pose)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def accept(photos: Sequence[PhotoSign]) -> list[bool]:
        return recognized_photos(model, goal, photos, config.sign_width_mm, device)

    if config.object == "sign":
        placement = Placement(config.width_mm, config.height_mm, config.center_mm)
        _check_on_sign(placement, config)
        material = load_scene_sources(
            _path(config.signs),
            _path(config.backgrounds),
            width_mm=config.sign_width_mm,
            seed=config.seed,
            accept=accept,
            boxes=_path(config.boxes),
        )
    else:
        placement = Placement(config.width_mm, config.height_mm)
        material = load_photo_sources(
            _path(config.photos),
            kind=config.object,
            pose=pose_of(config),
            model=model,
            goal=goal,
            view=view,
            seed=config.seed,
            boxes=_path(config.boxes),
        )
    task = PatchTask(
        models,
        goal,
        material,
        mask,
        placement,
        config.sign_width_mm,
        view,
        ranges,
        config.seed,
        device,
        goals,
        _look(config, mask),
        colors,
        pipeline,
    )
    notes = (*material.notes, *_trusted(model, _probe(task).to(device)))
    return replace(task, scene_sources=replace(material, notes=notes))


@torch.no_grad()
def _trusted(model: LoadedModel, images: Tensor) -> list[str]:
    """Warnings about the model. Raises ModelError for what no patch can be optimized on, softmax
    among it."""
    with torch.enable_grad():
        warnings = check_model(model, images)
    prediction = model(images)
    if isinstance(prediction, Tensor) and looks_like_probabilities(prediction):
        remedy = 'return logits, or wrap it with as_model(..., outputs="probabilities")'
        raise ModelError("the model returns softmax probabilities", "logits are needed", remedy)
    return warnings


def _look(config: PatchConfig, mask: Tensor) -> PatchAppearance:
    palette = None if config.palette is None else parse_palette(config.palette)
    if config.content is None:
        return PatchAppearance(palette)
    picture = read_image(config.content)[None]
    size = (mask.shape[-2], mask.shape[-1])
    content = torch.nn.functional.interpolate(
        picture, size=size, mode="bilinear", antialias=True
    ).clamp(0, 1)
    return PatchAppearance(palette, content, config.content_weight)


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


def _probe(task: PatchTask) -> Tensor:
    return sample_scenes(task, task.scene_sources.train, 2, "probe").images


def _check_on_sign(placement: Placement, config: PatchConfig) -> None:
    x, y = placement.center_mm
    half = config.sign_width_mm / 2
    if abs(x) + placement.width_mm / 2 > half or abs(y) + placement.height_mm / 2 > half:
        raise GeometryError(
            f"sticker {placement.width_mm:g} x {placement.height_mm:g} mm at {x:g}, {y:g}",
            f"reaches beyond the sign of {config.sign_width_mm:g} mm",
            "make it smaller or move it with --center",
        )
