"""Street scenes with a sign, path-traced by Mitsuba 3: the light on the sign's plane, and the rest
of the picture.

The light that falls on the plane does not depend on the face, which is matt. So each pose is traced
once, and any face is laid into it exactly: reflectance times the plane's light. World: x right,
y away from the viewer, z up, in meters; the sign's center is the origin of x and y and faces -y.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from math import cos, radians, sin
from pathlib import Path
from typing import Any

import cv2
import mitsuba as mi
import numpy as np
import numpy.typing as npt
from path_traced_poses import FOCAL, SIGN_HEIGHT, SIZE, Pose

from physadv.core.files import atomic_path
from physadv.core.random_streams import numpy_generator
from physadv.core.sign_artwork import octagon_mm

mi.set_variant("scalar_rgb")

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]

_Transform = mi.ScalarTransform4f


@dataclass(frozen=True)
class TracedPose:
    """A pose and its light.

    Attributes:
        pose: The pose.
        around: Radiance (h, w, 3) of the picture without the sign's face.
        on_plane: Radiance (n, n, 3) of a white plane in the sign's place, over its square.
    """

    pose: Pose
    around: F32
    on_plane: F32


def traced(poses: list[Pose], sign_mm: float, cache: Path) -> Iterator[TracedPose]:
    """Trace poses, each once: pictures are kept in ``cache``.

    Args:
        poses: What to trace.
        sign_mm: Width of the sign.
        cache: Folder of the pictures, about 6 MB a pose.
    """
    cache.mkdir(parents=True, exist_ok=True)
    for pose in poses:
        file = cache / f"{sign_mm:g}-{pose.number:03d}.npz"
        if not file.is_file():
            around, on_plane = _trace(pose, sign_mm / 1000)
            with atomic_path(file) as temporary, temporary.open("wb") as stream:
                np.savez(stream, around=around.astype(np.float16), on_plane=on_plane)
        with np.load(file) as kept:
            yield TracedPose(pose, kept["around"].astype(np.float32), kept["on_plane"])


def _trace(pose: Pose, sign: float) -> tuple[F32, F32]:
    """Trace the picture around the sign, and the light on the sign's plane.

    The picture is traced at a quarter of its size and divided by the colors there. Colors are drawn at full
    size and multiplied again, so that textures and edges are sharp while the light, which is
    smooth, needs few rays.
    """
    parts = _scene(pose, sign)
    light = _render({**parts, "sensor": _street_sensor(pose, 0.25)}, 40, pose.number)
    colors = _colors(parts, pose)

    small = (light.shape[1], light.shape[0])
    low = np.maximum(cv2.resize(colors, small, interpolation=cv2.INTER_AREA), 0.02)
    falling = np.asarray(np.log(np.maximum(light / low, 1e-5)), np.float32)
    falling = cv2.bilateralFilter(falling, 7, 0.35, 2.0)
    around = np.exp(cv2.resize(falling, SIZE, interpolation=cv2.INTER_LINEAR)) * np.maximum(
        colors, 0.02
    )

    square = _Transform().translate([0, -0.004, SIGN_HEIGHT]).rotate([1, 0, 0], 90)
    white = {
        "type": "rectangle",
        "to_world": square.scale([0.6 * sign, 0.6 * sign, 1]),
        "bsdf": _matt((0.999,) * 3),
    }
    plane = {**parts, "face": white, "sensor": _plane_sensor(sign)}
    on_plane = cv2.GaussianBlur(_render(plane, 256, pose.number), (0, 0), 0.7)
    return np.asarray(around, np.float32), np.asarray(on_plane, np.float32)


def _render(scene: dict[str, Any], rays: int, seed: int) -> F32:
    picture = mi.render(mi.load_dict(scene), spp=rays, seed=seed)
    return np.ascontiguousarray(np.array(picture, np.float32)[..., :3])


def _colors(parts: dict[str, Any], pose: Pose) -> F32:
    """Return the diffuse colors (h, w, 3) that the camera sees, 1 for the sky: every surface shines
    in its own color, and nothing is reflected."""
    shining: dict[str, Any] = {}
    for name, part in parts.items():
        if not isinstance(part, dict) or "bsdf" not in part:
            shining[name] = part
            continue
        surface = part["bsdf"].get("bsdf", part["bsdf"])
        color = surface.get("reflectance", surface.get("diffuse_reflectance"))
        shape = {key: value for key, value in part.items() if key != "bsdf"}
        shining[name] = {**shape, "emitter": {"type": "area", "radiance": color}}
        if part["type"] == "disk":  # a leaf has two sides, a lamp one
            shining[f"{name} below"] = {**shining[name], "flip_normals": True}
    shining["sky"] = {"type": "constant"}
    shining["integrator"] = {"type": "path", "max_depth": 1}
    return _render({**shining, "sensor": _street_sensor(pose, 1.0)}, 2, pose.number)


def _street_sensor(pose: Pose, scale: float) -> dict[str, Any]:
    width, height = (round(side * scale) for side in SIZE)
    return {
        "type": "perspective",
        "fov": float(np.degrees(2 * np.arctan(0.5 / FOCAL))),
        "fov_axis": "x",
        "to_world": _Transform().look_at(
            origin=list(pose.origin), target=list(pose.look_at), up=[0, 0, 1]
        ),
        "film": _film(width, height),
        "sampler": {"type": "independent"},
    }


def _plane_sensor(sign: float, cells: int = 32) -> dict[str, Any]:
    """Look at the sign's square straight on, from just before it."""
    center = np.array([0, -0.012, SIGN_HEIGHT])
    return {
        "type": "orthographic",
        "near_clip": 0.001,
        "to_world": _Transform()
        .look_at(
            origin=center.tolist(), target=(center + np.array([0, 1, 0])).tolist(), up=[0, 0, 1]
        )
        .scale([sign / 2, sign / 2, 1]),
        "film": _film(cells, cells),
        "sampler": {"type": "independent"},
    }


