"""Measured profiles as JSON files: a printer and camera's colors, and a camera's lens."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from physadv.core.errors import CalibrationError, GeometryError
from physadv.core.files import write_json
from physadv.core.findings import Finding
from physadv.core.tables import convert_value, read_table
from physadv.eot.color_map import DEGREES, ColorMap, make_map
from physadv.eot.ranges import EotRanges
from physadv.eot.transforms.lens_distortion import (
    CAMERA,
    TERMS,
    BrownLens,
    check_lens,
    in_half_widths,
)

F64 = npt.NDArray[np.float64]
COLOR_KIND, CAMERA_KIND = "physadv color profile 1", "physadv camera profile 1"
_EARLIER_SPELLING = "physadv colour profile 1"
"""The kind of color profile as earlier versions wrote it."""
PIXELS = "origin at the outer corner of the top-left pixel"
MAX_COEFFICIENTS = 5
LARGE_ERROR = 5.0
"""Mean color difference (CIEDE2000) above which print or photo are probably faulty."""
AnyTable = TypeVar("AnyTable", "_CameraTable", "_ColorTable")


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

    @property
    def findings(self) -> list[Finding]:
        """Reasons not to rely on it: those found when it was fitted, and a large error on the chart
        that it was checked on, which another printer, paper or light than its own gives."""
        recorded = self.about.get("doubts", [])
        findings = [
            Finding(f"profile-{doubt['name']}", doubt["finding"], doubt["remedy"])
            for doubt in (recorded if isinstance(recorded, list) else [])
            if isinstance(doubt, dict)
            and all(isinstance(doubt.get(k), str) for k in ("name", "finding", "remedy"))
        ]

        held_out = self.about.get("held_out")
        mean = held_out.get("mean") if isinstance(held_out, dict) else None
        if isinstance(mean, int | float) and mean > LARGE_ERROR:
            findings.append(
                Finding(
                    "profile-of-another-print",
                    f"on the chart that it was checked on, the color profile is off by dE00 "
                    f"{mean:.1f} on average, over {LARGE_ERROR:g}: that chart was printed or "
                    "photographed otherwise",
                    "Fit it to a photo of your own printer, paper and camera",
                )
            )
        return findings

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

    def narrow_ranges(
        self, ranges: EotRanges, *, sign_width_mm: float, whole_frame: bool
    ) -> EotRanges:
        """Return EOT ranges with this camera's angle of view, picture width and lens distortion.

        Ranges that state the sign's size instead of its distance are turned into the distances at
        which this camera shows it in that size.

        Args:
            ranges: What is drawn otherwise.
            sign_width_mm: Width of the sign.
            whole_frame: Whether the model receives the camera's whole frame, else a crop of the
                sign.

        Returns:
            The ranges; all five coefficients and the principal point are in them.

        Raises:
            CalibrationError: The lens folds inside the picture.
        """
        self.check_invertible(self.camera or "camera")

        distance = ranges.distance_m
        if not ranges.acts("distance_m"):
            height = 9 / 16 * self.width
            smallest, largest = ranges.size_px
            if whole_frame:
                smallest, largest = (share * height for share in ranges.frame_share)
            near, far = (self.fx * sign_width_mm / 1000 / px for px in (largest, smallest))
            distance = (near, far)

        half_width = self.width / 2 / self.fx  # in focal lengths
        angle, width = 2 * math.degrees(math.atan(half_width)), float(self.width)
        lens = self.brown_lens
        terms = dict(zip(TERMS, lens.terms[0].tolist(), strict=True))
        if any(terms.values()) and lens.center is not None and lens.aspect is not None:
            shape = (*lens.center[0].tolist(), float(lens.aspect))
            terms |= dict(zip(CAMERA, shape, strict=True))

        return replace(
            ranges,
            distance_m=distance,
            field_of_view_deg=(angle, angle),
            sensor_px=(width, width),
            **{name: (value, value) for name, value in terms.items()},
        )

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


_Rows = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class _ColorTable:
    """The keys of a color profile's file; others are facts about its making."""

    kind: str
    map: str
    coefficients: _Rows
    covariance: _Rows
    sent: _Rows
    seen: _Rows
    de00: dict[str, Any]
    maps: dict[str, dict[str, Any]]
    n_patches: int
    created: str
    printer: str = ""
    paper: str = ""
    camera: str = ""


