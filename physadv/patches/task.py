"""One patch problem, built from its configuration: models, goals, scenes, placement and EOT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from physadv.attacks.patch_search import METHODS
from physadv.core.errors import OptionError
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.core.random_streams import numpy_generator
from physadv.core.stop_signs import STOP_NAMES
from physadv.core.types import Model
from physadv.defenses.load_model import load_model
from physadv.eot.color_map import ColorMap
from physadv.eot.mask_shapes import make_mask
from physadv.eot.pipeline import Pipeline
from physadv.eot.placement import Placement
from physadv.eot.presets import eot_preset, pipeline_from, ranges_from_toml
from physadv.eot.profiles import read_camera_profile, read_color_profile
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.load import SceneSources
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.scenes.signs import SceneSize, SceneSource
from physadv.models.black_box import black_box_within
from physadv.models.cards import LoadedModel
from physadv.models.checks import check_model, require_logits
from physadv.models.loading import is_import_path
from physadv.models.resizing import Fit
from physadv.patches.config import ANYWHERE, WITHOUT_TARGET, PatchConfig
from physadv.patches.photo_sources import load_photo_sources
from physadv.patches.sign_sources import load_sign_sources, sticker_placement
from physadv.threat.patch_goals import PatchGoal
from physadv.threat.printability import PatchAppearance

_CROP_SIDE, _FRAME_SIDE = 64, 640
"""Side in px of what a classifier and a detector are shown that state no input size."""


@dataclass(frozen=True)
class PatchTask:
    """One patch problem: which models are attacked, in which scenes, under which draws of EOT.

    Args:
        models: Model under attack, then the further ones of an ensemble.
        goal: Goal in the terms of the first model.
        scene_sources: Scenes for training, validation and test.
        mask: Shape of the patch (1, 1, ph, pw) in [0, 1].
        placement: Size of the patch and its place on the plane of the scenes, in mm.
        sign_width_mm: Width of the sign.
        scene_size: Size of the scenes of the first model.
        ranges: Ranges of EOT.
        seed: Seed of every random stream.
        device: Device of the models.
        goals: Goals in the terms of each model, which number their classes differently; empty where
            that of the first serves all.
        scene_sizes: Size of the scenes of each model; empty where that of the first serves all.
        appearance: Palette or reference image of the patch.
        colors: Measured printer and camera in place of the drawn inks.
        pipeline: What lies between print and model; None for the built-in stages under ``ranges``.
        processes: Processes that share the draws of steps and measurements.
    """

    models: Sequence[Model]
    goal: PatchGoal
    scene_sources: SceneSources
    mask: Tensor
    placement: Placement
    sign_width_mm: float
    scene_size: SceneSize
    ranges: EotRanges = field(default_factory=EotRanges)
    seed: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    goals: Sequence[PatchGoal] = ()
    scene_sizes: Sequence[SceneSize] = ()
    appearance: PatchAppearance = field(default_factory=PatchAppearance)
    colors: ColorMap | None = None
    pipeline: Pipeline | None = None
    processes: ProcessGroup = ALONE

    @property
    def stages(self) -> Pipeline:
        """The pipeline that every draw goes through."""
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
        plain_backgrounds: bool = False,
    ) -> PatchTask:
        """Load the models and scenes of ``config`` and test them.

        Args:
            config: What to optimize, on what, under which draws.
            ranges: EOT ranges in place of those that the configuration names.
            model: Model in place of the one that the configuration names.
            plain_backgrounds: Whether frames without photos have the plain backgrounds of patches
                made before 0.4, in place of drawn streets.

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
        if not config.lr > 0:
            raise OptionError(f"--lr {config.lr:g}", "A step size over 0 is needed", "Use 0.04")

        models = _load_ensemble(config, model)
        first = models[0]
        goals = [goal_for(config, one) for one in models]
        config = replace(config, size_mm=size_for(config, models, goals[0]))
        sizes, own_size = _scene_sizes(models), scene_size_for(models[:1])
        size = sizes[0]
        drawn, colors, pipeline = _read_eot(config, ranges, whole_frame=size.whole_frame)

        mask = make_mask(
            config.mask, config.width_mm, config.height_mm, longest_px=config.resolution
        )
        appearance = PatchAppearance.from_files(
            config.palette, config.content, config.content_weight, (mask.shape[-2], mask.shape[-1])
        )

        if config.object == "sign":
            placement = sticker_placement(config)
            sources = load_sign_sources(
                config,
                first,
                goals[0],
                own_size,
                streets=not plain_backgrounds and any(one.whole_frame for one in sizes),
            )
        else:
            placement = Placement(config.width_mm, config.height_mm)
            sources = load_photo_sources(config, first, goals[0], size)

        task = cls(
            models=models,
            goal=goals[0],
            scene_sources=sources,
            mask=mask,
            placement=placement,
            sign_width_mm=config.sign_width_mm,
            scene_size=size,
            ranges=drawn,
            seed=config.seed,
            device=first.device,
            goals=goals,
            scene_sizes=sizes,
            appearance=appearance,
            colors=colors,
            pipeline=pipeline,
        )
        probe = sample_scenes(task, task.scene_sources.train, 2, "probe").images.to(first.device)
        by_scores = config.search_by in METHODS or black_box_within(first) is not None
        notes = (*sources.notes, *check_model(first, probe, gradients=not by_scores))
        require_logits(first, probe)
        return replace(task, scene_sources=replace(sources, notes=notes))

    @property
    def model_tasks(self) -> set[str]:
        """What the models do, "classify" or "detect"; those without a card left out."""
        return {model.card.task for model in self.models if isinstance(model, LoadedModel)}

    @property
    def loaded_model(self) -> LoadedModel:
        """The model under attack with its card; TypeError for a task without a card."""
        model = self.models[0]
        if not isinstance(model, LoadedModel):
            raise TypeError("the task's model has no card")
        return model

    def goal_of(self, model: int) -> PatchGoal:
        """Return the goal in the terms of the model with the number ``model``."""
        return self.goals[model] if self.goals else self.goal

    def only(self, numbers: Sequence[int]) -> PatchTask:
        """Return the same task for some of its models, which share one size of scenes.

        Args:
            numbers: Numbers of these models, at least one.
        """
        goals = [self.goal_of(number) for number in numbers]
        return replace(
            self,
            models=[self.models[number] for number in numbers],
            goal=goals[0],
            goals=goals,
            scene_size=self._scene_size_of(numbers[0]),
            scene_sizes=(),
        )

    def by_scene_size(self) -> list[PatchTask]:
        """Return the task in parts, each of the models that can be shown the same pictures.

        Crops of the sign are one part and whole frames another; mostly one part is all there is.
        """
        numbers = range(len(self.models))
        sizes = dict.fromkeys(self._scene_size_of(number) for number in numbers)
        return [
            self.only([number for number in numbers if self._scene_size_of(number) == size])
            for size in sizes
        ]

    def _scene_size_of(self, model: int) -> SceneSize:
        return self.scene_sizes[model] if self.scene_sizes else self.scene_size


