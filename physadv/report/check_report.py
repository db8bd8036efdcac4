"""Report of a physical check: report.html and report.json, recomputed from rows and settings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from physadv.camera.frames import BLOCKS
from physadv.check.differences import control_differences
from physadv.check.folder import EXAMPLES, ROWS
from physadv.check.rates import (
    draw_conclusion,
    ended_by_data,
    goal_in_words,
    tabulate_rates,
    truth_in_words,
)
from physadv.check.stopping_rule import WIDTH, StoppingState, stopping_states
from physadv.core.errors import DataError
from physadv.core.files import write_json, write_text
from physadv.core.members import member_of
from physadv.core.reading import foreign_errors
from physadv.core.rows import Row
from physadv.core.wording import count_noun
from physadv.report.bins import rate_grid
from physadv.report.check_facts import (
    bystander_warnings,
    check_warnings,
    measurement_facts,
    measurement_limits,
    model_under_test,
    source_name,
)
from physadv.report.check_figures import check_figures
from physadv.report.check_folder import moving_frames, read_check, read_example_frames
from physadv.report.design import render_page, time_in_words
from physadv.report.sim_to_real import known_stages, stage_changes

HTML, JSON = "report.html", "report.json"
Settings = Mapping[str, Any]


@dataclass(frozen=True)
class CheckReport:
    """Files of a report, and the content of report.json."""

    html: Path
    json: Path
    summary: dict[str, Any]


def write_check_report(folder: str | Path) -> CheckReport:
    """Write report.html and report.json of the check in ``folder``, replacing earlier ones.

    Raises:
        DataError: The folder holds no check, or one of another form.
        OSError: A file cannot be written.
    """
    root = Path(folder)
    with foreign_errors(str(root), DataError, "holds no check that can be shown", "Run it again"):
        html, json = member_of(root, HTML), member_of(root, JSON)
        summary, page = _made(root, html)
    write_json(json, summary)
    write_text(html, page)
    return CheckReport(html, json, summary)


def _made(root: Path, html: Path) -> tuple[dict[str, Any], str]:
    """The content of report.json and the page of the check in ``root``, which goes to ``html``."""
    rows, settings = read_check(root)
    summary = summarize_check(rows, settings) | {
        "rows": str(root / ROWS),
        "report": str(html),
    }
    examples = member_of(root, EXAMPLES)
    pictures = read_example_frames(examples)
    clips = {
        block: moving_frames(examples, shots) for block, shots in _usual(rows, pictures).items()
    }
    page = render_check_report(rows, settings, pictures, rows_path=ROWS, clips=clips)
    return summary, page


def summarize_check(rows: Sequence[Row], settings: Settings) -> dict[str, Any]:
    """Return the content of report.json.

    Args:
        rows: Rows of the check, one a frame.
        settings: Settings of the check, as check.json holds them.

    Returns:
        Conclusion, rates by block, verdicts, bins, warnings and settings as plain values.
    """
    sequential = ended_by_data(settings)
    table = tabulate_rates(rows, sequential=sequential)
    differences = control_differences(
        table, rows, simulation=bool(settings.get("simulation")), sequential=sequential
    )
    conclusion = draw_conclusion(table, settings, differences)

    by_angle = rate_grid([r for r in rows if r["block"] == "patch"])
    known = known_stages(table, settings)
    to_go = stopping_states(
        {b: [r for r in rows if r["block"] == b] for b in BLOCKS},
        settings.get("width") or WIDTH,
        sequential=sequential,
    )

    return {
        "kind": "check",
        "valid": conclusion.valid,
        "headline": conclusion.headline,
        "reading": conclusion.reading,
        "notes": conclusion.notes,
        "simulation": bool(settings.get("simulation")),
        "blocks": {name: rates.as_dict() for name, rates in table.items()},
        "differences": (
            {name: change.as_dict() for name, change in differences.items()}
            if conclusion.valid
            else {}
        ),
        "stages": [s.as_dict() for s in known],
        "stages_in_words": [str(change) for change in stage_changes(known)],
        "stage_changes": [change.as_dict() for change in stage_changes(known)],
        "precision": {name: stand.as_dict() for name, stand in to_go.items()},
        "missing": _missing_blocks(to_go),
        "verdicts": {name: _frequent_verdicts(rows, name) for name in table},
        "patch_by_distance_and_yaw": None if by_angle is None else by_angle.as_dict(),
        "warnings": [*check_warnings(settings), *bystander_warnings(rows, settings)],
        "truth": truth_in_words(settings),
        "settings": dict(settings),
    }


def render_check_report(
    rows: Sequence[Row],
    settings: Settings,
    pictures: Sequence[Mapping[str, Any]],
    *,
    rows_path: str,
    clips: Mapping[str, str] | None = None,
) -> str:
    """Render the page.

    Args:
        rows: Rows of the check, one a frame.
        settings: Settings of the check, as check.json holds them.
        pictures: Example rows with a data URI under ``uri``.
        rows_path: Path of the rows, printed at the foot of the page.
        clips: Data URI of an animation of example frames by block; still pictures where there is
            none.

    Returns:
        The page as HTML.

    Example:
        >>> settings = {"victim": {"name": "signs"}, "simulation": False, "true_class": "stop"}
        >>> page = render_check_report([], settings, [], rows_path="rows.jsonl")
        >>> "Check of a patch on signs" in page
        True
    """
    table = tabulate_rates(rows, sequential=ended_by_data(settings))
    summary = summarize_check(rows, settings)

    bundle = settings.get("bundle") or {}

    return render_page(
        "check.html.j2",
        title=f"Check of {bundle.get('name') or 'a patch'} on "
        f"{model_under_test(settings).get('name', 'a model')}",
        what=_what(rows, settings),
        truth=truth_in_words(settings),
        goal=goal_in_words(settings),
        patch=summary["blocks"].get("patch"),
        clear=all(change["low"] > 0 for change in summary["differences"].values()),
        figures=check_figures(rows, table, settings),
        examples=_groups(pictures),
        subject={block: shots[0] for block, shots in _usual(rows, pictures).items() if shots},
        clips=clips or {},
        limits=measurement_limits(rows, settings),
        facts=measurement_facts(settings),
        rows_path=rows_path,
        **{
            k: summary[k]
            for k in (
                "valid",
                "reading",
                "notes",
                "blocks",
                "verdicts",
                "warnings",
                "settings",
                "stages",
                "stages_in_words",
                "precision",
            )
        },
    )


def _missing_blocks(to_go: Mapping[str, StoppingState]) -> list[str]:
    """Return in words what each block lacks; blocks that lack the same share a sentence."""
    blocks: dict[str, list[str]] = {}
    for name, stand in to_go.items():
        if not stand.done:
            blocks.setdefault(_missing(stand), []).append(name)
    return [f"{', '.join(names)}: {words}" for words, names in blocks.items()]


def _missing(stand: StoppingState) -> str:
    """Return in words how many clips and frames a block lacks."""
    frames = count_noun(stand.frames_missing, "more frame")
    more = f"{frames} from {count_noun(stand.clips_missing, 'more clip')}"

    wide = (
        "from fewer than ten clips"
        if stand.width <= stand.aim
        else f"{100 * stand.width:.0f} points wide"
    )
    if stand.rates.attack.too_few:
        return f"one clip has no interval; for {100 * stand.aim:g} points about {more}"
    return (
        f"the interval is {wide}; for {100 * stand.aim:g} points about {more} like these are needed"
    )


def _frequent_verdicts(rows: Sequence[Row], block: str, most: int = 4) -> list[dict[str, Any]]:
    """Return the most frequent verdicts of a block with their share."""
    counts = Counter(str(r["verdict"]) for r in rows if r["block"] == block)
    total = sum(counts.values())
    return [{"verdict": v, "frames": n, "share": n / total} for v, n in counts.most_common(most)]


def _what(rows: Sequence[Row], settings: Settings) -> str:
    sources = (
        ", ".join(source_name(source) for source in settings.get("sources") or [])
        or "source not recorded"
    )
    started = time_in_words(str(settings.get("started", "")))
    return f"{count_noun(len(rows), 'frame')}, {started}, from {sources}"


def _usual(
    rows: Sequence[Row], pictures: Sequence[Mapping[str, Any]]
) -> dict[str, list[Mapping[str, Any]]]:
    """Return the example frames of each block, of the outcome that most of its frames have."""
    chosen = {}
    for block in ("clean", "blank", "patch"):
        outcomes = Counter(row["success"] for row in rows if row["block"] == block)
        usual = max(outcomes, key=outcomes.__getitem__, default=None)
        chosen[block] = [p for p in pictures if (p["block"], p["success"]) == (block, usual)]
    return chosen


def _groups(pictures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Group the frames, failures first: patch frames that missed the goal, controls that met it."""
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