def read_color_profile(path: str | Path) -> ColorProfile:
    """Read what `calibrate fit` wrote to ``path``.

    Raises:
        CalibrationError: Another file, a damaged or an impossible one.
    """
    measured, about = _read_file(path, _ColorTable, COLOR_KIND, made_by="physadv calibrate fit")
    if measured.map not in DEGREES:
        raise _damaged(path, f"map {measured.map!r} is none of {', '.join(DEGREES)}")

    arrays = {}
    for name in ("coefficients", "covariance", "sent", "seen"):
        try:
            arrays[name] = np.asarray(getattr(measured, name), np.float64)
        except ValueError as error:
            raise _damaged(path, f"the rows of {name} differ in length") from error
    sent = arrays["sent"]
    # Monomials of r, g and b up to the map's degree.
    terms = math.comb(DEGREES[measured.map] + 3, 3)
    shapes = {
        "coefficients": (terms, 3),
        "covariance": (3, 3),
        "seen": sent.shape,
    }
    wrong = [name for name, shape in shapes.items() if arrays[name].shape != shape]
    if wrong or sent.ndim != 2 or sent.shape[1:] != (3,) or len(sent) < 8:
        raise _damaged(
            path,
            f"{', '.join(wrong) or 'sent'} has another shape than the map {measured.map!r} needs",
        )
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise _damaged(path, "it holds numbers that are not finite")

    plain = {f.name: getattr(measured, f.name) for f in fields(measured) if f.name != "kind"}
    return ColorProfile(**{**plain, **arrays, "about": about})


@dataclass(frozen=True)
class _CameraTable:
    """The keys of a camera profile's file; others are facts about its making."""

    kind: str
    matrix: tuple[tuple[float, float, float], ...]
    image_size: tuple[int, int]
    distortion: tuple[float, ...]
    rms_px: float
    n_views: int
    created: str
    camera: str = ""
    pixels: str = ""


def read_camera_profile(path: str | Path) -> CameraProfile:
    """Read what `calibrate camera` wrote to ``path``.

    Raises:
        CalibrationError: Another file, a damaged or an impossible one, or a lens that folds inside
            its picture.
    """
    measured, about = _read_file(
        path, _CameraTable, CAMERA_KIND, made_by="physadv calibrate camera"
    )
    if len(measured.matrix) != 3:
        raise _damaged(path, f"its matrix has {len(measured.matrix)} rows, and 3 are needed")

    (fx, _, cx), (_, fy, cy), _ = measured.matrix
    lens, (width, height) = measured.distortion, measured.image_size
    finite = np.isfinite(measured.matrix).all() and np.isfinite(lens).all()
    if not finite or min(fx, fy) <= 0 or min(width, height) < 1:
        raise _damaged(path, "focal lengths and sizes must be over 0")
    if len(lens) > MAX_COEFFICIENTS:
        raise _damaged(
            path,
            f"it has {len(lens)} distortion coefficients, and at most {MAX_COEFFICIENTS} are used: "
            "k1, k2, p1, p2, k3",
        )

    profile = CameraProfile(
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        distortion=lens,
        width=width,
        height=height,
        rms_px=measured.rms_px,
        n_views=measured.n_views,
        created=measured.created,
        camera=measured.camera,
        about=about,
    )
    profile.check_invertible(str(path))
    return profile


def _read_file(
    path: str | Path, layout: type[AnyTable], kind: str, *, made_by: str
) -> tuple[AnyTable, dict[str, Any]]:
    """The values measured, their types checked, and the other facts in a profile's file.

    The file must be of the ``kind`` that the command ``made_by`` writes.
    """
    remedy = f"make a profile with `{made_by}`"
    table = read_table(path, error=CalibrationError, remedy=remedy, missing=remedy, form="json")
    if table.get("kind") == _EARLIER_SPELLING:
        table["kind"] = COLOR_KIND
    if table.get("kind") != kind:
        raise CalibrationError(
            f"'{path}' is of kind {table.get('kind')!r}",
            f"Its kind must be {kind!r}",
            f"Give a profile made by `{made_by}`",
        )

    known = {f.name for f in fields(layout)}
    measured: AnyTable = convert_value(
        {key: value for key, value in table.items() if key in known},
        layout,
        name=str(path),
        error=CalibrationError,
        remedy="calibrate again",
    )
    return measured, {key: value for key, value in table.items() if key not in known}


def _damaged(path: str | Path, limit: str) -> CalibrationError:
    return CalibrationError(f"{path}", limit, "calibrate again")
