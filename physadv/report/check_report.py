"""A check's rows -> report.html and report.json. Everything is recomputed from the rows and
check.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physadv.camera.frames import BLOCKS
from physadv.check.folder import EXAMPLES, ROWS, SETTINGS
from physadv.check.rates import BlockRates, conclude, count, goal_in_words, tabulate
from physadv.check.stopping_rule import WIDTH, Stand, stands
from physadv.core.errors import DataError
from physadv.core.files import write_json, write_text
from physadv.core.rows import Row, read_rows
from physadv.report.bins import bin_edges, rate_grid, rates_along
from physadv.report.charts import block_chart, heat_map, rate_along, score_strips
from physadv.report.design import data_uri, render_page
from physadv.report.sim_to_real import known_stages, stage_changes, stage_chart

HTML, JSON = "report.html", "report.json"
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class CheckReport:
    """Where the report lies, and what report.json says."""

    html: Path
    json: Path
    summary: dict[str, Any]


def write_check_report(folder: str | Path) -> CheckReport:
    """(Re)build report.html and report.json of a check's folder. Raises DataError where it holds no
    check."""
    root = Path(folder)
    rows, settings = read_check(root)
    summary = summarize_check(rows, settings) | {
        "rows": str(root / ROWS),
        "report": str(root / HTML),
    }
    pictures = _pictures(root / EXAMPLES)
    write_json(root / JSON, summary)
    write_text(
        root / HTML, render_check_report(rows, settings, pictures, rows_path=str(root / ROWS))
    )
    return CheckReport(root / HTML, root / JSON, summary)


def read_check(folder: Path) -> tuple[list[Row], dict[str, Any]]:
    """Rows and settings of a check's folder."""
    if not (folder / SETTINGS).is_file():
        raise DataError(
            f"{folder}", f"holds no {SETTINGS}", "name the folder of a `physadv check` run"
        )
    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise DataError(
            f"{folder / SETTINGS}", f"not JSON ({error.msg})", "run the check again"
        ) from error
    rows = list(read_rows(folder / ROWS)) if (folder / ROWS).is_file() else []
    for number, row in enumerate(rows, 1):
        lacking = {"clip", "block", "verdict", "true", "success"} - row.keys()
        if lacking:
            raise DataError(
                f"{folder / ROWS}:{number}",
                f"has no {', '.join(sorted(lacking))}",
                "run the check again",
            )
    return rows, settings