def sample_scenes(task: PatchTask, source: SceneSource, count: int, *name: str | int) -> SceneBatch:
    """Sample scenes; the task's seed and the name decide which.

    Args:
        task: Its size of scenes, ranges and seed.
        source: Training, validation or test scenes of the task.
        count: Number of scenes.
        name: Name of the random stream.

    Returns:
        The scenes, without a patch.
    """
    stream = numpy_generator(task.seed, "scenes", *name)
    return source.sample(count, task.scene_size, task.ranges, stream)


def goal_for(config: PatchConfig, model: LoadedModel) -> PatchGoal:
    """Return the goal in ``config`` with the class numbers and the score threshold of ``model``.

    Raises:
        ModelError: The model has no class of that name.
        OptionError: The goal has no meaning on what carries the patch.

    Example:
        >>> from physadv.defenses.load_model import load_model
        >>> goal_for(PatchConfig(), load_model("signs")).true_class
        14
    """
    card, true_name = model.card, config.true_class
    if config.object not in ("sign", ANYWHERE):
        _check_object_class(config.object, model)
        true_name = config.object

    target = None
    if config.target_class is not None and config.goal not in WITHOUT_TARGET:
        target = card.class_index(class_name_for(config.target_class, card.classes))

    # A photo anywhere has a class of its own, so this number is never used, only unlike the target.
    if config.object == ANYWHERE:
        true = 1 if target == 0 else 0
    else:
        true = card.class_index(class_name_for(true_name, card.classes))

    if config.object == ANYWHERE and card.task == "detect" and config.goal != "create":
        raise OptionError(
            f"Goal {config.goal!r} {ANYWHERE} in a photo for a detector",
            "Only a box can be made to appear there",
            "Use --goal create --target CLASS, or --object CLASS to put the patch on objects",
        )
    threshold = config.threshold
    if threshold is None:
        threshold = float(card.extra.get("score_threshold", 0.25))
    return PatchGoal(config.goal, true, target, score_threshold=threshold)


def size_for(config: PatchConfig, models: Sequence[Model], goal: PatchGoal) -> tuple[float, float]:
    """Return the size in mm of the sticker of ``config`` on ``models``, which it may leave open.

    Args:
        config: Its size, shape and place.
        models: All models under attack.
        goal: Goal in the terms of the first.
    """
    cards = [model.card for model in models if isinstance(model, LoadedModel)]
    detectors = len(cards) == len(models) and {card.task for card in cards} == {"detect"}
    name = cards[0].class_name(goal.true_class) if cards else ""
    return config.size_on(class_name=name, detectors=detectors)


