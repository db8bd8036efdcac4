"""Construction of a check from its configuration: model, goal, sources, locator and lens."""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from physadv.camera.lens import ASSUMED, LensFor, lens_for
from physadv.camera.localization.location import Locator, SignLocation
from physadv.camera.localization.reference_images import reference_images, shows_sign
from physadv.camera.localization.with_pose import WidthOf, with_pose
from physadv.camera.open_source import BLOCKS, FrameSource, open_frame_source
from physadv.check.config import CheckConfig
from physadv.check.frame_verdict import ANYWHERE, verdict_rule
from physadv.check.live.remote_control import RemoteControl
from physadv.check.locators import locator_for, select_box
from physadv.check.run_check import BlockSource, CheckProgress, run_check
from physadv.check.stopping_rule import WIDTH, check_width
from physadv.core.addresses import public_address
from physadv.core.errors import ModelError, OptionError
from physadv.core.package_data import bundle_folder
from physadv.defenses.load_model import load_model
from physadv.models.cards import LoadedModel
from physadv.models.loading import pick_device
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.patches.config import WITHOUT_TARGET
from physadv.patches.reverify import refuse_foreign_models
from physadv.printing.layout import sign_page_layout

_METERS = {"mm": 0.001, "cm": 0.01, "m": 1.0}


@dataclass(frozen=True)
class CheckGoal:
    """Model, goal and classes of a check: the bundle's, unless the configuration names others.

    Attributes:
        model: Name of the model under test.
        goal: One of ``physadv.threat.patch_goals.GOALS``.
        true_class: Class of the sign or object; "anywhere" for a patch on none in particular.
        target: Class aimed at, where the goal has one.
        sign_width_mm: Width of the sign for which the patch was made, where known.
        bundle: The bundle, where there is one.
    """

    model: str
    goal: str
    true_class: str
    target: str | None = None
    sign_width_mm: float | None = None
    bundle: PatchBundle | None = None

    @classmethod
    def from_config(cls, config: CheckConfig) -> CheckGoal:
        """Read the bundle that ``config`` names, if any, and merge both.

        Raises OptionError where neither gives what is needed, BundleError for a folder that is no
        bundle, and ModelError where its card names a model that is not built in.
        """
        if config.bundle is None:
            # What appears where nothing is has no true class.
            true_class = config.true_class or (ANYWHERE if config.goal == "create" else None)
            if config.model is None or config.goal is None or true_class is None:
                raise OptionError(
                    "No --bundle is given",
                    "without one, --model, --goal and --true-class are needed",
                    "Name the bundle that was printed",
                )
            return cls(config.model, config.goal, true_class, config.target, config.sign_width_mm)

        bundle = read_bundle(bundle_folder(Path(config.bundle)))
        card = bundle.card
        if config.model is None:
            refuse_foreign_models(bundle, (card.victim.name,))
        return cls(
            config.model or card.victim.name,
            config.goal or card.patch.goal,
            config.true_class or card.patch.true_class,
            config.target or card.patch.target_class,
            config.sign_width_mm or card.placement.sign_width_mm,
            bundle,
        )

    @property
    def run_id(self) -> str | None:
        """Run that made the bundle's patch; None without a bundle."""
        return None if self.bundle is None else self.bundle.card.patch.run_id or None

    def as_record(self) -> dict[str, Any]:
        """Return the facts of the bundle for the check's record and report."""
        if self.bundle is None:
            return {}

        card = self.bundle.card
        facts = {
            "name": card.patch.name,
            "sha256": card.patch.sha256,
            "run_id": card.patch.run_id,
            "folder": str(self.bundle.folder),
            "victim": card.victim.name,
            "victim_sha256": card.victim.sha256,
            "heldout": card.heldout,
            "sign": card.placement.sign,
            "sign_width_mm": card.placement.sign_width_mm,
        }
        return {"bundle": facts}