def summarize_check(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """What report.json holds: the words, the table, verdicts, bins, warnings and settings."""
    table = tabulate(rows)
    said = conclude(table, settings)
    by_angle = rate_grid([r for r in rows if r["block"] == "patch"])
    known = known_stages(table, settings)
    to_go = stands(
        {b: [r for r in rows if r["block"] == b] for b in BLOCKS}, settings.get("width") or WIDTH
    )
    return {
        "kind": "check",
        "valid": said.valid,
        "headline": said.headline,
        "notes": said.notes,
        "simulation": bool(settings.get("simulation")),
        "blocks": {name: rates.as_dict() for name, rates in table.items()},
        "stages": [s.as_dict() for s in known],
        "stages_in_words": stage_changes(known),
        "precision": {name: stand.as_dict() for name, stand in to_go.items()},
        "missing": [_missing(name, stand) for name, stand in to_go.items() if not stand.done],
        "verdicts": {name: frequent_verdicts(rows, name) for name in table},
        "patch_by_distance_and_yaw": None if by_angle is None else by_angle.as_dict(),
        "warnings": _warnings(settings),
        "settings": dict(settings),
    }


def render_check_report(
    rows: Sequence[Row],
    settings: Settings,
    pictures: Sequence[Mapping[str, Any]],
    *,
    rows_path: str,
) -> str:
    """The page. ``pictures`` are example rows with a data URI under ``uri``."""
    table, summary = tabulate(rows), summarize_check(rows, settings)
    bundle = settings.get("bundle") or {}
    return render_page(
        "check.html.j2",
        title=f"Check of {bundle.get('name') or 'a patch'} on "
        f"{_model(settings).get('name', 'a model')}",
        what=_what(rows, settings),
        patch=summary["blocks"].get("patch"),
        figures=_figures(rows, table, settings),
        examples=_groups(pictures),
        limits=_limits(rows, settings),
        facts=_facts(settings),
        rows_path=rows_path,
        **{
            k: summary[k]
            for k in (
                "valid",
                "headline",
                "notes",
                "blocks",
                "verdicts",
                "warnings",
                "settings",
                "stages",
                "stages_in_words",
                "precision",
                "missing",
            )
        },
    )


def _missing(block: str, stand: Stand) -> str:
    """What a block lacks, in words."""
    more = f"{count(stand.frames_missing, 'more frame')} from {count(stand.clips_missing, 'more clip')}"
    wide = (
        "from fewer than ten clips"
        if stand.width <= stand.aim
        else f"{100 * stand.width:.0f} points wide"
    )
    return f"{block}: the interval is {wide}; for {100 * stand.aim:g} points about {more} like these are missing"


def frequent_verdicts(rows: Sequence[Row], block: str, most: int = 4) -> list[dict[str, Any]]:
    """The most frequent verdicts of a block with their share."""
    counts = Counter(str(r["verdict"]) for r in rows if r["block"] == block)
    total = sum(counts.values())
    return [{"verdict": v, "frames": n, "share": n / total} for v, n in counts.most_common(most)]


def _warnings(settings: Settings) -> list[str]:
    """The run's warnings, and what was left out."""
    left_out = [
        f"{count(n, 'frame')} left out ({what})"
        for what, n in (settings.get("left_out") or {}).items()
    ]
    located = settings.get("located_by") or {}
    unseen = [
        f"In {count(ways['frame'], f'{block} frame')} the sign's place is not known: "
        "a frame without the sign counts as one where it is missed"
        for block, ways in located.items()
        if ways.get("frame")
    ]
    biased = [
        f"In {count(ways['detector'], f'{block} frame')} a detector found the sign; "
        "frames in which it saw none are not among them"
        for block, ways in located.items()
        if ways.get("detector")
    ]
    return [*map(str, settings.get("warnings") or []), *left_out, *unseen, *biased]


def _limits(rows: Sequence[Row], settings: Settings) -> list[str]:
    """What the numbers do not cover, with the ranges that were measured."""
    first = "This simulation was drawn by a model of printer, sign and camera. Only a print and a camera can confirm it."
    filmed = "Another camera, printer, paper, light or sign was not measured; each can change the result."
    return [
        first if settings.get("simulation") else filmed,
        _measured_range(rows),
        *_by_assumption(rows, settings),
        "Frames of one clip are alike. The intervals treat clips, not frames, as trials; few "
        "clips make them wide.",
        "One victim was asked. Another model, or a whole system with tracking, maps or several "
        "frames a decision, "
        f"is not {_model(settings).get('name', 'it')}.",
        "Success here is a single frame's verdict. It does not say what a vehicle or a person "
        "would do.",
    ]


def _by_assumption(rows: Sequence[Row], settings: Settings) -> list[str]:
    """What distances and angles rest on where it was not measured, and what a small paper sign
    stands for."""
    geometry, said = settings.get("geometry") or {}, []
    measured = any(r.get("pose_by") in {"fiducials", "features", "size"} for r in rows)
    if measured and geometry.get("lens") == "assumed":
        said.append(
            "The camera's focal length was assumed, so distances may be 15 % wrong or more; "
            "“physadv calibrate camera” measures it."
        )
    if any(r.get("pose_by") == "typed" for r in rows):
        said.append("The distance was typed, not measured.")
    paper, real = geometry.get("page_sign_mm"), (settings.get("bundle") or {}).get("sign_width_mm")
    if paper and real and any(r.get("located_by") == "fiducials" for r in rows):
        said.append(
            f"The paper sign is {paper:.0f} mm wide, the real one {real:.0f} mm: 1 m here is seen "
            "as "
            f"{real / paper:.1f} m there, but haze, a long lens and a moving car are not in it."
        )
    return said


def _measured_range(rows: Sequence[Row]) -> str:
    distance, yaw = _range(rows, "distance_m", " m"), _range(rows, "yaw_deg", "°")
    known = [part for part in (distance, yaw and f"yaw {yaw}") if part]
    if not known:
        return "Distance and angle are not known here: the numbers hold for these views alone."
    return f"Nothing was measured outside {' and '.join(known)}."


def _range(rows: Sequence[Row], key: str, unit: str) -> str:
    values = [float(r[key]) for r in rows if r.get(key) is not None]
    return f"{min(values):.1f} to {max(values):.1f}{unit}" if values else ""


def _figures(
    rows: Sequence[Row], table: Mapping[str, BlockRates], settings: Settings
) -> list[dict[str, Any]]:
    if not table:
        return []
    by_block = {name: [r for r in rows if r["block"] == name] for name in table}
    made = [
        {
            "svg": block_chart(table),
            "title": "Goal met, by block.",
            "caption": "Bars are 95 % intervals over clips.",
        }
    ]
    known = known_stages(table, settings)
    if len(known) > 1:
        caption = "The patch's success where it was made, in simulation and before the camera; bars are 95 % intervals."
        made.append(
            {
                "svg": stage_chart(known),
                "title": "From the screen to the camera.",
                "caption": caption,
            }
        )
    by_angle = rate_grid(by_block.get("patch", []))
    if by_angle is not None:
        caption = (
            "Share of patch frames that met the goal, and their number. Hatched: not measured."
        )
        made.append({"svg": heat_map(by_angle), "title": "Distance and angle.", "caption": caption})
    key, unit, label = _depth(rows)
    values = [float(r[key]) for r in rows if r.get(key) is not None]
    if values:
        bounds = bin_edges(values, 6)
        chart = rate_along(
            {b: rates_along(own, key, bounds) for b, own in by_block.items()}, bounds, unit, label
        )
        made.append({"svg": chart, "title": f"Goal met, by {label}.", "caption": _legend(table)})
    caption = "Score of the true class in every frame; low is good for the attacker. " + (
        "Dashed: the threshold."
        if settings.get("threshold") is not None
        else "Upright lines part the clips."
    )
    strips = score_strips(by_block, settings.get("threshold"))
    made.append({"svg": strips, "title": "Frame by frame.", "caption": caption})
    return made


def _depth(rows: Sequence[Row]) -> tuple[str, str, str]:
    """Distance where it is known, else the sign's size in the picture."""
    if any(r.get("distance_m") is not None for r in rows):
        return "distance_m", "m", "distance"
    return "crop_px", "px", "size of the sign"


def _legend(table: Mapping[str, BlockRates]) -> str:
    shapes = {"clean": "circle", "blank": "square", "patch": "diamond"}
    return (
        ", ".join(f"{shapes[name]}: {name}" for name in table)
        + "; bars are 95 % intervals over clips."
    )


def _what(rows: Sequence[Row], settings: Settings) -> str:
    sources = (
        ", ".join(str(s.get("name")) for s in settings.get("sources") or [])
        or "source not recorded"
    )
    return f"{len(rows)} frames judged, {settings.get('started', '')}, from {sources}"


def _model(settings: Settings) -> Mapping[str, Any]:
    return settings.get("victim") or {}


def _facts(settings: Settings) -> list[tuple[str, Any]]:
    model, bundle = _model(settings), settings.get("bundle") or {}
    pairs: list[tuple[str, Any]] = [
        ("Victim", model.get("name")),
        ("Victim sha256", model.get("sha256")),
        ("Task", model.get("task")),
        ("Goal", goal_in_words(settings)),
        ("Patch", bundle.get("name")),
        ("Patch sha256", bundle.get("sha256")),
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
                f"{source.get('name')} ({source.get('kind')}{size}); block: {source.get('block')}",
            )
        )
        pairs += _camera_facts(got)
    ways = {
        b: ", ".join(f"{w} {n}" for w, n in found.items())
        for b, found in (settings.get("located_by") or {}).items()
    }
    pairs += [(f"Sign located, {block}", found) for block, found in ways.items()]
    pairs += [("Started", settings.get("started")), ("Finished", settings.get("finished"))]
    return [(key, value) for key, value in pairs if value not in (None, "")]