def class_name_for(name: str, classes: Sequence[str]) -> str:
    """Return the name that a model with these ``classes`` has for the class called ``name``.

    Only a stop sign has several (:data:`STOP_NAMES`); any other name is returned as it is.

    Example:
        >>> class_name_for("stop", ("car", "stop sign"))
        'stop sign'
    """
    if classes and name not in classes and name in STOP_NAMES:
        return next((known for known in STOP_NAMES if known in classes), name)
    return name


def _check_object_class(kind: str, model: LoadedModel) -> None:
    """Raise OptionError where ``model`` cannot find objects of class ``kind`` to carry a patch."""
    if kind != ANYWHERE and model.card.task != "detect":
        raise OptionError(
            f'Objects of class "{kind}" for "{model.card.name}", which is a classifier',
            "Only a detector finds the objects that carry a patch",
            f"Name a detector with --model, or use --object {ANYWHERE}",
        )


def scene_size_for(models: Sequence[LoadedModel]) -> SceneSize:
    """Return the size of scenes for ``models``: square, as large as the largest input of theirs.

    A model that crops its input counts with its size before the crop. Frames are fitted into it as
    the first model does it.
    """
    sides = [_longest_side(model) for model in models]
    resizings = [model.card.resizing for model in models]
    uncropped = [max(each.uncropped_size) for each in resizings if each is not None]
    whole_frame = models[0].card.task == "detect"
    fit = _frame_fit(models[0]) if whole_frame else "stretch"
    return SceneSize(max(sides + uncropped), whole_frame, fit)


def _longest_side(model: LoadedModel) -> int:
    """Longer side in px of a model's input, or of what it is shown where it takes any size."""
    if model.card.input_size is not None:
        return max(model.card.input_size)
    return _FRAME_SIDE if model.card.task == "detect" else _CROP_SIDE


def _frame_fit(model: LoadedModel) -> Fit:
    """How ``model`` fits a frame into its input; a model that crops is given what it keeps."""
    resizing = model.card.resizing
    return "stretch" if resizing is None or resizing.fit == "crop" else resizing.fit


def _scene_sizes(models: Sequence[LoadedModel]) -> list[SceneSize]:
    """The size of scenes of each model: one for all classifiers, and one for all detectors that fit
    a frame into their input alike."""

    def kind(model: LoadedModel) -> tuple[str, Fit | None]:
        task = model.card.task
        return task, _frame_fit(model) if task == "detect" else None

    sizes = {
        one: scene_size_for([model for model in models if kind(model) == one])
        for one in dict.fromkeys(kind(model) for model in models)
    }
    return [sizes[kind(model)] for model in models]


def configured_ranges(config: PatchConfig) -> EotRanges:
    """Return the EOT ranges named in ``config``: a preset's, with those of its file over them.

    Raises:
        OptionError: The preset is unknown, or the file cannot be read or states no ranges.

    Example:
        >>> configured_ranges(PatchConfig(eot="brown")).roll_deg
        (-45.0, 45.0)
    """
    preset = "default" if is_import_path(config.eot) else config.eot
    ranges = eot_preset(preset)
    return ranges if config.eot_ranges is None else ranges_from_toml(config.eot_ranges, ranges)


def _read_eot(
    config: PatchConfig, given: EotRanges | None, *, whole_frame: bool
) -> tuple[EotRanges, ColorMap | None, Pipeline | None]:
    """The ranges, colors and own pipeline of ``config``; ``given`` ranges are taken as they are."""
    ranges = configured_ranges(config) if given is None else given
    if given is None and config.camera_profile is not None:
        camera = read_camera_profile(config.camera_profile)
        ranges = camera.narrow_ranges(
            ranges, sign_width_mm=config.sign_width_mm, whole_frame=whole_frame
        )
    colors = None if config.profile is None else read_color_profile(config.profile).color_map()
    if not is_import_path(config.eot):
        return ranges, colors, None

    # An own pipeline decides the distances and angles of the scenes that it is given.
    pipeline = pipeline_from(config.eot, ranges, colors=colors)
    return replace(ranges, **pipeline.pose), colors, pipeline


def _load_ensemble(config: PatchConfig, given: LoadedModel | None) -> list[LoadedModel]:
    """The model under attack, ``given`` or by name, and the further ones."""
    first = given or load_model(
        config.model,
        weights=config.weights,
        device=config.device,
        settings=config.model_settings,
    )
    models = [first]
    for text in config.ensemble:
        name, _, weights = text.partition("=")
        models.append(load_model(name, weights=weights or None, device=config.device))

    # A sign is shown as a crop to the one and in a frame to the other; a photo is what it is.
    if config.object != "sign" and len({model.card.task for model in models}) > 1:
        names = ", ".join(f"{model.card.name} ({model.card.task})" for model in models)
        raise OptionError(
            names,
            "On photos an ensemble is of classifiers or of detectors",
            "Make a patch for each kind",
        )
    return models
