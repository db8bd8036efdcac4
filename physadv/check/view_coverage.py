"""Which views of the sign have been filmed: bins of distance and yaw, planned from the lens and the
sign's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from physadv.camera.lens import CameraLens
from physadv.core.rows import Row

YAWS = (-50.0, -30.0, -10.0, 10.0, 30.0, 50.0)
RINGS = 3
FILLS = 0.85
"""Share of the picture's height the sign and its markers may fill, so that a hand can keep them in
view."""
Cell = tuple[int, int]
"""Index of the distance, nearest first, and of the yaw, leftmost first."""


@dataclass(frozen=True)
class ViewPlan:
    """Edges of the bins: distances in m, rising, and yaws in degrees, from facing left to facing
    right."""

    distances: tuple[float, ...]
    yaws: tuple[float, ...] = YAWS

    @property
    def cells(self) -> list[Cell]:
        """All of them, nearest first."""
        return [(i, j) for i in range(len(self.distances) - 1) for j in range(len(self.yaws) - 1)]

    def cell(self, distance_m: float | None, yaw_deg: float | None) -> Cell | None:
        """The bin a view falls into; None outside the plan or where it is not known."""
        if distance_m is None or yaw_deg is None:
            return None
        i, j = _bin(distance_m, self.distances), _bin(yaw_deg, self.yaws)
        return None if i is None or j is None else (i, j)

    def middle(self, cell: Cell) -> tuple[float, float]:
        """Distance in m and yaw in degrees of a bin's middle."""
        i, j = cell
        return (self.distances[i] + self.distances[i + 1]) / 2, (
            self.yaws[j] + self.yaws[j + 1]
        ) / 2


def plan_views(
    lens: CameraLens,
    sign_width_mm: float,
    *,
    tall: float = 1.0,
    least_share: float,
    least_px: float,
) -> ViewPlan:
    """Three distances between the nearest at which the sign fits the picture and the farthest at
    which it is seen.

    ``tall`` is the height of sign and markers in sign widths; the farthest is where a part
    ``least_share`` sign widths wide is ``least_px`` px, less a tenth.
    """
    focal = min(lens.focal)
    near = focal * tall * sign_width_mm / (FILLS * min(lens.size)) / 1000
    far = max(0.9 * focal * least_share * sign_width_mm / least_px / 1000, 1.2 * near)
    step = (far / near) ** (1 / RINGS)
    return ViewPlan(tuple(round(near * step**k, 3) for k in range(RINGS + 1)))


def count_views(rows: Iterable[Row], plan: ViewPlan) -> Counter[Cell]:
    """Frames in each bin of the plan."""
    cells = (plan.cell(r.get("distance_m"), r.get("yaw_deg")) for r in rows)
    return Counter(c for c in cells if c is not None)


def _bin(value: float, edges: tuple[float, ...]) -> int | None:
    if not edges[0] <= value <= edges[-1]:
        return None
    return min(sum(value >= e for e in edges[1:]), len(edges) - 2)
