"""Cards of finished patches: identity, place, making and measurement."""

from __future__ import annotations

from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from physadv.eot.mask_shapes import area_share
from physadv.eot.scenes.load import SceneSources
from physadv.models.cards import LoadedModel
from physadv.patches.bundle import CardPlacement, ModelInfo, PatchCard, PatchInfo, PatchSize
from physadv.patches.calibrated import PROFILES, profile_checksums
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import PatchMeasurement
from physadv.patches.photo_task import ANYWHERE, object_share
from physadv.patches.task import PatchTask, pose_of

OCTAGON_SHARE = 0.8284
"""Area of a regular octagon over that of its bounding square."""


def make_card(
    config: PatchConfig,
    task: PatchTask,
    model: LoadedModel,
    measured: PatchMeasurement,
    *,
    steps_done: int,
) -> PatchCard:
    """Return the card of a finished patch.

    Args:
        config: Configuration of the run.
        task: The problem that was optimized.
        model: The model under attack.
        measured: Rates on held-out scenes.
        steps_done: Steps that were taken.

    Returns:
        The card: what the patch is, its place, its making, and what was measured.
    """
    true = ANYWHERE if config.object == ANYWHERE else model.card.class_name(task.goal.true_class)
    target = (
        None if task.goal.target_class is None else model.card.class_name(task.goal.target_class)
    )
    name = config.name or f"{model.card.name}-{config.goal}-{config.mask}"
    plain = {k: v for k, v in config.as_card_table().items() if v is not None}
    plain["device"] = str(task.device)
    kept = {k: f"{k}.json" for k in PROFILES if k in plain} | profile_checksums(plain)

    return PatchCard(
        patch=PatchInfo(
            name=name,
            goal=config.goal,
            true_class=true,
            target_class=target,
            created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            physadv=version("physadv"),
        ),
        size=PatchSize(config.width_mm, config.height_mm),
        placement=_card_placement(config, task),
        victim=ModelInfo(model.card.name, model.card.task, model.card.sha256),
        eot=task.ranges.as_dict(),
        optimisation={
            **plain,
            **kept,
            "steps_done": steps_done,
            "score_threshold": task.goal.score_threshold,
        },
        heldout=heldout_table(task.scene_sources, measured),
        versions={
            name: version(name) for name in ("physadv", "torch", "kornia", "numpy", "opencv-python")
        },
    )


def _card_placement(config: PatchConfig, task: PatchTask) -> CardPlacement:
    """Where it goes: on the sign, or as large a share of an object or of a picture as the photos
    had it on average."""
    if config.object == "sign":
        sign_mm2 = OCTAGON_SHARE * config.sign_width_mm**2
        share = area_share(task.mask, config.width_mm, config.height_mm, sign_mm2)
        return CardPlacement("stop", config.sign_width_mm, config.center_mm, round(share, 4))
    pose = pose_of(config)
    share = object_share(task.scene_sources, pose) * float(task.mask.mean())
    across_mm = round(2 * config.width_mm / sum(pose.share), 1)
    return CardPlacement(config.object, across_mm, (0.0, 0.0), round(share, 4))


def heldout_table(material: SceneSources, measured: PatchMeasurement) -> dict[str, Any]:
    """Return the [heldout] table: the rates of ``measured`` with intervals, and how the scenes of
    ``material`` were held out."""
    return {
        **rates_table(measured),
        "scenes": material.kind,
        "notes": list(material.notes),
        "meaning": "success: goal met with the patch, in simulated draws whose clean control is "
        "recognised",
    }


def rates_table(measured: PatchMeasurement) -> dict[str, Any]:
    """Return the rates of ``measured`` as a table; for a detector with misses, AP and extra boxes
    of each block."""
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