def _film(width: int, height: int) -> dict[str, Any]:
    return {
        "type": "hdrfilm",
        "width": width,
        "height": height,
        "rfilter": {"type": "box"},
        "pixel_format": "rgb",
    }


def _scene(pose: Pose, sign: float) -> dict[str, Any]:
    """Build the street: road, pavement, grass, houses, trees, cars, the post and the sign's back."""
    rng = numpy_generator(0, "path traced", "scene", pose.number)
    sky, sun = _sky(rng, pose)
    parts: dict[str, Any] = {
        "type": "scene",
        "integrator": {"type": "path", "max_depth": 4},
        "sky": sky,
        "grass": _floor(0, 0, 120, 120, 0.0, _speckled(rng, (0.10, 0.15, 0.05), 0.5), 40),
        "road": _floor(-4.6, 0, 6.4, 120, 0.01, _speckled(rng, (0.11, 0.11, 0.11), 0.35), 30),
        "pavement": _floor(-0.3, 0, 2.2, 120, 0.02, _slabs(rng), 60),
        "post": {
            "type": "cylinder",
            "p0": [0, 0.035, 0],
            "p1": [0, 0.035, SIGN_HEIGHT + 0.4 * sign],
            "radius": 0.03,
            "bsdf": _matt((0.35, 0.36, 0.37)),
        },
        "back": _board(sign, 0.45),
    }
    for number, y in enumerate(np.arange(2, 50, 3.0)):
        parts[f"mark {number}"] = _floor(-4.6, y, 0.12, 1.4, 0.015, (0.55, 0.55, 0.52))

    _add_houses(parts, rng)
    _add_cars(parts, rng)
    for number in range(7):
        y, x = float(rng.uniform(5, 26)), float(rng.choice([-9.5, 2.6, 4.5, 7.0]))
        _add_tree(parts, rng, f"tree {number}", x, y, float(rng.uniform(3.5, 7)))
    if pose.light == "grazing sun":
        _add_branch(parts, rng, sun)
    return parts


def _sky(rng: np.random.Generator, pose: Pose) -> tuple[dict[str, Any], F64]:
    """Return the sky of a kind of light, and the direction to the sun."""
    side = float(rng.choice([-1, 1]))
    azimuth, height = {
        "sun": (rng.uniform(-35, 35), rng.uniform(30, 55)),
        "grazing sun": (side * rng.uniform(66, 80), rng.uniform(22, 35)),
        "overcast": (0.0, 45.0),
        "dim": (side * rng.uniform(60, 150), 3.0),
    }[pose.light]
    flat = cos(radians(height))
    sun = np.array(
        [sin(radians(azimuth)) * flat, -cos(radians(azimuth)) * flat, sin(radians(height))]
    )

    if pose.light == "overcast":
        # The standard overcast sky of the CIE (Moon and Spencer 1942): the zenith is three times
        # as bright as the horizon.
        up = np.sin(np.linspace(np.pi / 2, -np.pi / 2, 64))[:, None, None]
        radiance = np.where(up > 0, (1 + 2 * up) / 3, 0.12) * np.array([0.95, 1.0, 1.07])
        bitmap = mi.Bitmap(np.repeat(radiance, 128, 1).astype(np.float32))
        upright = _Transform().rotate([1, 0, 0], 90)
        return {"type": "envmap", "bitmap": bitmap, "to_world": upright}, sun

    return {
        "type": "sunsky",
        "turbidity": float(rng.uniform(2.5, 6)),
        "albedo": 0.2,
        "sun_direction": sun.tolist(),
        "sun_scale": 0.0 if pose.light == "dim" else 1.0,
        "sun_aperture": 1.5,
    }, sun


