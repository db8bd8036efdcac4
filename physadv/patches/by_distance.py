"""Success by distance and by angle, beside the clean and the blank control in the same bins.

Distance is told as apparent size, which is what a model sees, and as the meters at which one camera
shows a sign in that size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from physadv.core.rows import Row
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.patches.apparent_size import (
    SHARE,
    bin_of,
    distance_of,
    drawn_sizes,
    nominal_camera,
    size_edges,
    unit_of,
    yaw_edges,
)
from physadv.patches.optimize import summarize_rows
from physadv.patches.task import PatchTask

RATES = ("success", "blank_success", "clean_recognised")
"""Rates of a bin: goal met with the patch and with a blank one, among the draws whose clean control
is recognized, and how many of all draws are."""
BY_DISTANCE, BY_ANGLE = "by_distance", "by_angle"
"""Tables of a card's [heldout]."""
Bin = dict[str, Any]
_NAME_WIDTH = 20
"""Characters of the first column of a table, so that its lines fit a terminal of 80."""
_LEAST_DRAWS = 8
"""Draws below which a bin is not compared: rounding on another machine may turn a draw or two."""


def bin_rates(task: PatchTask, rows: Sequence[Row], *, has_sign: bool = True) -> dict[str, Any]:
    """Return the rates of ``rows`` by distance and by angle, as a card holds them.

    Args:
        task: Patch problem that they were measured on.
        rows: Rows of a measurement.
        has_sign: Whether the objects are signs of a known width, whose distance follows from their
            size.

    Returns:
        "by_distance" with its unit, the camera of its meters and its bins, and "by_angle" where the
        angle of a draw is known. A bin holds its edges and the rates of :data:`RATES`; an empty one
        is left out.
    """
    whole_frame = task.scene_size.whole_frame
    by_group = task.scene_sources.clustered
    sizes = [float(row["size"]) for row in rows]
    tables: dict[str, Any] = {}
    if sizes and min(sizes) > 0:
        edges = _edges_for(task, sizes) if has_sign else size_edges(min(sizes), max(sizes))
        bins = _binned(rows, sizes, edges, by_group=by_group)
        tables[BY_DISTANCE] = {"unit": unit_of(whole_frame=whole_frame), "bins": bins}
        if has_sign:
            view, width = nominal_camera(task.ranges)
            tables[BY_DISTANCE]["camera"] = {"field_of_view_deg": view, "sensor_px": width}
            for entry in bins:
                entry["near_m"], entry["far_m"] = (
                    round(
                        distance_of(
                            entry[end], task.ranges, task.sign_width_mm, whole_frame=whole_frame
                        ),
                        2,
                    )
                    for end in ("to", "from")
                )

    turned = [row for row in rows if "yaw_deg" in row]
    if turned:
        yaws = [abs(float(row["yaw_deg"])) for row in turned]
        tables[BY_ANGLE] = {"bins": _binned(turned, yaws, yaw_edges(yaws), by_group=by_group)}
    return tables


def _edges_for(task: PatchTask, sizes: Sequence[float]) -> list[float]:
    """Edges of the bins of a sign's size, which the ranges alone decide where they can."""
    whole_frame = task.scene_size.whole_frame
    smallest, largest = drawn_sizes(task.ranges, task.sign_width_mm, whole_frame=whole_frame)
    if whole_frame:
        # A photo cannot be zoomed out beyond its own edges.
        return size_edges(smallest, max(largest, *sizes))

    # A crop tells no sizes beyond its own apart: they fall into the last bin.
    crop_px = float(task.scene_size.size)
    edges = size_edges(min(smallest, crop_px), min(largest, crop_px))
    edges[-1] = max(edges[-1], round(largest, 1))
    return edges


def _binned(
    rows: Sequence[Row], values: Sequence[float], edges: Sequence[float], *, by_group: bool
) -> list[Bin]:
    """The rates of ``rows`` in the bins of a value, empty ones left out."""
    binned: list[list[Row]] = [[] for _ in edges[1:]]
    for row, value in zip(rows, values, strict=True):
        # A bin needs no boxes of a scene, which stand in the row of its first object alone.
        binned[bin_of(value, edges)].append({k: v for k, v in row.items() if k != "scene"})

    bins: list[Bin] = []
    for low, high, chosen in zip(edges[:-1], edges[1:], binned, strict=True):
        if chosen:
            measured = summarize_rows(chosen, by_group=by_group)
            rates = {name: getattr(measured, name).as_dict() for name in RATES}
            bins.append({"from": low, "to": high, **rates})
    return bins


