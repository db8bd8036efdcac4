"""Streets drawn by code, for simulations that were given no photos: sky, road, houses in
perspective, trees, cars and poles in one light.

Detectors find a sign before these as before photos of streets (benchmarks/physical.md). The plainer
pictures of :mod:`physadv.core.synthetic_backgrounds` stay for draws whose figures are recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import cv2
import numpy as np

from physadv.core.image_io import Array
from physadv.core.random_streams import numpy_generator
from physadv.core.street_canvas import F32, F64, F, StreetCanvas, along, facing, lying
from physadv.core.street_parts import (
    car_from_behind,
    car_from_side,
    car_paint,
    facade,
    foliage,
    fractal_tile,
)

_Thing = tuple[float, Callable[[], None]]
"""Distance of a thing in m, and what draws it."""

_SOFT_FROM_M = 25.0
_FARTHEST_M = 400.0


def drawn_street(seed: int, *path: str | int, height: int = 360, width: int = 480) -> Array:
    """Draw a street; the same names give the same picture.

    Args:
        seed: Seed of the random streams.
        path: Names of the stream under the seed.
        height: Height in px.
        width: Width in px.

    Returns:
        Pixels (height, width, 3) uint8 sRGB.

    Example:
        >>> drawn_street(0, "example", height=90, width=160).shape
        (90, 160, 3)
    """
    rng = numpy_generator(seed, "street", *path)
    street = _Street(rng, StreetCanvas(rng, height, width))
    street.draw()
    return street.canvas.exposed(rng)


class _Street:
    """What stands where in a street, drawn from far to near."""

    def __init__(self, rng: np.random.Generator, canvas: StreetCanvas) -> None:
        self.rng, self.canvas, self.light = rng, canvas, canvas.light
        self.tile = fractal_tile(rng)

        # Edges of road and pavements, and where houses begin, left and right.
        middle, half = float(rng.uniform(-5, 5)), float(rng.uniform(2.8, 5.5))
        self.road = (middle - half, middle + half)
        self.walk = (self.road[0] - rng.uniform(1.5, 3.5), self.road[1] + rng.uniform(1.5, 3.5))
        garden = rng.choice([0.0, 3.0, 8.0], size=2) * rng.uniform(0.6, 1.4, 2)
        self.houses = (self.walk[0] - garden[0] - 0.3, self.walk[1] + garden[1] + 0.3)

    def draw(self) -> None:
        """Draw everything."""
        self._sky()
        self._ground()
        self._markings()
        things = [*self._house_rows(), *self._trees(), *self._cars()]
        things += [*self._poles()]
        things.sort(key=lambda thing: -thing[0])

        for z, draw in things:
            if z >= _SOFT_FROM_M:
                draw()
        self.canvas.soften(float(self.rng.uniform(0.2, 1.3)))
        for z, draw in things:
            if z < _SOFT_FROM_M:
                draw()
        self._wires()

    def _sky(self) -> None:
        """Fill the picture with a sky, bluer above, and clouds flattened to the horizon."""
        rng, (width, height), light = self.rng, self.canvas.size, self.light
        u, v = self.canvas.vanishing
        up = np.clip((v - np.arange(height)) / self.canvas.focal, 0, 1.2)[:, None, None]
        zenith = light.sky * F(0.5) * np.array([0.55, 0.8, 1.25], F)
        if not light.sun.any():
            zenith = np.full(3, float(light.sky.mean()) * 0.8, F)
        horizon = np.maximum(light.haze, zenith)
        picture = self.canvas.picture
        picture[:] = zenith + (horizon - zenith) * np.exp(-up / 0.25)

        # Clouds lie in a plane overhead, so that they crowd towards the horizon.
        rows = max(int(v), 1)
        away = (60 / (up[:rows, 0, 0] + 0.12)).astype(F)[:, None]
        across = (np.arange(width, dtype=F) - F(u)) / F(self.canvas.focal)
        x = across[None] * away * F(1.5) + F(rng.uniform(0, 512))
        y = np.repeat(away, width, 1) + F(rng.uniform(0, 512))
        soft = cv2.GaussianBlur(self.tile, (0, 0), 2.5)
        clouds = _sampled(np.asarray(soft / soft.std(), np.float32), x, y)[..., None]
        cover = np.clip((clouds - F(rng.uniform(-0.8, 1.6))) * F(0.7), 0, 1)
        white = (light.sky + F(0.8) * light.sun) * (1 - F(0.12) * clouds)
        picture[:rows] += (white * F(0.95) - picture[:rows]) * cover

    def _ground(self) -> None:
        """Lay road, curbs, pavements and verges, textured, in the shadow of houses."""
        rng, (width, height), light = self.rng, self.canvas.size, self.light
        u, v = self.canvas.vanishing
        top = min(int(np.ceil(v)), height - 1)
        reach = self.canvas.focal * self.canvas.eye_m
        z = np.minimum(
            reach / np.maximum(np.arange(top, height) + 0.5 - v, 0.01), _FARTHEST_M
        ).astype(F)[:, None]
        x = (np.arange(width, dtype=F)[None] - F(u)) * z / F(self.canvas.focal)
        depth: F32 = np.repeat(z, width, 1)
        colors, rough = self._zones(x)

        # Texture of three scales, each faded where it is finer than a pixel.
        grain = np.zeros_like(x)
        for meters, seen_to in ((0.012, 4.0), (0.1, 14.0), (0.7, 60.0)):
            part = _sampled(self.tile, x / F(meters), depth / F(meters))
            grain += part / (1 + (z / F(seen_to)) ** 2)
        ground = colors * np.exp(grain * rough)[..., None]

        # The houses on the sun's side shade the ground up to an uneven line.
        side = light.side
        line = self.houses[0 if side < 0 else 1] - side * float(rng.uniform(-3, 12))
        jag = _sampled(self.tile, np.full(x.shape, 7, F), depth * F(3))
        shade = 1 / (1 + np.exp(np.clip(-(side * (x - F(line)) + jag) * F(6), -30, 30)))
        lit = light.on_ground() - shade[..., None] * F(0.75) * light.sun
        left = np.exp(-z / F(light.clear_m))[..., None]
        self.canvas.picture[top:] = ground * lit * left + light.haze * (1 - left)

    def _zones(self, x: F32) -> tuple[F32, F32]:
        """Return the color (h, w, 3) and the roughness (h, w) of the ground at ``x`` m (h, w)."""
        rng = self.rng
        asphalt = np.full(3, rng.uniform(0.07, 0.2)) * rng.uniform(0.95, 1.05, 3)
        paving = np.full(3, rng.uniform(0.2, 0.38)) * rng.uniform(0.92, 1.06, 3)
        grass, soil = np.array([0.08, 0.12, 0.035]), np.array([0.14, 0.14, 0.06])
        verge = (grass, soil, paving * 0.9)[int(rng.integers(3))] * rng.uniform(0.7, 1.2)

        (left, right), curb = self.road, 0.15
        edges = [self.walk[0], left - curb, left, right, right + curb, self.walk[1]]
        stone = paving * 1.2
        colors = np.array([verge, paving, stone, asphalt, stone, paving, verge], F)
        rough = np.array([0.45, 0.15, 0.1, 0.12, 0.1, 0.15, 0.45], F)
        zone = np.searchsorted(np.array(edges, F), x)
        return colors[zone], rough[zone]

    def _markings(self) -> None:
        """Paint the road: a broken line, edge lines and sometimes a crossing."""
        rng, (left, right) = self.rng, self.road
        paint = np.full(3, rng.uniform(0.35, 0.65)) * [1, 1, 0.95]
        if rng.random() < 0.25:
            paint = paint * [1, 0.75, 0.25]
        color = np.asarray(0.8 * paint * self.light.on_ground(), np.float32)

        stripes = []
        middle, pitch = (left + right) / 2, float(rng.uniform(4, 9))
        if rng.random() < 0.8:
            starts = np.arange(1.5, 70, pitch)
            stripes += [(middle - 0.07, middle + 0.07, z, z + 0.45 * pitch) for z in starts]
        if rng.random() < 0.5:
            stripes += [(x - 0.06, x + 0.06, 1.0, 90.0) for x in (left + 0.3, right - 0.3)]
        if rng.random() < 0.4:
            z = float(rng.uniform(4, 16))
            stripes += [(x, x + 0.45, z, z + 2.8) for x in np.arange(left + 0.3, right - 0.5, 0.95)]
        for stripe in stripes:
            self.canvas.fill(lying(*stripe), color, (stripe[2] + stripe[3]) / 2)

    def _house_rows(self) -> Iterator[_Thing]:
        """Yield the houses at both sides and, on some streets, at its end."""
        rng = self.rng
        for side in (-1, 1):
            edge = self.houses[(side + 1) // 2]
            z, gap = float(rng.uniform(2, 14)), float(rng.choice([0.1, 0.4, 0.8]))
            while z < 110:
                deep = float(rng.uniform(7, 18))
                if rng.random() > 0.15:
                    yield self._house(side, edge + side * float(rng.uniform(0, 1)), z, deep)
                z += deep + (float(rng.uniform(1.5, 7)) if rng.random() < gap else 0.0)

        if rng.random() < 0.6:
            z, x = float(rng.uniform(50, 120)), -70.0
            while x < 70:
                wide, tall = float(rng.uniform(9, 20)), float(rng.uniform(5, 22))
                yield self._far_house(x, wide, tall, z)
                x += wide + (float(rng.uniform(2, 8)) if rng.random() < 0.3 else 0)

    def _house(self, side: int, x: float, z: float, deep: float) -> _Thing:
        """Return a house of the left (-1) or right (1) row, its wall at ``x``, from ``z`` on."""
        tall, wide = float(self.rng.uniform(3.5, 15)), float(self.rng.uniform(7, 12))
        own, canvas, light = self._own(), self.canvas, self.light

        def draw() -> None:
            wall = facade(own, self.tile, deep, tall)
            gable = facade(own, self.tile, wide, tall, windows=own.random() < 0.4, like=wall)
            outer, inner, far = x + side * wide, x + side * wide / 2, z + deep
            if own.random() < 0.6:
                ridge, eaves = tall + float(own.uniform(1.5, 3.5)), x - side * 0.4
                end = gable.mean((0, 1)) * light.on_front()
                canvas.fill([(x, tall, z), (inner, ridge, z), (outer, tall, z)], end, z)
                tiles = own.uniform(0.04, 0.2) * np.array([1, *own.uniform([0.6, 0.5], 1)])
                lit = light.on_ground() if light.side == -side else light.on_front()
                slope = [(eaves, tall - 0.1, z - 0.3), (inner, ridge, z - 0.3)]
                slope += [(inner, ridge, far), (eaves, tall - 0.1, far)]
                canvas.fill(slope, np.asarray(tiles * lit, np.float32), z + deep / 2)
            canvas.lay(gable * light.on_front(), facing(x, outer, 0, tall, z), z)
            canvas.lay(wall * light.on_wall(side), along(x, 0, tall, z, far), z + deep / 2)

        return z + deep / 2, draw

    def _far_house(self, x: float, wide: float, tall: float, z: float) -> _Thing:
        """Return a house that faces the camera."""
        own = self._own()

        def draw() -> None:
            wall = facade(own, self.tile, wide, tall) * self.light.on_front()
            self.canvas.lay(wall, facing(x, x + wide, 0, tall, z), z)

        return z, draw

    def _trees(self) -> Iterator[_Thing]:
        """Yield trees beside the street, bushes in gardens and far trees."""
        rng = self.rng
        leaf = np.array([0.07, 0.11, 0.03]) * np.exp(rng.normal(0, 0.25) + rng.normal(0, 0.1, 3))
        if rng.random() < 0.15:
            leaf = np.array([0.2, 0.11, 0.03])

        for edge, side in zip(self.walk, (-1, 1), strict=True):
            pitch = float(rng.choice([6.0, 12.0, 30.0]))
            for start in np.arange(rng.uniform(4, 12), 70, pitch):
                x, z = edge + side * float(rng.uniform(-1, 2.5)), start + float(rng.uniform(-2, 2))
                yield self._tree(x, z, float(rng.uniform(3.5, 10)), leaf, on_trunk=True)
            for _ in range(int(rng.integers(0, 6))):
                x, z = edge + side * float(rng.uniform(0.5, 6)), float(rng.uniform(5, 40))
                yield self._tree(x, z, float(rng.uniform(0.6, 2)), leaf, on_trunk=False)
        for _ in range(int(rng.integers(4, 16))):
            x, z = float(rng.uniform(-60, 60)), float(rng.uniform(60, 120))
            yield self._tree(x, z, float(rng.uniform(5, 14)), leaf, on_trunk=False)

    def _tree(self, x: float, z: float, tall: float, leaf: F64, *, on_trunk: bool) -> _Thing:
        """Return a tree, or a bush without a trunk, with leaves of a color (3,)."""
        rng, canvas, light = self.rng, self.canvas, self.light
        tint = leaf * np.exp(rng.normal(0, 0.2) + rng.normal(0, 0.08, 3))
        half = tall / 2 * float(rng.uniform(0.6, 1.0) if on_trunk else rng.uniform(1.0, 2.5))
        bottom = tall * float(rng.uniform(0.2, 0.4)) if on_trunk else 0.0
        own, px = self._own(), canvas.focal / z

        def draw() -> None:
            lit = light.on_front() + F(0.35) * light.sun
            if on_trunk:
                r, top = 0.02 * tall, 0.7 * tall
                trunk = [(x - r, 0, z), (x + r, 0, z), (x + r / 2, top, z), (x - r / 2, top, z)]
                canvas.fill(trunk, np.array([0.09, 0.07, 0.05], F) * lit, z)
            sun = light.side if light.sun.any() else 0
            crown = foliage(own, self.tile, 2 * half * px, (tall - bottom) * px, sun)
            crown[..., :3] *= np.asarray(tint * lit, np.float32)
            canvas.lay(crown, facing(x - half, x + half, bottom, tall, z), z)

        return z, draw

    def _cars(self) -> Iterator[_Thing]:
        """Yield parked cars at both curbs, and perhaps one on the road."""
        rng = self.rng
        for side in (-1, 1):
            curb = self.road[(side + 1) // 2]
            z, share = float(rng.uniform(6, 20)), float(rng.choice([0.1, 0.5, 0.9]))
            while z < 55:
                if rng.random() < share:
                    yield self._car(curb - 2.0 if side > 0 else curb + 0.2, z)
                z += float(rng.uniform(5.2, 7.5))
        if rng.random() < 0.4:
            yield self._car((self.road[0] + self.road[1]) / 2 + 0.6, float(rng.uniform(9, 45)))

    def _car(self, x: float, z: float) -> _Thing:
        """Return a car seen from behind, its left side at ``x``."""
        long, tall = float(self.rng.uniform(3.7, 4.8)), float(self.rng.uniform(1.4, 1.85))
        own, right = self._own(), x + 1.8
        canvas, light = self.canvas, self.light

        def draw() -> None:
            paint = car_paint(own)
            dark = np.array([0.03, 0.03, 0.035], F) * light.on_ground()
            canvas.fill(lying(x - 0.15, right + 0.15, z - 0.2, z + long), dark, z)
            if right < 0 or x > 0:
                # Only the flank towards the camera's axis is seen.
                flank = car_from_side(own, paint)
                flank[..., :3] *= light.on_wall(-1 if right < 0 else 1)
                canvas.lay(flank, along(right if right < 0 else x, 0, tall, z, z + long), z)
            back = car_from_behind(paint)
            back[..., :3] *= light.on_front()
            canvas.lay(back, facing(x, right, 0, tall, z), z)

        return z, draw

    def _poles(self) -> Iterator[_Thing]:
        """Yield street lamps or wooden poles along one curb."""
        rng, canvas = self.rng, self.canvas
        side = int(rng.choice([-1, 1]))
        x = self.road[(side + 1) // 2] + side * 0.5
        tall, r = float(rng.uniform(5, 9)), float(rng.uniform(0.05, 0.14))
        color = np.full(3, rng.uniform(0.08, 0.35), F) * self.light.on_front()
        end = x - side * float(rng.choice([0.0, 1.5]))
        start, pitch = float(rng.uniform(3, 16)), float(rng.uniform(14, 28))
        self.pole_tops = [(x, tall, float(z)) for z in np.arange(start, 80, pitch)]

        def pole_at(z: float) -> Callable[[], None]:
            def draw() -> None:
                post = [(x - r, 0, z), (x + r, 0, z), (x + 0.6 * r, tall, z)]
                canvas.fill([*post, (x - 0.6 * r, tall, z)], color, z)
                arm = [(x, tall, z), (end, tall + 0.2, z), (end, tall + 0.1, z)]
                canvas.fill([*arm, (x, tall - 0.1, z)], color, z)

            return draw

        for _, _, z in self.pole_tops:
            yield z, pole_at(z)

    def _wires(self) -> None:
        """Hang wires from pole to pole, on some streets."""
        if self.rng.random() > 0.35:
            return
        t = np.linspace(0, 1, 12)
        sag = 2 * t * (1 - t)
        for drop in (0.2, 0.6):
            for (x, y, z), (_, _, far) in zip(self.pole_tops, self.pole_tops[1:], strict=False):
                way = np.column_stack([np.full(12, x), y - drop - sag, z + (far - z) * t])
                self.canvas.line(way)

    def _own(self) -> np.random.Generator:
        """Return the random stream of one thing, whatever is drawn before it."""
        return np.random.default_rng(int(self.rng.integers(2**32)))


def _sampled(tile: F32, x: F32, y: F32) -> F32:
    """Return what a repeated tile has at (x, y)."""
    sampled = cv2.remap(tile, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(sampled, np.float32)
