"""Distances at which a victim still reads the clean sign, measured, and draws kept within them.

Clean signs in many apparent sizes, turned by the angles of the EOT ranges and under their light,
blur and noise, are shown to each victim. A monotone fit through its answers gives the smallest size
that it reads in half of them: its limit of visibility.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression

from physadv.core.errors import DataError
from physadv.core.files import write_json
from physadv.core.reading import foreign_errors
from physadv.core.tables import read_table
from physadv.core.wording import count_noun
from physadv.eot.presets import STATED_DISTANCES, read_ranges
from physadv.eot.ranges import EotRanges
from physadv.eot.stage import Range
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval, wilson_interval
from physadv.models.loading import is_import_path
from physadv.patches.apparent_size import (
    SHARE,
    bin_of,
    distance_of,
    drawn_sizes,
    nominal_camera,
    size_edges,
    sizes_in,
    unit_of,
    yaw_edges,
)
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import annotations_of, sample_eot
from physadv.patches.task import PatchTask, sample_scenes

READ_RATE = 0.5
"""Share of clean signs that are recognized at the limit of visibility."""
RULE = (
    "limit: the smallest size from which on a monotone (isotonic) fit of recognition by size is "
    "at least 50 %"
)
_FILE = "visibility.json"
_YAW_PARTS = 4
_DRAWS_A_CELL = 8
_LEAST_FRAME_PX, _LEAST_CROP_PX = 6.0, 15.0
"""Smallest width of a sign that is shown: in px of a detector's picture, and in px of the camera
for a classifier, whose crops no data set has smaller (GTSRB: Stallkamp 2012)."""
_AT_THE_END = 1.05
"""Factor within which a limit is taken for the smallest size that was shown."""
_DISTANCE_RANGES = ("distance_m", "frame_share", "size_px", "visible_share", "visible_px")
_ANY_DISTANCE = (1e-3, 1e6)


@dataclass(frozen=True)
class VisibilityBin:
    """Recognition of the clean sign in one bin of size or angle.

    Args:
        start: Lower edge.
        stop: Upper edge.
        recognised: Share of signs that are recognized, with its interval.
    """

    start: float
    stop: float
    recognised: RateInterval

    def as_dict(self) -> dict[str, float | int]:
        """Return plain values for a card."""
        return {"from": self.start, "to": self.stop, **self.recognised.as_dict()}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> VisibilityBin:
        """Return the bin that :meth:`as_dict` wrote."""
        rest = {key: value for key, value in table.items() if key not in ("from", "to")}
        return cls(table["from"], table["to"], RateInterval(**rest))


@dataclass(frozen=True)
class VisibilityCurve:
    """How well one victim reads the clean sign, by its apparent size and by its angle.

    Args:
        model: Name of the victim.
        unit: Unit of sizes, "share" of the frame's height or "px" of the camera.
        limit: Smallest size that is read (:data:`RULE`); None where none is. Where the smallest
            size that was shown is read, it is that size.
        sizes: Recognition by size, over all angles.
        yaws: Recognition by angle in degrees, either way, among sizes from the limit on.
        draws: Number of clean signs that were shown.
    """

    model: str
    unit: str
    limit: float | None
    sizes: tuple[VisibilityBin, ...]
    yaws: tuple[VisibilityBin, ...]
    draws: int

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a card."""
        plain = {"model": self.model, "unit": self.unit, "draws": self.draws}
        bins = {
            "sizes": [b.as_dict() for b in self.sizes],
            "yaws": [b.as_dict() for b in self.yaws],
        }
        return {**plain, **({} if self.limit is None else {"limit": self.limit}), **bins}

    @classmethod
    def from_dict(cls, table: Mapping[str, Any]) -> VisibilityCurve:
        """Return the curve that :meth:`as_dict` wrote."""
        return cls(
            table["model"],
            table["unit"],
            table.get("limit"),
            tuple(VisibilityBin.from_dict(entry) for entry in table["sizes"]),
            tuple(VisibilityBin.from_dict(entry) for entry in table["yaws"]),
            table["draws"],
        )