def differing_bins(
    claimed: Mapping[str, Any], measured: Mapping[str, Any], *, same_draws: bool
) -> list[str]:
    """Return the bins of a card whose success is another when measured again.

    Args:
        claimed: [heldout] of the card.
        measured: What :func:`bin_rates` returns now.
        same_draws: Whether the draws are those of the card, so that the new rate has to lie in the
            card's interval; else the two intervals have to overlap.

    Returns:
        A line for each that differs; a bin that only one of them has, or with fewer than 8
        draws, is not compared.
    """
    lines = []
    for table in (BY_DISTANCE, BY_ANGLE):
        new = {(b["from"], b["to"]): b for b in measured.get(table, {}).get("bins", [])}
        unit = claimed.get(table, {}).get("unit")
        for old in claimed.get(table, {}).get("bins", []):
            other = new.get((old["from"], old["to"]))
            if other is None:
                continue
            was, now = RateInterval(**old["success"]), RateInterval(**other["success"])
            low, high = (now.rate, now.rate) if same_draws else (now.low, now.high)
            if min(now.n, was.n) >= _LEAST_DRAWS and not (
                low <= was.high + 1e-9 and was.low <= high + 1e-9
            ):
                lines.append(f"{_span(old, unit)}: card {was}; measured now {now}")
    return lines


def rate_lines(heldout: Mapping[str, Any]) -> list[str]:
    """Return the tables of ``heldout`` in columns for a terminal: a line a bin, nearest first.

    Example:
        >>> rate = {"rate": 0.5, "low": 0.2, "high": 0.8, "n": 8}
        >>> entry = {"from": 0.0, "to": 15.0, **dict.fromkeys(RATES, rate)}
        >>> for line in rate_lines({"by_angle": {"bins": [entry]}}):
        ...     print(line)
        angle                sticker         blank              n  clean              n
        0-15 deg             50 % [20, 80]   50 % [20, 80]      8  50 % [20, 80]      8
    """
    lines = []
    for name in (BY_DISTANCE, BY_ANGLE):
        table = heldout.get(name)
        if not table:
            continue
        lines.append(rate_header(_title(table)))
        bins = table["bins"] if name == BY_ANGLE else reversed(table["bins"])
        for entry in bins:
            rates = (RateInterval(**entry[rate]) for rate in RATES)
            lines.append(rate_line(_span(entry, table.get("unit")), *rates))
    return lines


def rate_header(title: str) -> str:
    """Return the first line of a table of :func:`rate_line`, whose rows are named by ``title``."""
    return _columns(title, "sticker", "blank", "n", "clean", "n")


def rate_line(name: str, success: RateInterval, blank: RateInterval, clean: RateInterval) -> str:
    """Return the rates of what is called ``name`` in columns for a terminal, as in
    :func:`rate_lines`."""
    rates = _short(success), _short(blank), f"{success.n}", _short(clean), f"{clean.n}"
    return _columns(name, *rates)


def _columns(span: str, success: str, blank: str, valid: str, clean: str, draws: str) -> str:
    name = span if len(span) <= _NAME_WIDTH else f"{span[: _NAME_WIDTH - 1]}…"
    return f"{name:{_NAME_WIDTH}} {success:15} {blank:15} {valid:>4}  {clean:15} {draws:>4}"


def _title(table: Mapping[str, Any]) -> str:
    if "unit" not in table:
        return "angle"
    meters = "" if table.get("camera") is None else " (meters)"
    return ("frame share" if table["unit"] == SHARE else "px") + meters


def _span(entry: Mapping[str, Any], unit: str | None) -> str:
    """The bin in words."""
    ends = f"{entry['from']:g}-{entry['to']:g}"
    if unit is None:
        return f"{ends} deg"
    if "far_m" not in entry:
        return ends if unit == SHARE else f"{ends} px"
    return f"{ends} ({entry['near_m']:.2g}-{entry['far_m']:.2g})"


def _short(rate: RateInterval) -> str:
    if rate.n == 0:
        return "-"
    ends = "too few" if rate.too_few else f"{100 * rate.low:.0f}, {100 * rate.high:.0f}"
    return f"{100 * rate.rate:.0f} % [{ends}]"