def _board(sign: float, reflectance: float) -> dict[str, Any]:
    """Return an octagonal board in the sign's place, which casts its shadow."""
    corners = np.array(octagon_mm(sign))[::-1] - sign / 2
    points = np.column_stack([corners[:, 0], np.zeros(8), SIGN_HEIGHT - corners[:, 1]])
    mesh = mi.Mesh("board", 8, 6)
    values = mi.traverse(mesh)
    values["vertex_positions"] = points.ravel().astype(np.float32)
    values["faces"] = np.array([[0, i + 1, i + 2] for i in range(6)], np.uint32).ravel()
    values.update()
    file = Path(tempfile.mkdtemp()) / "board.ply"
    mesh.write_ply(str(file))
    return {
        "type": "ply",
        "filename": str(file),
        "face_normals": True,
        "bsdf": _matt((reflectance,) * 3),
    }


def _matt(color: Any, tiles: float = 1.0) -> dict[str, Any]:
    """Return a matt surface of a color (3,) or a picture (h, w, 3) of linear reflectances."""
    if isinstance(color, tuple):
        reflectance: dict[str, Any] = {"type": "rgb", "value": [float(c) for c in color]}
    else:
        reflectance = {
            "type": "bitmap",
            "bitmap": mi.Bitmap(np.asarray(color, np.float32)),
            "raw": True,
            "to_uv": _Transform().scale([tiles, tiles, 1]),
        }
    return {"type": "twosided", "bsdf": {"type": "diffuse", "reflectance": reflectance}}


def _floor(
    x: float, y: float, width: float, depth: float, z: float, color: Any, tiles: float = 1.0
) -> dict[str, Any]:
    to_world = _Transform().translate([x, float(y), z]).scale([width / 2, depth / 2, 1])
    return {"type": "rectangle", "to_world": to_world, "bsdf": _matt(color, tiles)}


def _speckled(rng: np.random.Generator, color: tuple[float, ...], contrast: float) -> F32:
    """Return a texture of a color with grain of all sizes."""
    total = np.zeros((512, 512), np.float32)
    for cells in (4, 16, 64, 256, 512):
        coarse = rng.standard_normal((cells, cells), dtype=np.float32)
        total += cv2.resize(coarse, (512, 512), interpolation=cv2.INTER_CUBIC)
    tint = np.exp(rng.normal(0, 0.1, 3)) * np.array(color)
    return np.asarray(np.exp(total[..., None] * contrast / 2) * tint, np.float32).clip(0.01, 0.9)


def _slabs(rng: np.random.Generator) -> F32:
    texture = _speckled(rng, (0.3, 0.29, 0.27), 0.12)
    texture[::128] *= 0.5
    texture[:, ::256] *= 0.5
    return texture


def _facade(rng: np.random.Generator, floors: int, windows: int) -> F32:
    """Return a house's front: plaster or brick, with windows, sills and glass."""
    height, width = floors * 96, windows * 80
    wall = [(0.45, 0.4, 0.32), (0.3, 0.13, 0.09), (0.5, 0.49, 0.46), (0.35, 0.37, 0.4)]
    front = cv2.resize(_speckled(rng, wall[int(rng.integers(4))], 0.12), (width, height))
    if rng.random() < 0.5:
        front[::6] *= 0.8
        front[3::6, ::12] *= 0.8
    for floor in range(floors):
        for window in range(windows):
            y, x = floor * 96 + 22, window * 80 + 20
            front[y : y + 52, x : x + 40] = 0.6
            front[y + 3 : y + 49, x + 3 : x + 37] = rng.uniform(0.03, 0.1)
            front[y + 3 : y + 49, x + 19 : x + 21] = 0.6
            front[y + 52 : y + 56, x - 3 : x + 43] *= 0.7
    return np.asarray(front, np.float32).clip(0.02, 0.9)


