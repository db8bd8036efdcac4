"""Figures of a check's report, each with title and caption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from physadv.check.rates import BlockRates
from physadv.core.rows import Row
from physadv.report.bins import bin_edges, rate_grid, rates_along
from physadv.report.charts import block_chart, heat_map, rate_along, score_strips
from physadv.report.sim_to_real import known_stages, stage_chart

Settings = Mapping[str, Any]


def check_figures(
    rows: Sequence[Row], table: Mapping[str, BlockRates], settings: Settings
) -> list[dict[str, Any]]:
    """Draw the figures of a check.

    Args:
        rows: Rows of the check, one a frame.
        table: Rates by block.
        settings: Settings of the check.

    Returns:
        One dict a figure with ``svg``, ``title`` and ``caption``; none without rows.
    """
    if not table:
        return []
    by_block = {name: [r for r in rows if r["block"] == name] for name in table}
    figures = [
        {
            "svg": block_chart(table),
            "title": "Goal met, by block.",
            "caption": "Bars are 95 % intervals over clips.",
        }
    ]

    known = [stage for stage in known_stages(table, settings) if not stage.doubt]
    if len(known) > 1:
        caption = (
            "The patch's success digitally, in simulation and before the camera, where the "
            "controls are valid; bars are 95 % intervals."
        )
        figures.append(
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
        figures.append(
            {"svg": heat_map(by_angle), "title": "Distance and angle.", "caption": caption}
        )

    key, unit, label = _depth(rows)
    values = [float(r[key]) for r in rows if r.get(key) is not None]
    if values:
        bounds = bin_edges(values, 6)
        chart = rate_along(
            {b: rates_along(own, key, bounds) for b, own in by_block.items()}, bounds, unit, label
        )
        figures.append({"svg": chart, "title": f"Goal met, by {label}.", "caption": _legend(table)})

    caption = "Score of the true class in every frame; low is good for the attacker. " + (
        "Dashed: the threshold."
        if settings.get("threshold") is not None
        else "Upright lines separate the clips."
    )
    strips = score_strips(by_block, settings.get("threshold"))
    figures.append({"svg": strips, "title": "Frame by frame.", "caption": caption})
    return figures


def _depth(rows: Sequence[Row]) -> tuple[str, str, str]:
    """Return key, unit and name of the distance where it is known, else of the sign's size."""
    if any(r.get("distance_m") is not None for r in rows):
        return "distance_m", "m", "distance"
    return "crop_px", "px", "size of the sign"


def _legend(table: Mapping[str, BlockRates]) -> str:
    shapes = {"clean": "circle", "blank": "square", "patch": "diamond"}
    return (
        ", ".join(f"{shapes[name]}: {name}" for name in table)
        + "; bars are 95 % intervals over clips."
    )
