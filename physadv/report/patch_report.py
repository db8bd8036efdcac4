"""Report of a patch bundle: its success by distance and angle beside both controls, and how far its
victims see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.core.errors import BundleError
from physadv.core.files import write_text
from physadv.core.lights import worst_light
from physadv.core.members import member_of
from physadv.core.reading import foreign_errors
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.patches.apparent_size import SHARE
from physadv.patches.bundle import PREVIEW, PatchCard, TwinRecord, read_bundle
from physadv.patches.by_distance import BY_ANGLE, BY_DISTANCE
from physadv.patches.config import ANYWHERE
from physadv.patches.twin_gap import twin_findings
from physadv.report.charts import rate_along
from physadv.report.design import member_uri, render_page

HTML = "report.html"
Bins = Sequence[Mapping[str, Any]]
_BLOCKS = {"patch": "success", "blank": "blank_success", "clean": "clean_recognised"}


_FILES = ("patch.png", "mask.png", "card.toml", "rows.jsonl")


def write_patch_report(folder: str | Path) -> Path:
    """Write report.html of the patch bundle in ``folder``, replacing an earlier one.

    Args:
        folder: Folder of the bundle.

    Returns:
        Path of the report.

    Raises:
        BundleError: The folder holds no bundle, it was altered, or its patch was never measured.
        OSError: The page cannot be written.
    """
    bundle = read_bundle(folder)
    if not set(_BLOCKS.values()) <= bundle.card.heldout.keys():
        raise BundleError(
            f'The card of "{folder}" holds no rates',
            "A report shows what was measured",
            "Make the patch with `physadv patch`",
        )
    page, preview = member_of(bundle.folder, HTML), member_uri(bundle.folder, PREVIEW)
    files = [name for name in _FILES if member_of(bundle.folder, name).is_file()]
    with foreign_errors(str(bundle.folder), BundleError, "has a card that cannot be shown"):
        content = render_patch_report(bundle.card, preview=preview, files=files)
    return write_text(page, content)


def render_patch_report(card: PatchCard, *, preview: str = "", files: Sequence[str] = ()) -> str:
    """Render the page.

    Args:
        card: Card of the bundle.
        preview: Its preview as a data URI; none where empty.
        files: Names of files beside the page that it links to.

    Returns:
        The page as HTML.

    Example:
        >>> card = read_bundle("stop-sticker-signs-v1").card
        >>> card.patch.name in render_patch_report(card)
        True
    """
    heldout = card.heldout
    own, gaps = heldout.get("doubts", []), twin_findings(card)
    light = heldout.get("light", worst_light(entry["light"] for entry in own))
    distance = heldout.get(BY_DISTANCE)
    angle = heldout.get(BY_ANGLE)
    return render_page(
        "patch.html.j2",
        title=card.patch.name,
        card=card,
        light=worst_light([light, *(finding.light for finding in gaps)]),
        doubts=[*own, *(finding.as_dict() for finding in gaps)],
        rates={block: RateInterval(**heldout[key]) for block, key in _BLOCKS.items()},
        distance=None if distance is None else _by_distance(distance, _carrier(card)),
        angle=None if angle is None else _by_angle(angle["bins"]),
        visibility=[_visibility(curve) for curve in card.visibility.get("curves", [])],
        films=[_film(record) for record in card.twin],
        rule=card.visibility.get("rule", ""),
        preview=preview,
        files=files,
        eot=card.eot,
    )


def _carrier(card: PatchCard) -> str:
    """What a card's sizes are the sizes of."""
    if card.placement.sign == ANYWHERE:
        return "patch"
    return "sign" if card.visibility or card.placement.sign == "stop" else "object"


def _by_distance(table: Mapping[str, Any], carrier: str) -> dict[str, Any]:
    """Chart and rows of a card's table by distance, nearest first."""
    bins, in_frames = table["bins"], table["unit"] == SHARE
    unit = "share of the frame's height" if in_frames else "px of the camera"
    rows = [
        {
            "name": _ends(entry) + ("" if in_frames else " px"),
            "meters": f"{entry['near_m']:.2g} to {entry['far_m']:.2g} m"
            if "far_m" in entry
            else "",
            **_rates(entry),
        }
        for entry in reversed(bins)
    ]
    return {
        "chart": _chart(bins, unit, f"size of the {carrier}"),
        "rows": rows,
        "camera": table.get("camera"),
        "unit": unit,
        "heading": "Share of the frame" if in_frames else f"Size of the {carrier}",
    }


def _by_angle(bins: Bins) -> dict[str, Any]:
    """Chart and rows of a card's table by angle."""
    rows = [{"name": f"{_ends(entry)}°", "meters": "", **_rates(entry)} for entry in bins]
    return {"chart": _chart(bins, "degrees, either way", "yaw of the sign"), "rows": rows}


def _film(record: TwinRecord) -> dict[str, Any]:
    """Rows of one film of the twin, all cameras first."""
    rows = [
        {
            "name": "all cameras" if one.camera == "all" else one.camera,
            "meters": "",
            **{block: getattr(one, key) for block, key in _BLOCKS.items()},
        }
        for one in record.cameras
    ]
    return {"model": record.victim.name, "clips": record.clips, "rows": rows}


def _visibility(curve: Mapping[str, Any]) -> dict[str, Any]:
    """Chart and words of one victim's curve."""
    in_frames = curve["unit"] == SHARE
    unit = "share of the frame's height" if in_frames else "px of the camera"
    limit = curve.get("limit")
    words = "no size is read"
    if limit is not None:
        words = f"{limit:.3f} of the frame's height" if in_frames else f"{limit:.0f} px"
    rates = [_rate(entry) for entry in curve["sizes"]]
    series = {"clean": _aligned(curve["sizes"], rates)}
    chart = rate_along(series, _edges(curve["sizes"]), unit, "size of the clean sign")
    return {"model": curve["model"], "limit": words, "draws": curve["draws"], "chart": chart}


def _chart(bins: Bins, unit: str, label: str) -> Markup:
    series = {
        block: _aligned(bins, [RateInterval(**entry[key]) for entry in bins])
        for block, key in _BLOCKS.items()
    }
    return rate_along(series, _edges(bins), unit, label)


def _edges(bins: Bins) -> list[float]:
    """Edges of bins in order; where one was left out, its place stays empty."""
    ends = {float(entry[end]) for entry in bins for end in ("from", "to")}
    return sorted(ends)


def _aligned(bins: Bins, rates: Sequence[RateInterval]) -> list[RateInterval | None]:
    """A rate for each pair of edges, None where there is no bin or no trial."""
    known = {
        (float(entry["from"]), float(entry["to"])): rate
        for entry, rate in zip(bins, rates, strict=True)
        if rate.n
    }
    return [known.get(ends) for ends in pairwise(_edges(bins))]


def _rate(entry: Mapping[str, Any]) -> RateInterval:
    return RateInterval(**{key: entry[key] for key in ("rate", "low", "high", "n")})


def _rates(entry: Mapping[str, Any]) -> dict[str, RateInterval]:
    return {block: RateInterval(**entry[key]) for block, key in _BLOCKS.items()}


def _ends(entry: Mapping[str, Any]) -> str:
    return f"{entry['from']:g} to {entry['to']:g}"
