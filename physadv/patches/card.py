"""Card of a finished patch: how it was made, where it goes, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from physadv.core.findings import Finding
from physadv.core.lights import worst_light
from physadv.core.stop_signs import STOP_NAMES
from physadv.core.wording import format_percent
from physadv.eot.mask_shapes import area_share, bar_layout
from physadv.eot.profiles import read_color_profile
from physadv.eot.scenes.load import SceneSources
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.models.cards import LoadedModel
from physadv.patches.bundle import (
    CardPlacement,
    ModelInfo,
    PatchCard,
    PatchInfo,
    PatchSize,
)
from physadv.patches.by_distance import RATES, bin_rates, rate_header, rate_line, rate_lines
from physadv.patches.config import ANYWHERE, PROFILES, PatchConfig
from physadv.patches.controls import control_findings
from physadv.patches.face_rates import rates_by_face, worst_face
from physadv.patches.optimize import PatchMeasurement
from physadv.patches.photo_sources import object_share, pose_of
from physadv.patches.task import PatchTask
from physadv.patches.twin_gap import twin_findings
from physadv.patches.visibility import VisibilityCurve, visibility_table

_OCTAGON_SHARE = 0.8284
"""Area of a regular octagon over that of its bounding square."""
_RECORDED_PACKAGES = ("physadv", "torch", "kornia", "numpy", "opencv-python")


def make_card(
    config: PatchConfig,
    task: PatchTask,
    model: LoadedModel,
    measured: PatchMeasurement,
    *,
    steps_done: int,
    forced: bool = False,
    curves: Sequence[VisibilityCurve] = (),
) -> PatchCard:
    """Return the card of a patch.

    Args:
        config: Configuration that it was made with.
        task: The patch problem.
        model: Model that it was optimized on.
        measured: Its rates on held-out draws.
        steps_done: Steps that were made.
        forced: Whether it was made although its controls, measured before, were not valid.
        curves: How small its victims read the clean sign, where it was measured.

    Returns:
        The card; checksum and run id are filled in by :func:`physadv.patches.bundle.write_bundle`.
    """
    true = ANYWHERE if config.object == ANYWHERE else model.card.class_name(task.goal.true_class)
    target = task.goal.target_class
    info = PatchInfo(
        name=config.name or f"{model.card.name}-{config.goal}-{_shape_name(config.mask)}",
        goal=config.goal,
        true_class=true,
        target_class=None if target is None else model.card.class_name(target),
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        physadv=version("physadv"),
    )

    # Profiles are named as the bundle keeps them, so that it can be measured wherever it goes.
    settings = {k: v for k, v in config.as_card_table().items() if v is not None}
    settings["device"] = str(task.device)
    copies = {name: f"{name}.json" for name in PROFILES if name in settings}
    findings = [*patch_findings(measured), *profile_findings(config)]
    doubts: dict[str, Any] = {
        "light": worst_light(finding.light for finding in findings),
        "doubts": [finding.as_dict() for finding in findings],
    }
    if forced:
        doubts["forced"] = True
    binned = bin_rates(task, measured.rows, has_sign=config.object == "sign")
    outcome = {"steps_done": steps_done, "score_threshold": task.goal.score_threshold}
    return PatchCard(
        patch=info,
        size=PatchSize(config.width_mm, config.height_mm),
        placement=_placement_of(config, task, true),
        victim=ModelInfo(model.card.name, model.card.task, model.card.sha256),
        eot=task.ranges.as_dict(),
        optimisation={**settings, **copies, **config.profile_checksums(), **outcome},
        heldout={
            **heldout_table(task.scene_sources, measured),
            **face_tables(task.scene_sources, measured),
            **doubts,
            **binned,
        },
        visibility=visibility_table(curves),
        versions={name: version(name) for name in _RECORDED_PACKAGES},
    )


def _shape_name(mask: str) -> str:
    """Shape of a sticker in its name, which does not count bars."""
    return mask if bar_layout(mask) is None else "bars"


def patch_findings(measured: PatchMeasurement) -> list[Finding]:
    """Return what the controls of ``measured`` say against its success."""
    return control_findings(
        measured.clean_recognised, measured.blank_recognised, measured.blank_success
    )


def profile_findings(config: PatchConfig) -> list[Finding]:
    """Return what the color profile of ``config`` says against itself; nothing without one."""
    return [] if config.profile is None else read_color_profile(config.profile).findings


def _placement_of(config: PatchConfig, task: PatchTask, true: str) -> CardPlacement:
    """Place on the sign, of the class ``true``; else the width of an object that has the patch at
    its mean share."""
    if config.object == "sign":
        is_stop = true in STOP_NAMES or not config.signs  # without signs a stop sign is drawn
        sign_mm2 = config.sign_width_mm**2 * (_OCTAGON_SHARE if is_stop else _drawn_share(task))
        share = area_share(task.mask, config.width_mm, config.height_mm, sign_mm2)
        name = "stop" if is_stop else true
        return CardPlacement(name, config.sign_width_mm, config.place_mm, round(share, 4))

    pose = pose_of(config)
    share = object_share(task.scene_sources, pose) * float(task.mask.mean())
    across_mm = round(2 * config.width_mm / sum(pose.share), 1)
    return CardPlacement(config.object, across_mm, (0.0, 0.0), round(share, 4))


def _drawn_share(task: PatchTask) -> float:
    """Area of a board or poster as a share of the square around it: the smallest of its drawings',
    and the whole square of photos."""
    faces = task.scene_sources.faces
    return min((float(face.rgba[..., 3].mean()) / 255 for face in faces), default=1.0)


def heldout_table(sources: SceneSources, measured: PatchMeasurement) -> dict[str, Any]:
    """Return the card's [heldout]: the rates ``measured``, and how ``sources`` were held out."""
    return {
        **rates_table(measured),
        "scenes": sources.kind,
        "notes": list(sources.notes),
        "meaning": "success: goal met with the patch, in simulated draws whose clean control is "
        "recognised",
    }