@dataclass(frozen=True)
class CheckTask:
    """A check that is ready to run: everything but the sources is open and validated.

    Attributes:
        config: The configuration, with the box that was drawn, if any.
        goal: Model, goal and classes.
        model: Model under test, on its device.
        locator: Finds the sign in a frame, with its pose.
        lens: Lens of the camera by picture size.
        width_mm: Width of the sign by location, where known.

    Example:
        >>> config = CheckConfig(source="clip.mp4", bundle="stop-sticker-signs-v1")
        >>> task = CheckTask.from_config(config)
        >>> task.goal.true_class
        'stop'
    """

    config: CheckConfig
    goal: CheckGoal
    model: LoadedModel
    locator: Locator
    lens: LensFor
    width_mm: WidthOf

    @classmethod
    def from_config(cls, config: CheckConfig, *, model: LoadedModel | None = None) -> CheckTask:
        """Load and check everything that ``config`` names apart from the sources.

        ``model`` takes the place of the model that the configuration or its bundle names.

        Raises OptionError for values that contradict each other, and the errors of reading a
        bundle, a camera profile and a model.
        """
        check_width(config.width or None)
        if config.block is not None and config.block not in BLOCKS:
            raise OptionError(
                f"--block {config.block}", f"one of {', '.join(BLOCKS)}", "Correct the name"
            )
        lens, distance_m = _lens_of(config), _parse_distance(config.distance)
        if model is not None:
            config = replace(config, model=model.card.name)
        goal = CheckGoal.from_config(config)
        width_mm = _width_rule(config, goal)
        model = model or load_model(
            goal.model,
            weights=config.weights,
            device=config.device,
            settings=config.model_settings,
        )

        if config.select:
            with open_frame_source(config.source, **_source_settings(config)) as source:
                config = replace(config, box=select_box(next(iter(source))), select=False)
        locator = with_pose(
            _locator_of(config, goal, model), sign_width_mm=width_mm, lens=lens, typed_m=distance_m
        )
        return cls(config, goal, model, locator, lens, width_mm)

    @property
    def recorded(self) -> CheckConfig:
        """Configuration for the record of the run: addresses without user, password and query."""
        return recorded_config(self.config)

    @property
    def facts(self) -> dict[str, Any]:
        """Bundle and origin of distances, for check.json."""
        return {**self.goal.as_record(), "geometry": _geometry(self.config)}

    @property
    def claim(self) -> dict[str, str | None]:
        """Goal and classes by name, as in check.json.

        Raises OptionError and ModelError where they do not fit the model.
        """
        goal = self.goal
        rule = verdict_rule(
            self.model.card, goal=goal.goal, true_class=goal.true_class, target_class=goal.target
        )
        return rule.claim(str(goal.true_class))

    def unused_options(self, sources: Sequence[BlockSource]) -> list[str]:
        """Return one text for each option that changes nothing with this model, this goal and
        these ``sources``, as :meth:`~physadv.core.config.Config.unused_options` does."""
        unused, goal = dict[str, str](), self.goal.goal
        if goal in WITHOUT_TARGET:
            unused["target"] = f"the goal {goal!r} has none"
        if goal == "create":
            unused["true_class"] = "where something shall appear, there is none"

        kinds = {source.source.kind for source in sources}
        if "camera" not in kinds:
            unused |= dict.fromkeys(("camera_size", "lock"), "no source is a camera")
        if not kinds & {"camera", "stream"}:
            unused["retry"] = "no source is live"
        if not kinds & {"video", "clips"}:
            unused["every"] = "no source is a video"
        if not kinds - {"photos", "twin"}:
            unused["clip_seconds"] = "no source is a recording or live"

        strategy, way = self.config.locate, f"--locate {self.config.locate} looks in another way"
        if strategy not in ("auto", "box"):
            unused["box"] = way
        if strategy not in ("auto", "detector"):
            unused["detector_weights"] = way
        return [
            *self.config.unused_options(unused),
            *self.config.unused_with_models([self.model.card.task]),
        ]

    def open_sources(self, stack: ExitStack) -> list[BlockSource]:
        """Open the controls, then the source itself; ``stack`` closes them.

        The source's block is the configuration's, else that of the twin or the markers, else, for a
        file, "patch". Raises CaptureError naming what did not open, and OptionError for a twin of
        another patch.
        """
        config, settings = self.config, _source_settings(self.config)

        def opened(spec: str) -> FrameSource:
            return stack.enter_context(open_frame_source(spec, **settings))

        controls = {"clean": config.clean, "blank": config.blank}
        sources = [BlockSource(opened(s), b) for b, s in controls.items() if s is not None]
        main = opened(config.source)
        for source in (*(each.source for each in sources), main):
            _refuse_foreign_twin(source, self.goal.run_id)
        fallback = None if main.live or main.kind == "twin" else "patch"
        return [*sources, BlockSource(main, config.block, fallback)]

    def run(
        self,
        sources: list[BlockSource],
        folder: str | Path,
        *,
        facts: Mapping[str, Any] | None = None,
        remote: RemoteControl | None = None,
        on_message: Callable[[str], None] | None = None,
    ) -> Generator[CheckProgress, None, None]:
        """Classify every frame and write the rows.

        Args:
            sources: Sources of :meth:`open_sources`.
            folder: Folder of the run; an interrupted check there is continued.
            facts: Further facts for check.json.
            remote: Input of a person who watches.
            on_message: Called with a line when a source is lost or returns.

        Returns:
            A generator of :class:`~physadv.check.session.CheckProgress`; closing it ends the check.

        Raises:
            OptionError: Classes, goal or folder do not fit.
            CaptureError: No frame could be classified.
            ModelError: The model returned NaN.
        """
        config, goal = self.config, self.goal

        live = any(source.source.live for source in sources)
        width = WIDTH if live and config.width is None else config.width

        return run_check(
            sources,
            self.model,
            folder=folder,
            locator=self.locator,
            goal=goal.goal,
            true_class=goal.true_class,
            target_class=goal.target,
            threshold=config.threshold,
            iou=config.iou,
            max_frames=config.max_frames,
            device=str(pick_device(config.device)),
            seed=config.seed,
            about={**self.facts, **(facts or {})},
            run_id=goal.run_id,
            width=width or None,
            remote=remote,
            on_message=on_message,
        )