def _add_houses(parts: dict[str, Any], rng: np.random.Generator) -> None:
    """Add houses on both sides of the street and at its end, as boxes with textured fronts."""
    places = [(-17, y) for y in (9, 22, 35, 48)] + [(17, y) for y in (10, 23, 36, 49)]
    for number, (x, y) in enumerate([*places, (-6, 58), (8, 60), (24, 55), (-24, 56)]):
        width, height = float(rng.uniform(9, 12)), float(rng.uniform(5, 11))
        to_world = (
            _Transform().translate([x, y, height / 2]).scale([width / 2, width / 2, height / 2])
        )
        front = _facade(rng, max(2, round(height / 3)), int(rng.integers(3, 6)))
        parts[f"house {number}"] = {"type": "cube", "to_world": to_world, "bsdf": _matt(front)}
        roof = _Transform().translate([x, y, height + 0.15]).scale([width / 1.9, width / 1.9, 0.15])
        parts[f"roof {number}"] = {
            "type": "cube",
            "to_world": roof,
            "bsdf": _matt((0.12, 0.08, 0.07)),
        }


def _add_cars(parts: dict[str, Any], rng: np.random.Generator) -> None:
    for number in range(int(rng.integers(1, 4))):
        x, y = -2.6 - 4.2 * float(rng.integers(2)), 6 + 7.0 * number + float(rng.uniform(0, 3))
        paint = {
            "type": "plastic",
            "diffuse_reflectance": {"type": "rgb", "value": rng.uniform(0.02, 0.5, 3).tolist()},
        }
        glass = {
            "type": "plastic",
            "diffuse_reflectance": {"type": "rgb", "value": [0.02, 0.025, 0.03]},
        }
        for name, z, size, surface in (
            ("body", 0.6, (0.88, 2.1, 0.32), paint),
            ("cabin", 1.15, (0.78, 1.1, 0.27), glass),
            ("top", 1.43, (0.74, 0.95, 0.03), paint),
        ):
            parts[f"car {number} {name}"] = {
                "type": "cube",
                "to_world": _Transform().translate([x, y, z]).scale(list(size)),
                "bsdf": surface,
            }
        for wheel in range(4):
            wx, wy = x + (0.8, -0.8)[wheel % 2], y + (1.3, -1.3)[wheel // 2]
            parts[f"car {number} wheel {wheel}"] = {
                "type": "cylinder",
                "p0": [wx - 0.12, wy, 0.32],
                "p1": [wx + 0.12, wy, 0.32],
                "radius": 0.32,
                "bsdf": _matt((0.03, 0.03, 0.03)),
            }


def _add_tree(
    parts: dict[str, Any], rng: np.random.Generator, name: str, x: float, y: float, height: float
) -> None:
    parts[f"{name} trunk"] = {
        "type": "cylinder",
        "p0": [x, y, 0],
        "p1": [x, y, 0.6 * height],
        "radius": 0.035 * height / 2,
        "bsdf": _matt((0.1, 0.07, 0.05)),
    }
    middle = np.array([x, y, 0.7 * height])
    # Clusters of leaves lie in a few clumps, not evenly in a ball.
    clumps = middle + rng.normal(0, 1, (9, 3)) * np.array([0.17, 0.17, 0.13]) * height
    for leaf in range(420):
        place = clumps[leaf % 9] + rng.normal(0, 0.065 * height, 3)
        parts[f"{name} leaf {leaf}"] = _leaf(rng, place, float(rng.uniform(0.05, 0.13)))


def _add_branch(parts: dict[str, Any], rng: np.random.Generator, sun: F64) -> None:
    """Add a twig between sun and sign, so that a part of the sign lies in shade."""
    middle = np.array([0, 0, SIGN_HEIGHT]) + sun * rng.uniform(1.6, 2.6)
    middle += rng.normal(0, 0.12, 3)
    for leaf in range(40):
        place = middle + rng.normal(0, 0.17, 3)
        parts[f"branch leaf {leaf}"] = _leaf(rng, place, float(rng.uniform(0.03, 0.07)))


def _leaf(rng: np.random.Generator, place: F64, radius: float) -> dict[str, Any]:
    axis = rng.normal(0, 1, 3)
    to_world = (
        _Transform()
        .translate(place.tolist())
        .rotate((axis / np.linalg.norm(axis)).tolist(), float(rng.uniform(0, 180)))
        .scale([radius, radius * 0.6, 1])
    )
    green = (
        np.array([0.07, 0.13, 0.03]) * np.exp(rng.normal(0, 0.3)) * np.exp(rng.normal(0, 0.1, 3))
    )
    return {"type": "disk", "to_world": to_world, "bsdf": _matt(tuple(green.tolist()))}