@torch.no_grad()
def measure_visibility(
    task: PatchTask, *, draws_a_cell: int = _DRAWS_A_CELL
) -> tuple[VisibilityCurve, ...]:
    """Measure down to which size each victim of ``task`` reads the clean sign.

    Sizes from 6 px of a detector's picture, or 15 px of a classifier's camera, to the largest that
    the task draws are shown in bins at preferred numbers, each under four equal parts of its range
    of yaw, and under its EOT otherwise. The scenes are training scenes, in random streams of their
    own; the same task gives the same curves.

    Args:
        task: The patch problem, with one sign in each scene.
        draws_a_cell: Clean signs for each bin of size and part of the yaw, 8 of which make about
            300 forward passes.

    Returns:
        A curve for each model, in the order of the task. Models of one size of scenes are shown the
        same pictures.

    Example:
        >>> task = PatchTask.from_config(PatchConfig(resolution=8))
        >>> (curve,) = measure_visibility(task, draws_a_cell=1)
        >>> curve.model, curve.unit, curve.limit < 20
        ('signs', 'px', True)
    """
    by_model: dict[int, VisibilityCurve] = {}
    for part in task.by_scene_size():
        for model, curve in zip(part.models, _curves_of(part, draws_a_cell), strict=True):
            by_model[id(model)] = curve
    return tuple(by_model[id(model)] for model in task.models)


def _curves_of(task: PatchTask, draws_a_cell: int) -> tuple[VisibilityCurve, ...]:
    """The curves of models that are shown the same pictures."""
    smallest, largest = _shown_span(task)
    edges = size_edges(smallest, largest)
    sizes: list[float] = []
    yaws: list[float] = []
    groups: list[str] = []
    answers: list[list[bool]] = [[] for _ in task.models]
    for number, (low, high) in enumerate(pairwise(edges)):
        for part, yaw in enumerate(_parts(task.ranges.yaw_deg)):
            name = ("visibility", number, part)
            span = (max(low, smallest), min(high, largest))
            whole_frame = task.scene_size.whole_frame
            shown = replace(task, ranges=_at_size(task.ranges, span, yaw, whole_frame=whole_frame))
            scenes = sample_scenes(shown, task.scene_sources.train, draws_a_cell, *name)
            draw = sample_eot(task, scenes, name)
            moved = scenes.to(task.device)
            images = task.stages.without_patch(moved, draw)
            annotations = annotations_of(task, moved)
            for index, model in enumerate(task.models):
                answer = task.goal_of(index).recognized(model(images), annotations)
                answers[index] += answer.tolist()

            sizes += sizes_in(scenes, task.sign_width_mm, whole_frame=whole_frame).tolist()
            unknown = torch.full((len(scenes.images),), torch.nan)
            yaws += (unknown if scenes.yaw_deg is None else scenes.yaw_deg).abs().tolist()
            groups += scenes.groups

    clusters = groups if task.scene_sources.clustered else None
    return tuple(
        _curve(
            _name_of(model),
            edges,
            sizes,
            yaws,
            answer,
            clusters,
            task,
            limit_of(sizes, answer, least=2 * draws_a_cell),
        )
        for model, answer in zip(task.models, answers, strict=True)
    )


def limit_of(sizes: Sequence[float], recognized: Sequence[bool], *, least: int = 1) -> float | None:
    """Return the smallest size that is read in at least half of the cases (:data:`RULE`).

    Args:
        sizes: Size of each sign that was shown.
        recognized: Whether each was recognized.
        least: Number of signs from the limit on below which they are chance: a monotone fit ends
            in whatever the last few answers are.

    Returns:
        The limit, which is one of ``sizes``; None where no size is read.

    Example:
        >>> limit_of([0.4, 0.1, 0.2, 0.3], [True, False, False, True])
        0.3
    """
    if not sizes:
        return None
    order = np.argsort(np.asarray(sizes), kind="stable")
    answers = np.asarray(recognized, np.float64)[order]
    fit = isotonic_regression(answers, increasing=True).x
    read = np.flatnonzero(fit >= READ_RATE)
    return float(np.asarray(sizes)[order][read[0]]) if len(read) >= least else None


