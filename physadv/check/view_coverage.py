"""Coverage of views: bins of distance and yaw, planned from the lens and the sign's size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from physadv.camera.lens import CameraLens
from physadv.core.rows import Row

YAWS = (-50.0, -30.0, -10.0, 10.0, 30.0, 50.0)
RINGS = 3
FILLS = 0.85
"""Share of the picture's height that sign and markers may fill, so that a hand can keep them in
view."""
Cell = tuple[int, int]
"""Index of the distance, nearest first, and index of the yaw, leftmost first."""


@dataclass(frozen=True)
class ViewPlan:
    """Bins of the views to film.

    Attributes:
        distances: Edges in m, rising.
        yaws: Edges in degrees, from a sign that faces left to one that faces right.
    """

    distances: tuple[float, ...]
    yaws: tuple[float, ...] = YAWS

    @property
    def cells(self) -> list[Cell]:
        """All bins, nearest first."""
        return [(i, j) for i in range(len(self.distances) - 1) for j in range(len(self.yaws) - 1)]

    def cell(self, distance_m: float | None, yaw_deg: float | None) -> Cell | None:
        """Return the bin of a view at ``distance_m`` and ``yaw_deg``; None outside the plan or
        where either is unknown."""
        if distance_m is None or yaw_deg is None:
            return None
        i, j = _bin(distance_m, self.distances), _bin(yaw_deg, self.yaws)
        return None if i is None or j is None else (i, j)

    def middle(self, cell: Cell) -> tuple[float, float]:
        """Return distance in m and yaw in degrees at the middle of the bin ``cell``."""
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
    """Plan three rings of distances, from the nearest at which the sign fits the picture to the
    farthest at which it is recognized.

    Args:
        lens: Lens of the camera.
        sign_width_mm: Width of the sign in mm.
        tall: Height of sign and markers in sign widths.
        least_share: Width of the smallest part that must be resolved, in sign widths.
        least_px: Pixels that this part needs; the farthest ring ends a tenth nearer.

    Returns:
        The plan.

    Example:
        >>> from physadv.camera.lens import lens_for
        >>> lens = lens_for(focal_px=950)((1280, 720))
        >>> plan = plan_views(lens, 190, least_share=0.13, least_px=20)
        >>> len(plan.cells), plan.distances
        (15, (0.295, 0.451, 0.69, 1.056))
    """
    focal = min(lens.focal)
    near = focal * tall * sign_width_mm / (FILLS * min(lens.size)) / 1000
    far = max(0.9 * focal * least_share * sign_width_mm / least_px / 1000, 1.2 * near)
    step = (far / near) ** (1 / RINGS)
    return ViewPlan(tuple(round(near * step**k, 3) for k in range(RINGS + 1)))


def count_views(rows: Iterable[Row], plan: ViewPlan) -> Counter[Cell]:
    """Return the number of ``rows`` in each bin of ``plan``."""
    cells = (plan.cell(r.get("distance_m"), r.get("yaw_deg")) for r in rows)
    return Counter(c for c in cells if c is not None)


def _bin(value: float, edges: tuple[float, ...]) -> int | None:
    if not edges[0] <= value <= edges[-1]:
        return None
    return min(sum(value >= e for e in edges[1:]), len(edges) - 2)
