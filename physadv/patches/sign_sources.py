"""Scenes of a sticker on a sign: signs that the model recognizes, from photos or drawn by code."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from physadv.core.errors import GeometryError
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import SignFace
from physadv.eot.placement import Placement
from physadv.eot.ranges import EotRanges
from physadv.eot.scenes.load import SceneSources, load_scene_sources
from physadv.eot.scenes.signs import (
    DrawnScenes,
    PhotoScenes,
    PhotoSign,
    SceneSize,
    SceneSource,
)
from physadv.eot.warp import square_boxes
from physadv.models.cards import LoadedModel
from physadv.patches.config import PatchConfig
from physadv.threat.patch_goals import PatchGoal

_MILD_VIEWS = EotRanges(
    yaw_deg=(-8, 8),
    pitch_deg=(-4, 4),
    roll_deg=(-3, 3),
    size_px=(400, 401),
    frame_share=(0.25, 0.5),
)
"""Ranges under which a clean sign has to be recognized."""


def sticker_placement(config: PatchConfig) -> Placement:
    """Return where the sticker of ``config`` lies on its sign.

    Raises:
        GeometryError: The sticker reaches beyond the sign.

    Example:
        >>> sticker_placement(PatchConfig(size_mm=(100, 80), center_mm=(0, 50))).width_mm
        100.0
    """
    placement = Placement(config.width_mm, config.height_mm, config.place_mm)
    x, y = placement.center_mm
    half = config.sign_width_mm / 2
    if abs(x) + placement.width_mm / 2 > half or abs(y) + placement.height_mm / 2 > half:
        raise GeometryError(
            f"Sticker of {placement.width_mm:g} x {placement.height_mm:g} mm at {x:g}, {y:g} "
            f"reaches beyond the sign of {config.sign_width_mm:g} mm",
            "It must lie on the sign",
            "Make it smaller with --size or move it with --center",
        )
    return placement


def load_sign_sources(
    config: PatchConfig,
    model: LoadedModel,
    goal: PatchGoal,
    size: SceneSize,
    *,
    streets: bool = False,
) -> SceneSources:
    """Load the signs and backgrounds of a configuration, split by photo.

    Args:
        config: Its ``signs``, ``backgrounds``, ``boxes`` and ``faces``.
        model: Model that has to recognize a located sign for it to be used.
        goal: Goal in the terms of that model.
        size: Size of the scenes that it takes.
        streets: Whether streets are drawn behind the signs where ``config`` names no backgrounds,
            else plainer pictures.

    Returns:
        Scenes for training, validation and test, with notes for the card.

    Raises:
        ImageError: A file cannot be read.
        DataError: No sign is usable.
    """

    def accept(signs: Sequence[PhotoSign | SignFace]) -> list[bool]:
        return recognized_signs(model, goal, signs, config.sign_width_mm, size)

    return load_scene_sources(
        config.signs,
        config.backgrounds,
        width_mm=config.sign_width_mm,
        seed=config.seed,
        accept=accept,
        boxes=config.boxes,
        class_name=model.card.class_name(goal.true_class),
        faces=config.faces,
        streets=streets,
    )


@torch.no_grad()
def recognized_signs(
    model: LoadedModel,
    goal: PatchGoal,
    signs: Sequence[PhotoSign | SignFace],
    width_mm: float,
    size: SceneSize,
) -> list[bool]:
    """Test which signs a model recognizes in at least half of four mild, clean views.

    Args:
        model: Model under attack.
        goal: Goal in its terms; recognized is what is of its true class.
        signs: Signs located in photos, or drawings of them, which are laid on gray.
        width_mm: Width of the sign.
        size: Size of the scenes that the model takes.

    Returns:
        Whether each sign is recognized.
    """
    recognized = []
    for number, sign in enumerate(signs):
        source: SceneSource
        if isinstance(sign, SignFace):
            source = DrawnScenes([sign], [np.full((64, 64, 3), 128, np.uint8)], width_mm)
        else:
            source = PhotoScenes([sign], width_mm)
        scenes = source.sample(4, size, _MILD_VIEWS, numpy_generator(0, "accept", number))
        boxes = square_boxes(scenes.homography, width_mm, scenes.images.shape[-1]).to(model.device)
        hits = goal.recognized(model(scenes.images.to(model.device)), boxes)
        recognized.append(bool(hits.float().mean() >= 0.5))
    return recognized