def _camera_facts(got: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """What was asked of the camera and what it reads back."""
    asked, facts = got.get("asked") or {}, []
    if asked:
        wanted = f"{asked.get('fourcc')}" + (
            f" {asked['width']}x{asked['height']}" if asked.get("width") else ""
        )
        facts.append(
            (
                "Camera asked for",
                f"{wanted}; delivers {got.get('fourcc')} {got.get('width')}x{got.get('height')}",
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


def _pictures(folder: Path) -> list[dict[str, Any]]:
    index = folder / "index.json"
    if not index.is_file():
        return []
    shots = json.loads(index.read_text(encoding="utf-8"))
    return [
        {**s, "uri": data_uri((folder / s["file"]).read_bytes())}
        for s in shots
        if (folder / s["file"]).is_file()
    ]


def _groups(pictures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Frames that failed stand first: those the patch did not fool, and controls that were misread."""
    order = [
        ("patch", False),
        ("clean", True),
        ("blank", True),
        ("patch", True),
        ("clean", False),
        ("blank", False),
    ]
    words = {
        ("patch", False): "frames that failed (goal not met)",
        ("patch", True): "goal met",
        ("clean", True): "frames that failed (goal met without the patch)",
        ("clean", False): "goal not met",
        ("blank", True): "frames that failed (goal met without the patch)",
        ("blank", False): "goal not met",
    }
    grouped = [
        (block, met, [p for p in pictures if (p["block"], p["success"]) == (block, met)])
        for block, met in order
    ]
    return [
        {"block": block, "success": met, "words": words[block, met], "shots": shots}
        for block, met, shots in grouped
        if shots
    ]
