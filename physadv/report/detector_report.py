"""Report of a detector's evaluation: average precision and objects found, clean and by goal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from physadv.core.files import write_text
from physadv.core.rows import read_rows
from physadv.datasets import DatasetSummary
from physadv.report.design import member_uri, render_page
from physadv.report.kept_results import facts_of_data, keep_result

_GOALS = {
    "hide": "no object of those found before is found",
    "fabricate": "a box is found where there was none",
    "mislabel": "each object found before is found as another class",
}


def write_detector_report(
    folder: str | Path,
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> Path:
    """Write ``folder``/report.html, and the result beside it as report.json.

    Args:
        folder: Folder of the run.
        result: Result of the evaluation, as
            :meth:`physadv.evaluation.detector_evaluation.DetectorEvaluation.result` returns it.
        facts: Settings to print.
        data: What the data were taken for; also in words by heading.

    Returns:
        Path of the report.
    """
    root = Path(folder)
    keep_result(root, "detector", result, facts, data)
    file = root / "examples" / "examples.jsonl"
    rows = list(read_rows(file)) if file.is_file() else []
    examples = [_with_pictures(root, row) for row in rows[:9]]
    return write_text(root / "report.html", render_detector_report(result, facts, examples, data))


def render_detector_report(
    result: Mapping[str, Any],
    facts: Mapping[str, Any],
    examples: Sequence[Mapping[str, Any]],
    data: DatasetSummary | Mapping[str, str] | None = None,
) -> str:
    """Render the page.

    Args:
        result: Result of the evaluation, as plain values.
        facts: Settings to print.
        examples: Rows with their pictures as data URIs.
        data: What the data were taken for; also in words by heading.

    Returns:
        The page as HTML.
    """
    return render_page(
        "detector.html.j2",
        title=f"{facts.get('victim', 'A detector')} under attack",
        threat=str(facts.get("threat", "")),
        result=result,
        clean=result["clean"],
        goals=result["goals"],
        meanings=_GOALS,
        examples=examples,
        facts=facts,
        data=facts_of_data(data),
    )


def _with_pictures(root: Path, row: Mapping[str, Any]) -> dict[str, Any]:
    stem = f"examples/{int(row['index'])}-{row['goal']}"
    pictures = {kind: member_uri(root, f"{stem}-{kind}.png") for kind in ("clean", "attacked")}
    return {**row, **pictures}
