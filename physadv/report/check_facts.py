"""Settings, warnings and limits of a check in words, for its report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from physadv.check.page_identity import identity_in_words
from physadv.check.rates import goal_in_words
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_range
from physadv.report.design import time_in_words

Settings = Mapping[str, Any]
_TASKS = {"classify": "classification", "detect": "detection"}
_WAYS = {
    "truth": "known from the simulation",
    "fiducials": "by the markers of the page",
    "features": "by its picture",
    "detector": "by a detector",
    "box": "by the box given",
    "frame": "the whole frame",
}
"""Ways of finding the sign, as rows name them."""


def model_under_test(settings: Settings) -> Mapping[str, Any]:
    """Return the entry of ``settings`` about the model under test; its key in files is
    ``victim``."""
    return settings.get("victim") or {}


def check_warnings(settings: Settings) -> list[str]:
    """Return the run's warnings, as ``settings`` recorded them, and one for each kind of frame
    left out or located with bias."""
    left_out = [
        f"{count_noun(n, 'frame')} left out ({what})"
        for what, n in (settings.get("left_out") or {}).items()
    ]

    located = settings.get("located_by") or {}

    unseen = [
        f"In {count_noun(ways['frame'], f'{block} frame')} the sign's position is not known: "
        "a frame without the sign counts as one where it is missed"
        for block, ways in located.items()
        if ways.get("frame")
    ]
    biased = [
        f"In {count_noun(ways['detector'], f'{block} frame')} a detector found the sign; "
        "frames without a detection are not among them"
        for block, ways in located.items()
        if ways.get("detector")
    ]
    return [*map(str, settings.get("warnings") or []), *left_out, *unseen, *biased]


def bystander_warnings(rows: Sequence[Row], settings: Settings) -> list[str]:
    """Return a line about other objects of the true class in the frames with the patch: they are
    controls beside the object that is judged, or hide what happened where its place is not
    known."""
    shown = [r for r in rows if r["block"] == "patch" and r.get("others")]
    true = settings.get("true_class")
    beside = [r for r in shown if r.get("located_by") != "frame"]
    unsure = [r for r in shown if r.get("located_by") == "frame"]
    lines = []
    if beside:
        met = sum(bool(r["success"]) for r in beside)
        lines.append(
            f"In {count_noun(len(beside), 'patch frame')} the model reports “{true}” elsewhere "
            f"too; only the object with the patch is judged: in {met} of them the goal is met"
        )
    if unsure:
        lines.append(
            f"In {count_noun(len(unsure), 'patch frame')} the model reports several “{true}” and "
            "which one has the patch is not known: they count as recognized. Film one alone, or "
            "give --box"
        )
    return lines


def measurement_limits(rows: Sequence[Row], settings: Settings) -> list[str]:
    """List the limits of validity of a check: its ``rows`` give the ranges measured, its
    ``settings`` the assumptions."""
    simulated = (
        "This simulation uses a model of printer, sign and camera. Only a print and a camera can "
        "confirm it."
    )
    filmed = (
        "Another camera, printer, paper, light or sign was not measured; each can change the "
        "result."
    )

    name = model_under_test(settings).get("name", "it")
    return [
        simulated if settings.get("simulation") else filmed,
        _measured_range(rows),
        *_by_assumption(rows, settings),
        "Frames of one clip are similar. The intervals treat clips, not frames, as trials; few "
        "clips make them wide, and one clip has none.",
        "One model was tested. Another model, or a whole system with tracking, maps or decisions "
        f"over several frames, may behave differently from {name}.",
        "Success is a single frame's verdict. It does not tell what a vehicle or a person would "
        "do.",
    ]


def _by_assumption(rows: Sequence[Row], settings: Settings) -> list[str]:
    """Return assumptions behind distances and angles, and the scale of a small paper sign."""
    geometry = settings.get("geometry") or {}
    assumptions: list[str] = []
    measured = any(r.get("pose_by") in {"fiducials", "features", "size"} for r in rows)
    if measured and geometry.get("lens") == "assumed":
        assumptions.append(
            "The camera's focal length was assumed, so distances may be 15 % wrong or more; "
            "“physadv calibrate camera” measures it."
        )
    if any(r.get("pose_by") == "typed" for r in rows):
        assumptions.append("The distance was entered by hand, not measured.")

    paper, real = geometry.get("page_sign_mm"), (settings.get("bundle") or {}).get("sign_width_mm")
    if paper and real and any(r.get("located_by") == "fiducials" for r in rows):
        assumptions.append(
            f"The paper sign is {paper:.0f} mm wide, the real one {real:.0f} mm: 1 m here is "
            f"{real / paper:.1f} m there, without haze, a long lens or a moving car."
        )
    return assumptions


def _measured_range(rows: Sequence[Row]) -> str:
    distance, yaw = _range(rows, "distance_m", " m"), _range(rows, "yaw_deg", "°")
    known = [part for part in (distance, yaw and f"yaw {yaw}") if part]
    if not known:
        return "Distance and angle are not known: the rates hold for these views alone."
    return f"Nothing was measured outside {' and '.join(known)}."


def _range(rows: Sequence[Row], key: str, unit: str) -> str:
    return format_range((float(r[key]) for r in rows if r.get(key) is not None), unit)


def source_name(source: Mapping[str, Any]) -> str:
    """Return the name of a ``source`` of frames, as check.json holds it, without the folders of one
    machine; the address of a stream stays whole.

    Example:
        >>> source_name({"name": "films/near.mp4"}), source_name({"name": "rtsp://camera/1"})
        ('near.mp4', 'rtsp://camera/1')
    """
    name = str(source.get("name"))
    return name if "://" in name else PurePath(name).name or name


def measurement_facts(settings: Settings) -> list[tuple[str, Any]]:
    """Return the recorded ``settings`` as pairs of label and value for a table; unknown ones are
    left out."""
    model, bundle = model_under_test(settings), settings.get("bundle") or {}
    pairs: list[tuple[str, Any]] = [
        ("Model", model.get("name")),
        ("Model sha256", model.get("sha256")),
        ("Task", _TASKS.get(str(model.get("task")), model.get("task"))),
        ("Goal", goal_in_words(settings)),
        ("Patch", bundle.get("name")),
        ("Patch sha256", bundle.get("sha256")),
        ("Patch run", bundle.get("run_id")),
        ("Patch in the frames", _patch_identity(settings)),
        ("Score threshold", settings.get("threshold")),
        ("Least overlap (IoU) with the sign", settings.get("iou")),
        ("Margin around the sign's square", settings.get("margin")),
        ("Lens", (settings.get("geometry") or {}).get("lens_words")),
        ("Attempts", settings.get("attempt") if settings.get("attempt", 1) > 1 else None),
    ]

    for source in settings.get("sources") or []:
        got = source.get("settings") or {}
        size = (
            f", {got['width']}x{got['height']} at {got.get('fps')} fps" if got.get("width") else ""
        )
        pairs.append(
            (
                "Source",
                f"{source_name(source)} ({source.get('kind')}{size}); block: {source.get('block')}",
            )
        )
        pairs += _camera_facts(got)

    ways = {
        b: ", ".join(f"{_WAYS.get(w, w)} ({count_noun(n, 'frame')})" for w, n in found.items())
        for b, found in (settings.get("located_by") or {}).items()
    }
    pairs += [(f"Sign located, {block}", found) for block, found in ways.items()]
    times = {name: str(settings.get(name.lower()) or "") for name in ("Started", "Finished")}
    pairs += [(name, time_in_words(moment)) for name, moment in times.items()]
    return [(key, value) for key, value in pairs if value not in (None, "")]


def _patch_identity(settings: Settings) -> str | None:
    """Whether the frames were seen to show the bundle's patch, in words; None without a bundle."""
    if not (settings.get("bundle") or {}).get("run_id"):
        return None
    return identity_in_words(settings)[1]


def _camera_facts(got: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the camera settings requested and those it reports."""
    requested, facts = got.get("asked") or {}, []
    if requested:
        mode = f"{requested.get('fourcc')}" + (
            f" {requested['width']}x{requested['height']}" if requested.get("width") else ""
        )
        facts.append(
            (
                "Camera mode requested",
                f"{mode}; delivers {got.get('fourcc')} {got.get('width')}x{got.get('height')}",
            )
        )

    locks = got.get("locks")
    for each in locks if isinstance(locks, list) else []:
        value = f" at {each['value']:g}" if each.get("value") is not None else ""
        why = f" ({each['why']})" if each.get("why") else ""
        facts.append(
            (
                f"Camera, {each['name']}",
                f"{'locked' + value if each['held'] else 'not locked'}{why}",
            )
        )

    if locks == "not asked":
        facts.append(("Camera", "exposure, white balance and focus were left automatic"))
    return facts