def face_tables(sources: SceneSources, measured: PatchMeasurement) -> dict[str, Any]:
    """Return the card's rates of each held-out face and of real photos, and the worst of them.

    Nothing for ``sources`` of which no face is held out.
    """
    if not sources.held_out_faces:
        return {}
    rates = rates_by_face(measured.rows, sources.held_out_faces)
    worst = worst_face(rates)
    return {
        "worst_face": worst.name if worst is not None else "",
        "by_face": [each.as_dict() for each in rates],
    }


def card_lines(card: PatchCard) -> list[str]:
    """Return ``card`` in lines for people: the patch, its success with controls, by distance, face,
    model and camera of the twin.

    Example:
        >>> from physadv.patches.bundle import read_bundle
        >>> card_lines(read_bundle("stop-sticker-signs-v1").card)[0]
        'stop-sticker-signs-v1: has stop read as anything else, made on signs'
    """
    patch, placement = card.patch, card.placement
    effect = _effect_in_words(patch.goal, patch.true_class, patch.target_class)
    lines = [
        f"{patch.name}: {effect}, made on {card.victim.name}",
        f"size       {card.size.width_mm:g} x {card.size.height_mm:g} mm, "
        f"{format_percent(placement.area_share)} of {placement.sign} "
        f"{placement.sign_width_mm:g} mm wide",
    ]
    named = {
        "success": "success",
        "blank_success": "blank",
        "clean_recognised": "clean",
    }
    for key, name in named.items():
        rate = card.heldout.get(key)
        if isinstance(rate, Mapping) and {"rate", "low", "high", "n"} <= set(rate):
            lines.append(f"{name:10} {RateInterval(**rate)}")
    findings = [Finding(**table) for table in card.heldout.get("doubts", ())]
    findings += twin_findings(card)
    lines += [f"{'doubt':10} {finding}" for finding in findings]

    lines += rate_lines(card.heldout)
    if faces := card.heldout.get("by_face", ()):
        lines.append(rate_header("held-out face"))
    for face in faces:
        lines.append(rate_line(face["name"], *(RateInterval(**face[rate]) for rate in RATES)))
    if card.transfer:
        lines.append(rate_header("model"))
    for record in card.transfer:
        name = record.victim.name + (" (trained)" if record.in_training else "")
        rates = record.success, record.blank_success, record.clean_recognised
        lines.append(rate_line(name, *rates))
    for film in card.twin:
        lines.append(rate_header(f"twin, on {film.victim.name}"))
        for one in film.cameras:
            name = "all cameras" if one.camera == "all" else one.camera
            rates = one.success, one.blank_success, one.clean_recognised
            lines.append(rate_line(name, *rates))
    return lines


def card_row(card: PatchCard) -> dict[str, Any]:
    """Return ``card`` as one line of a list: name, effect, model, size in mm and success.

    Example:
        >>> from physadv.patches.bundle import read_bundle
        >>> card_row(read_bundle("stop-sticker-signs-v1").card)["effect"]
        'has stop read as anything else'
    """
    patch = card.patch
    rate = card.heldout.get("success")
    success = "not measured"
    if isinstance(rate, Mapping) and {"rate", "low", "high", "n"} <= set(rate):
        success = str(RateInterval(**rate))
    return {
        "name": patch.name,
        "effect": _effect_in_words(patch.goal, patch.true_class, patch.target_class),
        "model": card.victim.name,
        "width_mm": card.size.width_mm,
        "height_mm": card.size.height_mm,
        "success": success,
    }


def _effect_in_words(goal: str, true_class: str, target_class: str | None) -> str:
    """What a patch has the model do."""
    if goal == "vanish":
        return f"hides {true_class}"
    subject = "what is in view" if true_class == "anywhere" else true_class
    if target_class is not None:
        return f"has {subject} read as {target_class}"
    return f"has {subject} read as anything else"


def rates_table(measured: PatchMeasurement) -> dict[str, Any]:
    """Return the rates that were ``measured`` as a table; for a detector, its metrics by block."""
    rates: dict[str, Any] = {
        "success": measured.success.as_dict(),
        "blank_success": measured.blank_success.as_dict(),
        "clean_recognised": measured.clean_recognised.as_dict(),
        "blank_recognised": measured.blank_recognised.as_dict(),
        "patch_recognised": measured.patch_recognised.as_dict(),
    }
    if measured.detection:
        blocks = measured.detection.items()
        rates["detection"] = {block: metrics.as_dict() for block, metrics in blocks}
    return rates