def recorded_config(config: CheckConfig) -> CheckConfig:
    """Return ``config`` for the record of its run: addresses without user, password and query."""
    return replace(
        config,
        source=public_address(config.source),
        clean=None if config.clean is None else public_address(config.clean),
        blank=None if config.blank is None else public_address(config.blank),
    )


def _refuse_foreign_twin(source: FrameSource, run_id: str | None) -> None:
    """Raise OptionError where ``source`` is a twin that was filmed of another run's patch."""
    filmed = (source.settings.get("twin") or {}).get("run_id")
    if run_id and filmed and filmed != run_id:
        raise OptionError(
            f"{source.name} shows the patch of run {filmed}",
            f"the bundle is of run {run_id}",
            "Name the bundle that was filmed, or film this one with `physadv twin`",
        )


def _source_settings(config: CheckConfig) -> dict[str, Any]:
    """Return the keyword arguments of :func:`open_frame_source`."""
    return {
        "timeout_s": config.timeout,
        "camera_size": config.camera_size,
        "clip_seconds": config.clip_seconds or 0.0,
        "every": config.every,
        "max_frames": config.max_frames,
        "retry_s": config.retry,
        "hold": config.lock,
    }


def _locator_of(config: CheckConfig, goal: CheckGoal, model: LoadedModel) -> Locator:
    """Build the locator of the configured strategy.

    In "auto" a detector is loaded for classifiers of signs only, and only if its weights are
    installed. What is no drawn sign, such as a person, is looked for by the sticker on it, and else
    anywhere in the frame.
    """
    given = (config.source, config.clean, config.blank)
    twins_only = all((Path(s) / "truth.jsonl").is_file() for s in given if s is not None)
    strategy, classifies = config.locate, model.card.task == "classify"
    on_sign = goal.bundle is None or shows_sign(goal.bundle)

    detector = None
    required = strategy == "detector" or config.detector_weights is not None
    if required or (strategy == "auto" and classifies and on_sign and not twins_only):
        try:
            detector = load_model("fastestdet", weights=config.detector_weights)
        except ModelError:
            if required:
                raise

    build = partial(
        locator_for,
        strategy,
        box=config.box,
        detector=detector,
        whole_frame=not (classifies and on_sign),
    )
    wants_features = strategy in {"auto", "features"} and not twins_only and config.box is None
    if not wants_features or goal.bundle is None:
        return build()
    try:
        return build(references=reference_images(goal.bundle), sticker_alone=not on_sign)
    except OptionError:
        if strategy == "features":
            raise
        return build()  # a patch without corners, which cannot be recognized


def _width_rule(config: CheckConfig, goal: CheckGoal) -> WidthOf:
    """Return the sign's width by location: as configured, a test page's by its markers, else the
    bundle's."""
    page_width = _page_width_mm(config)
    size = None if goal.bundle is None else goal.bundle.card.size

    def width_mm(location: SignLocation) -> float | None:
        if location.is_part and size is not None:
            return max(size.width_mm, size.height_mm)
        if config.sign_width_mm is not None:
            return config.sign_width_mm
        return page_width if location.by == "fiducials" else goal.sign_width_mm

    return width_mm


def _page_width_mm(config: CheckConfig) -> float:
    """Width of the sign on a test page. Raises GeometryError for paper that is not known."""
    return sign_page_layout(config.paper, "clean").sign.w


def _lens_of(config: CheckConfig) -> LensFor:
    """Return the lens by profile or by focal length. Raises OptionError for both."""
    if config.camera_profile is not None and config.focal_px is not None:
        raise OptionError(
            "--camera-profile with --focal-px",
            "only one of the two can be used",
            "Leave one out; the profile holds the focal length",
        )
    return lens_for(config.camera_profile, config.focal_px)


def _geometry(config: CheckConfig) -> dict[str, Any]:
    """Origin of the distances, for the record and the report."""
    if config.camera_profile:
        known, words = "profile", f"profile {Path(config.camera_profile).name}"
    elif config.focal_px:
        known, words = "typed", f"focal length {config.focal_px:g} px, as typed"
    else:
        known = "assumed"
        words = f"assumed: focal length {ASSUMED:g} times the picture's longer side"
    width = config.sign_width_mm or _page_width_mm(config)
    return {"lens": known, "lens_words": words, "page_sign_mm": round(width, 1)}


def _parse_distance(text: str | None) -> float | None:
    """Parse a distance in meters, written 2.5m, 250cm or 2.5. Raises OptionError for anything
    else."""
    if text is None:
        return None
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(mm|cm|m)?\s*", text)
    if match is None:
        raise OptionError(
            f"--distance {text!r}", "a length is needed", "Write 2.5m, 250cm or 2500mm"
        )
    return float(match[1]) * _METERS[match[2] or "m"]
