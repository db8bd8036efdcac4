"""Measured profiles as JSON files: a printer and camera's colors, and a camera's lens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from physadv.core.errors import CalibrationError, GeometryError
from physadv.core.files import write_json
from physadv.eot.color_map import DEGREES, ColorMap, make_map, map_exponents
from physadv.eot.transforms.lens_distortion import BrownLens, check_lens, in_half_widths

F64 = npt.NDArray[np.float64]
COLOR_KIND, CAMERA_KIND = "physadv color profile 1", "physadv camera profile 1"
PIXELS = "origin at the outer corner of the top-left pixel"
MAX_COEFFICIENTS = 5
Table = Mapping[str, Any]


@dataclass(frozen=True)
class ColorProfile:
    """Colors that one camera shows of one printer on one paper.

    All are sRGB-encoded, bare paper being 1.

    Args:
        map: Name of the fitted map.
        coefficients: (k, 3) of its terms and channels.
        sent: (n, 3) colors sent to the printer.
        seen: (n, 3) colors seen of them.
        covariance: (3, 3) of the leave-one-out residuals.
        de00: Leave-one-out color differences, mean and p95.
        maps: The same of every map that was tried.
        n_patches: Number of chart patches.
        created: Time of the fit.
        printer: Its name.
        paper: Its name.
        camera: Its name.
        about: Whatever else is known.
    """

    map: str
    coefficients: F64
    sent: F64
    seen: F64
    covariance: F64
    de00: dict[str, float]
    maps: dict[str, dict[str, float]]
    n_patches: int
    created: str
    printer: str = ""
    paper: str = ""
    camera: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    def color_map(self) -> ColorMap:
        """Return the differentiable map, for training."""
        return make_map(self.map, self.coefficients, self.sent, self.seen, self.covariance)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        lists = {
            k: v.round(7).tolist() if isinstance(v, np.ndarray) else v for k, v in plain.items()
        }
        about = lists.pop("about")
        measured = {k: lists.pop(k) for k in ("coefficients", "covariance", "sent", "seen")}
        return {"kind": COLOR_KIND, **lists, **about, **measured}


@dataclass(frozen=True)
class CameraProfile:
    """A camera's lens.

    Args:
        fx: Horizontal focal length in px.
        fy: Vertical focal length in px.
        cx: Principal point in px from the outer corner of the top-left pixel, to the right.
        cy: The same, down.
        distortion: k1, k2, p1, p2, k3 of Brown (1966), in OpenCV's order.
        width: Width of its pictures in px.
        height: Height of its pictures in px.
        rms_px: Reprojection error.
        n_views: Number of board views.
        created: Time of the calibration.
        camera: Its name.
        about: Whatever else is known.

    Example:
        >>> camera = CameraProfile(900, 900, 640, 360, (-0.2, 0.05), 1280, 720, 0.2, 12, "today")
        >>> camera.check_invertible("camera.json")
        >>> camera.brown_lens.terms.shape
        torch.Size([1, 5])
    """

    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...]
    width: int
    height: int
    rms_px: float
    n_views: int
    created: str
    camera: str = ""
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def brown_lens(self) -> BrownLens:
        """Return the distortion as EOT applies it, for pictures of this camera's shape."""
        half = self.width / 2
        center = [[(self.cx - half) / half, (self.cy - self.height / 2) / half]]
        terms = in_half_widths(self.distortion, half / self.fx)
        return BrownLens(
            torch.tensor([terms], dtype=torch.float64),
            center=torch.tensor(center, dtype=torch.float64),
            aspect=torch.tensor([self.fy / self.fx], dtype=torch.float64),
        )

    def check_invertible(self, name: str) -> None:
        """Raise CalibrationError, calling the profile ``name``, for a lens without an inverse.

        All five coefficients and the principal point decide, over the whole picture.
        """
        try:
            check_lens(self.brown_lens, (self.height, self.width))
        except GeometryError as error:
            raise CalibrationError(
                f"Camera profile '{name}' has distortion {tuple(self.distortion)}, which folds "
                f"inside its {self.width}x{self.height} picture",
                "A lens must be invertible up to the corners",
                "Calibrate again with board views that reach all corners",
            ) from error

    @property
    def matrix(self) -> F64:
        """Return the (3, 3) camera matrix, pixels as above."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    @property
    def opencv_matrix(self) -> F64:
        """Return the same for OpenCV, which counts from the center of the first pixel."""
        return np.asarray(self.matrix - np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]), np.float64)

    def as_dict(self) -> dict[str, Any]:
        """Return the content of the JSON file."""
        plain = asdict(self)
        about = plain.pop("about")
        table = {
            "kind": CAMERA_KIND,
            "matrix": self.matrix.tolist(),
            "image_size": [self.width, self.height],
        }
        for name in ("fx", "fy", "cx", "cy", "width", "height"):
            plain.pop(name)
        return {**table, **plain, "distortion": list(self.distortion), "pixels": PIXELS, **about}


def write_profile(path: str | Path, profile: ColorProfile | CameraProfile) -> Path:
    """Write ``profile`` to ``path`` as JSON, atomically, and return the path."""
    return write_json(path, profile.as_dict())


def read_color_profile(path: str | Path) -> ColorProfile:
    """Read what `calibrate fit` wrote to ``path``.

    Raises:
        CalibrationError: Another file, a damaged or an impossible one.
    """
    table = _table(path, COLOR_KIND, "physadv calibrate fit")

    known = {f.name for f in fields(ColorProfile)} - {"about"}
    try:
        name = str(table["map"])
        arrays = {
            k: np.asarray(table[k], np.float64)
            for k in ("coefficients", "covariance", "sent", "seen")
        }
        plain = {k: v for k, v in table.items() if k in known and k not in arrays}
        about = {k: v for k, v in table.items() if k not in known and k != "kind"}
        profile = ColorProfile(**{**plain, **arrays, "about": about})
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"a field is missing or misshapen ({error})") from error

    if name not in DEGREES:
        raise _damaged(path, f"map {name!r} is none of {', '.join(DEGREES)}")
    shapes = {
        "coefficients": (len(map_exponents(name)), 3),
        "covariance": (3, 3),
        "seen": profile.sent.shape,
    }
    wrong = [k for k, shape in shapes.items() if arrays[k].shape != shape]
    if wrong or profile.sent.ndim != 2 or profile.sent.shape[1:] != (3,) or len(profile.sent) < 8:
        raise _damaged(
            path, f"{', '.join(wrong) or 'sent'} has another shape than the map {name!r} needs"
        )

    if not all(np.isfinite(v).all() for v in arrays.values()):
        raise _damaged(path, "it holds numbers that are not finite")
    return profile


def read_camera_profile(path: str | Path) -> CameraProfile:
    """Read what `calibrate camera` wrote to ``path``.

    Raises:
        CalibrationError: Another file, a damaged or an impossible one, or a lens that folds inside
            its picture.
    """
    table = _table(path, CAMERA_KIND, "physadv calibrate camera")
    try:
        matrix = np.asarray(table["matrix"], np.float64).reshape(3, 3)
        width, height = (int(v) for v in table["image_size"])
        lens = tuple(float(v) for v in table["distortion"])
        known = {
            "kind",
            "matrix",
            "image_size",
            "distortion",
            "rms_px",
            "n_views",
            "created",
            "camera",
            "pixels",
        }
        profile = CameraProfile(
            matrix[0, 0],
            matrix[1, 1],
            matrix[0, 2],
            matrix[1, 2],
            lens,
            width,
            height,
            float(table["rms_px"]),
            int(table["n_views"]),
            str(table["created"]),
            str(table.get("camera", "")),
            {k: v for k, v in table.items() if k not in known},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, f"a field is missing or misshapen ({error})") from error

    finite = np.isfinite(matrix).all() and np.isfinite(lens).all()
    if not finite or min(profile.fx, profile.fy) <= 0 or min(width, height) < 1:
        raise _damaged(path, "focal lengths and sizes must be over 0")
    if len(lens) > MAX_COEFFICIENTS:
        raise _damaged(
            path,
            f"it has {len(lens)} distortion coefficients, and at most {MAX_COEFFICIENTS} are used: "
            "k1, k2, p1, p2, k3",
        )
    profile.check_invertible(str(path))
    return profile


def _table(path: str | Path, kind: str, command: str) -> Table:
    file = Path(path)
    if not file.is_file():
        raise CalibrationError(
            f"'{file}' does not exist",
            "A profile is a JSON file",
            f"Make one with `{command}`",
        )
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise CalibrationError(
            f"'{file}' is not readable JSON",
            "A profile is a JSON file",
            f"Make one with `{command}`",
        ) from error

    stated = table.get("kind") if isinstance(table, dict) else None
    if stated != kind:
        raise CalibrationError(
            f"'{file}' is of kind {stated!r}",
            f"Its kind must be {kind!r}",
            f"Give a profile made by `{command}`",
        )
    return dict(table)


def _damaged(path: str | Path, limit: str) -> CalibrationError:
    return CalibrationError(f"{path}", limit, "calibrate again")