def visible_ranges(task: PatchTask, curves: Sequence[VisibilityCurve]) -> EotRanges:
    """Return the ranges of ``task`` from its nearest view to the limit of visibility.

    Of several classifiers, or detectors, the limit of the best reader counts, since a patch has to
    hold for as long as any of them reads the sign. Sizes stay uniform in the logarithm, so that
    every bin of distance has its share of the draws.

    Args:
        task: The patch problem.
        curves: What its victims read.

    Returns:
        The ranges; those of the task where no victim reads the sign, and where they draw no size.
    """
    ranges = task.ranges
    if all(curve.limit is None for curve in curves):
        return ranges
    for whole_frame in sorted({curve.unit == SHARE for curve in curves}):
        limits = [c.limit for c in curves if (c.unit == SHARE) == whole_frame and c.limit]
        drawn, _ = drawn_sizes(task.ranges, task.sign_width_mm, whole_frame=whole_frame)
        ranges = _down_to(min(limits, default=drawn), task, ranges, whole_frame=whole_frame)
    return ranges


def _down_to(limit: float, task: PatchTask, ranges: EotRanges, *, whole_frame: bool) -> EotRanges:
    """``ranges`` of ``task`` for frames or for crops, down to a ``limit`` of size."""
    width_mm = task.sign_width_mm
    if not whole_frame and not ranges.acts("size_px", "distance_m"):
        return ranges  # crops are sharp, whatever the distance
    _, largest = drawn_sizes(task.ranges, width_mm, whole_frame=whole_frame)
    limit = min(limit, largest)
    if not ranges.acts("distance_m"):
        return replace(ranges, **{_size_range(whole_frame): (limit, largest)})

    # The camera with the longest focal length still reads the sign where the others do not.
    longest = replace(
        ranges,
        field_of_view_deg=(ranges.field_of_view_deg[0],) * 2,
        sensor_px=(ranges.sensor_px[1],) * 2,
    )
    farthest = distance_of(limit, longest, width_mm, whole_frame=whole_frame)
    if ranges.acts("visible_share", "visible_px"):
        farthest = max(farthest, ranges.distance_m[1])  # frames or crops reach farther
    nearest = ranges.distance_m[0]
    visible = {_visible_range(whole_frame): (limit, largest)}
    return replace(ranges, distance_m=(nearest, max(nearest, farthest)), **visible)


def save_curves(folder: Path, curves: Sequence[VisibilityCurve], key: int) -> Path:
    """Write ``curves`` into the ``folder`` of a run, whose configuration ``key`` identifies."""
    table = {"key": str(key), "curves": [curve.as_dict() for curve in curves]}
    return write_json(folder / _FILE, table)


def load_curves(folder: Path, key: int) -> tuple[VisibilityCurve, ...] | None:
    """Read the curves that :func:`save_curves` wrote, so that a resumed run need not measure again.

    Returns:
        The curves; None where there is no file, where it is of another configuration, or where it
        is damaged.
    """
    try:
        table = read_table(folder / _FILE, finite=False)
        if table.get("key") != str(key):
            return None
        with foreign_errors(str(folder / _FILE), DataError, "no record of visibility"):
            return tuple(VisibilityCurve.from_dict(entry) for entry in table["curves"])
    except DataError:
        return None


def visibility_table(curves: Sequence[VisibilityCurve]) -> dict[str, Any]:
    """Return ``curves`` as a card holds them under [visibility]; empty without curves."""
    if not curves:
        return {}
    return {"rule": RULE, "curves": [curve.as_dict() for curve in curves]}


def limit_lines(task: PatchTask, curves: Sequence[VisibilityCurve]) -> list[str]:
    """Return a sentence for each of ``curves``, which were measured on ``task``: how far its victim
    reads the clean sign."""
    view, _ = nominal_camera(task.ranges)
    lines = []
    for curve in curves:
        whole_frame = curve.unit == SHARE
        smallest = min(entry.start for entry in curve.sizes)
        if curve.limit is None:
            lines.append(f"{curve.model} reads the clean sign in no size")
            continue
        at_m = distance_of(curve.limit, task.ranges, task.sign_width_mm, whole_frame=whole_frame)
        size = f"{curve.limit:.3f} of the frame" if whole_frame else f"{curve.limit:.0f} px"
        less = " or less" if curve.limit <= smallest * _AT_THE_END else ""
        lines.append(
            f"{curve.model} reads the clean sign down to {size}{less} "
            f"({at_m:.2g} m at {view:.0f} deg)"
        )
    return lines


