"""Report of a verification: what became of each property, by network and over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.core.files import write_text
from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.evaluation.verification_task import VERDICTS
from physadv.report.design import render_page
from physadv.report.kept_results import keep_result
from physadv.report.plots import DARK_SERIES_COLORS, SERIES_COLORS, chart_svg
from physadv.studies.page import Axis, Chart, Point, Series

_LEAST_SECONDS = 0.01
"""Where the axis of times begins: shorter ones are drawn there."""
_SHOWN = 2_000
"""Most properties in the table; all are in the rows."""
_OUTPUTS = 20
"""Most outputs of a counterexample in the table."""


def write_verification_report(
    folder: str | Path, result: Mapping[str, Any], rows: Sequence[Row]
) -> Path:
    """Write ``folder``/report.html, and the result beside it as report.json.

    Args:
        folder: Folder of the run.
        result: Counts of the verification, as
            :meth:`physadv.evaluation.verification_task.VerificationTask.result` returns them.
        rows: One row a property.

    Returns:
        Path of the report.
    """
    keep_result(Path(folder), "verification", result)
    return write_text(Path(folder) / "report.html", render_verification_report(result, rows))


def render_verification_report(result: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Render the page.

    Args:
        result: Counts of the verification, as plain values.
        rows: One row a property.

    Returns:
        The page as HTML.
    """
    ordered = sorted(rows, key=lambda row: int(row["index"]))
    facts = {key: result[key] for key in _FACTS if result.get(key) is not None}
    return render_page(
        "verification.html.j2",
        title=_title(result),
        result=result,
        verdicts=VERDICTS,
        settled=RateInterval(**result["settled"]),
        chart=_chart(ordered),
        rows=[_line(row) for row in ordered[:_SHOWN]],
        more=max(len(ordered) - _SHOWN, 0),
        facts=facts,
        light_series=SERIES_COLORS,
        dark_series=DARK_SERIES_COLORS,
    )


_FACTS = ("vnnlib", "network", "time_limit", "seed", "files_sha256", "seconds")


def _title(result: Mapping[str, Any]) -> str:
    names = list(result["by_network"])
    network = names[0] if len(names) == 1 else f"{len(names)} networks"
    return f"Verification of {network}"


def _line(row: Row) -> dict[str, Any]:
    """One row of the table of properties."""
    outputs = row.get("outputs") or []
    written = ", ".join(f"{value:.4g}" for value in outputs[:_OUTPUTS])
    if len(outputs) > _OUTPUTS:
        written += ", ..."
    note = str(row.get("reason", ""))
    if written:
        note = f"Outputs of the counterexample: {written}."
    return {**row, "note": note}


def _chart(rows: Sequence[Row]) -> Markup | None:
    """Draw how many properties were settled within how many seconds; None where too few were."""
    series = []
    for verdict in VERDICTS[:2]:
        times = sorted(
            max(float(row["seconds"]), _LEAST_SECONDS) for row in rows if row["verdict"] == verdict
        )
        points = tuple(Point(at, number) for number, at in enumerate(times, 1))
        if points:
            series.append(Series(verdict, points))
    if sum(len(one.points) for one in series) < 3:
        return None
    most = max(len(one.points) for one in series)
    return chart_svg(
        Chart(
            name="settled",
            caption="Properties settled within a time",
            x=Axis("seconds a property", scale="log"),
            y=Axis("properties", low=0.0, high=float(most)),
            series=tuple(series),
        )
    )