def curve_lines(task: PatchTask, curve: VisibilityCurve) -> list[str]:
    """Return ``curve``, which was measured on ``task``, in columns for a terminal: a line a bin."""
    whole_frame = curve.unit == SHARE
    lines = [f"{count_noun(curve.draws, 'clean sign')}; {RULE}", "size                  recognized"]
    for entry in reversed(curve.sizes):
        near, far = (
            distance_of(end, task.ranges, task.sign_width_mm, whole_frame=whole_frame)
            for end in (entry.stop, entry.start)
        )
        size = f"{entry.start:g}-{entry.stop:g}{'' if whole_frame else ' px'}"
        lines.append(f"{size}, {near:.2g}-{far:.2g} m".ljust(22) + f"{entry.recognised}")
    lines += [f"{b.start:g}-{b.stop:g} deg".ljust(22) + f"{b.recognised}" for b in curve.yaws]
    return lines


def keeps_distances(config: PatchConfig) -> bool:
    """Return whether the distances of ``config`` are stated by the user or by a paper, and kept.

    They are where ``--eot-ranges`` states one of them, where ``--eot`` names code of the user's
    own, and under a published preset whose paper states them.

    Example:
        >>> keeps_distances(PatchConfig(eot="camera")), keeps_distances(PatchConfig(eot="rp2"))
        (False, True)
    """
    if is_import_path(config.eot) or config.eot in STATED_DISTANCES:
        return True
    stated = {} if config.eot_ranges is None else read_ranges(config.eot_ranges)
    return any(name in stated for name in _DISTANCE_RANGES)


def _shown_span(task: PatchTask) -> Range:
    """The smallest and the largest size that are shown."""
    size, whole_frame = task.scene_size.size, task.scene_size.whole_frame
    smallest = _LEAST_FRAME_PX / size if whole_frame else _LEAST_CROP_PX
    _, largest = drawn_sizes(task.ranges, task.sign_width_mm, whole_frame=whole_frame)
    # A crop shows no more px than it has, and a frame hardly more than a whole sign.
    return smallest, max(min(largest, 0.9 if whole_frame else float(size)), 1.5 * smallest)


def _at_size(ranges: EotRanges, sizes: Range, yaw_deg: Range, *, whole_frame: bool) -> EotRanges:
    """``ranges`` with signs of the given ``sizes`` and turned by ``yaw_deg``."""
    if not ranges.acts("distance_m"):
        return replace(ranges, **{_size_range(whole_frame): sizes}, yaw_deg=yaw_deg)
    visible = {_visible_range(whole_frame): sizes}
    return replace(ranges, distance_m=_ANY_DISTANCE, **visible, yaw_deg=yaw_deg)


def _parts(span: Range) -> list[Range]:
    """Equal parts of a range."""
    ends = np.linspace(*span, _YAW_PARTS + 1).tolist()
    return list(pairwise(ends))


def _size_range(whole_frame: bool) -> str:
    return "frame_share" if whole_frame else "size_px"


def _visible_range(whole_frame: bool) -> str:
    return "visible_share" if whole_frame else "visible_px"


def _name_of(model: object) -> str:
    return str(getattr(getattr(model, "card", None), "name", type(model).__name__))


def _curve(
    name: str,
    edges: Sequence[float],
    sizes: Sequence[float],
    yaws: Sequence[float],
    recognized: Sequence[bool],
    groups: Sequence[str] | None,
    task: PatchTask,
    limit: float | None,
) -> VisibilityCurve:
    near = [limit is not None and size >= limit for size in sizes]
    turned = [yaw if is_near else math.nan for yaw, is_near in zip(yaws, near, strict=True)]
    return VisibilityCurve(
        name,
        unit_of(whole_frame=task.scene_size.whole_frame),
        limit,
        _bins(sizes, edges, recognized, groups),
        _bins(turned, yaw_edges(turned), recognized, groups),
        len(sizes),
    )


def _bins(
    values: Sequence[float],
    edges: Sequence[float],
    recognized: Sequence[bool],
    groups: Sequence[str] | None,
) -> tuple[VisibilityBin, ...]:
    """Recognition by bin of a value, empty bins left out."""
    numbers = [bin_of(value, edges) for value in values]
    bins = []
    for number, (low, high) in enumerate(pairwise(edges)):
        chosen = [i for i, own in enumerate(numbers) if own == number]
        if not chosen:
            continue
        hits = [bool(recognized[i]) for i in chosen]
        rate = wilson_interval(sum(hits), len(hits))
        if groups is not None:
            rate = clustered_interval(hits, [groups[i] for i in chosen])
        bins.append(VisibilityBin(low, high, rate))
    return tuple(bins)
