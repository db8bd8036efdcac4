"""Presses and cameras that share no code and no figures with the twin, to test calibration.

Presses are Neugebauer models (Yule-Nielsen n = 1.7, Demichel weights) on the published XYZ of the
sixteen solid overprints of two offset conditions, with black ink and gray component replacement, or
tables looked up in ICC profiles. Cameras have published XYZ-to-sensor matrices (Adobe's, as in
LibRaw), a Bayer mosaic, noise, and tone curves of four families.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pypdfium2

from physadv.core.color import linear_to_srgb, srgb_to_linear

F64 = npt.NDArray[np.float64]
DPI = 150
WHITE_XYZ = np.array([0.9642, 1.0, 0.8249])
"""D50, the illuminant of all XYZ here."""
_XYZ_TO_SRGB = np.array(
    [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
)
"""From XYZ under D50 to linear sRGB (Bradford; Lindbloom)."""

# XYZ of the solids, index 8k + 4c + 2m + y, from the characterization data FOGRA39L (coated
# paper) and FOGRA29L (uncoated paper).
_COATED = [
    [84.48, 87.62, 74.57],
    [69.17, 74.16, 7.04],
    [33.03, 16.79, 15.01],
    [30.2, 16.02, 2.3],
    [15.02, 22.93, 52.85],
    [8.16, 18.42, 6.74],
    [5.67, 4.1, 15.67],
    [3.66, 3.8, 3.13],
    [2.02, 2.1, 1.73],
    [1.84, 2.04, 0.82],
    [1.61, 1.18, 0.89],
    [1.56, 1.31, 0.65],
    [0.91, 1.18, 1.79],
    [0.89, 1.31, 0.85],
    [0.99, 0.87, 1.08],
    [0.93, 0.97, 0.69],
]
_UNCOATED = [
    [86.44, 89.31, 76.37],
    [70.42, 73.84, 10.82],
    [37.72, 22.97, 20.87],
    [33.23, 20.57, 7.02],
    [20.16, 27.07, 52.63],
    [12.25, 20.36, 10.06],
    [11.08, 10.39, 20.74],
    [7.86, 8.52, 7.14],
    [6.99, 7.03, 5.38],
    [5.94, 6.29, 4.43],
    [6.28, 5.94, 4.32],
    [5.52, 5.55, 3.89],
    [5.31, 5.49, 5.14],
    [4.78, 5.23, 4.12],
    [4.99, 4.87, 4.06],
    [4.65, 4.81, 3.62],
]


@dataclass(frozen=True)
class ForeignPress:
    """A printer as a function from sRGB colors (n, 3) uint8 to XYZ (n, 3) under D50."""

    name: str
    to_xyz: Callable[[npt.NDArray[np.uint8]], F64]


def neugebauer_press(
    name: str, solids: Sequence[Sequence[float]], *, gain: float, black: float, tone: float
) -> ForeignPress:
    """A press of four inks: dot ``gain`` at 50 %, share of gray replaced by ``black``, and the
    driver's ``tone`` exponent."""
    roots = (np.array(solids) / 100) ** (1 / 1.7)

    def to_xyz(colors: npt.NDArray[np.uint8]) -> F64:
        ink = (1 - colors / 255) ** tone
        key = black * ink.min(1, keepdims=True) ** 2.5
        cover = np.concatenate([key, ink - 0.6 * key], 1).clip(0, 1)
        cover = (cover + 4 * gain * cover * (1 - cover)).clip(0, 1)
        weights = np.ones((len(colors), 1))
        for column in range(4):
            part = cover[:, column, None]
            weights = np.concatenate([weights * (1 - part), weights * part], 1)
        # Concatenation makes black the fastest index; the table has it slowest.
        order = [int(f"{i:04b}"[::-1], 2) for i in range(16)]
        return np.asarray((weights[:, order] @ roots) ** 1.7)

    return ForeignPress(name, to_xyz)


COATED = neugebauer_press("coated offset", _COATED, gain=0.13, black=0.9, tone=1.0)
UNCOATED = neugebauer_press("uncoated offset", _UNCOATED, gain=0.18, black=0.5, tone=1.25)


def icc_press(profile: Path, intent: str, xicclu: str = "xicclu") -> ForeignPress:
    """A press by its CMYK profile, looked up with Argyll's ``xicclu``.

    ``intent`` is that of the driver from sRGB, "p" or "r"; "n" sends plain complements as ink
    instead, with no color management.
    """

    def look_up(rows: F64, *options: str) -> F64:
        text = "\n".join(" ".join(f"{v:.5f}" for v in row) for row in rows)
        done = subprocess.run(
            [xicclu, "-v0", *options, str(profile)],
            input=text + "\n",
            capture_output=True,
            text=True,
            check=True,
        )
        return np.array(
            [[float(v) for v in line.split()] for line in done.stdout.splitlines() if line.strip()]
        )

    def to_xyz(colors: npt.NDArray[np.uint8]) -> F64:
        if intent == "n":
            ink = 1 - colors / 255
            key = 0.8 * ink.min(1, keepdims=True) ** 3
            cmyk = np.concatenate([(ink - 0.5 * key).clip(0, 1), key], 1)
        else:
            wanted = srgb_to_linear(colors / 255) @ np.linalg.inv(_XYZ_TO_SRGB).T
            cmyk = look_up(wanted, "-fb", f"-i{intent}", "-px")
        return look_up(cmyk.round(4), "-ff", "-ia", "-px")

    return ForeignPress(f"{profile.stem} {intent}", to_xyz)


@dataclass(frozen=True)
class ForeignCamera:
    """One camera.

    Attributes:
        name: Name of the camera.
        sensor: XYZ (D65 convention of Adobe) to sensor channels, times 10000.
        curve: Tone curve: "srgb", "bt709", "filmic" or "film".
        look: Shares in which channels are mixed after the color matrix: saturation, and a turn of
            hues in degrees.
        electrons: Electrons of a full well.
        read_noise: Standard deviation of the read noise in electrons.
        sharpen: Strength of the unsharp mask.
        jpeg: Quality of the compression.
    """

    name: str
    sensor: tuple[int, ...]
    curve: str
    look: tuple[float, float]
    electrons: float
    read_noise: float
    sharpen: float
    jpeg: int


CAMERAS = (
    ForeignCamera(
        "full-frame",
        (4716, 603, -830, -7798, 15474, 2480, -1496, 1937, 6651),
        "srgb",
        (1.0, 0.0),
        40000,
        6,
        0.2,
        95,
    ),
    ForeignCamera(
        "telephone",
        (5603, -1351, -600, -2872, 11180, 2132, 600, 453, 5821),
        "filmic",
        (1.12, 2.0),
        6000,
        4,
        0.5,
        90,
    ),
    ForeignCamera(
        "action",
        (10344, -4210, -620, -2315, 10625, 1948, 93, 1058, 5541),
        "film",
        (1.25, -3.0),
        5000,
        5,
        0.6,
        85,
    ),
    ForeignCamera(
        "web",
        (12782, -4059, -379, -478, 9066, 1413, 1340, 1513, 5176),
        "bt709",
        (0.9, 4.0),
        2500,
        7,
        0.3,
        78,
    ),
)


def _tone(linear: F64, curve: str) -> F64:
    """Encode linear light by one of four families of curves, 0 to 0 and 1 to 1."""
    x = np.clip(linear, 0, 1)
    if curve == "srgb":
        return linear_to_srgb(x)
    if curve == "bt709":
        return np.where(x < 0.018, 4.5 * x, 1.099 * np.maximum(x, 0.018) ** 0.45 - 0.099)
    if curve == "filmic":  # Reinhard's extended curve: highlights are compressed
        return linear_to_srgb(1.6 * x * (1 + 1.6 * x / 6.25) / (1 + 1.6 * x) / (1.6 * 1.256 / 2.6))
    # Film's characteristic curve: logistic in the logarithm of the exposure.
    log = 1 / (1 + (0.2 / np.maximum(x, 1e-9)) ** 1.1)
    return np.asarray(log * (1 + 0.2**1.1))


def _look(saturation: float, turn_deg: float) -> F64:
    """Return the matrix of a saturation and a turn of hues, which keeps grays."""
    gray = np.full((3, 3), 1 / 3)
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg)) / np.sqrt(3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]])
    return np.asarray(gray + saturation * (cos * (np.eye(3) - gray) + sin * cross))


def _matrices(camera: ForeignCamera) -> tuple[F64, F64]:
    """Return XYZ to sensor channels, white at 1, and sensor channels to linear sRGB."""
    sensor = np.array(camera.sensor, np.float64).reshape(3, 3)
    sensor /= (sensor @ WHITE_XYZ)[:, None]
    return sensor, _look(*camera.look) @ _XYZ_TO_SRGB @ np.linalg.inv(sensor)


def shown(
    xyz: F64, camera: ForeignCamera, exposure: float, balance: Sequence[float] = (1, 1, 1)
) -> F64:
    """What the camera shows, encoded (n, 3), of large, evenly lit areas, without noise."""
    sensor, out = _matrices(camera)
    raw = np.minimum(exposure * xyz @ sensor.T, 1) * np.array(balance)
    return _tone(raw @ out.T, camera.curve)


USUAL_EXPOSURE = 0.75


def relative_truth(
    colors: npt.NDArray[np.uint8],
    press: ForeignPress,
    camera: ForeignCamera,
    exposure: float = USUAL_EXPOSURE,
    balance: Sequence[float] = (1, 1, 1),
) -> F64:
    """The colors (n, 3) relative to bare paper, as a profile holds them."""
    paper = np.full((1, 3), 255, np.uint8)
    light = [
        srgb_to_linear(shown(press.to_xyz(c), camera, exposure, balance)) for c in (colors, paper)
    ]
    return linear_to_srgb(light[0] / light[1])


def printed_page(pdf: Path, press: ForeignPress) -> npt.NDArray[np.float32]:
    """The first page of a PDF on paper, as XYZ (h, w, 3)."""
    with pypdfium2.PdfDocument(str(pdf)) as document:
        rgb = np.asarray(document[0].render(scale=DPI / 72).to_pil().convert("RGB"))
    colors, index = np.unique(rgb.reshape(-1, 3), axis=0, return_inverse=True)
    return np.asarray(press.to_xyz(colors)[index.ravel()].reshape(rgb.shape), np.float32)


def photograph(
    page: npt.NDArray[np.float32],
    camera: ForeignCamera,
    *,
    exposure: float = 0.75,
    turn_deg: tuple[float, float, float] = (12.0, -8.0, 3.0),
    size: tuple[int, int] = (1280, 960),
    fill: float = 0.86,
    falloff: float = 0.15,
    shade: float = 0.0,
    glare: float = 0.0,
    balance: tuple[float, float, float] = (1.0, 1.0, 1.0),
    blur_px: float = 0.7,
    jpeg: int | None = None,
    ceiling: int = 255,
    seed: int = 0,
) -> npt.NDArray[np.uint8]:
    """One photo (h, w, 3) uint8 of the page on a gray desk.

    Args:
        page: XYZ of the page.
        camera: Camera.
        exposure: Exposure, at which a perfect diffuser reaches that share of the full well.
        turn_deg: Yaw, pitch and roll of the page in degrees.
        size: Width and height of the picture.
        fill: Share of the picture's height that the page's length takes, its roll being 90
            degrees more.
        falloff: Share by which the light falls off from the middle to either side.
        shade: Share of the light that a shadow takes from half of the page, with a soft edge.
        glare: Light that a reflection adds to a spot, as a share of white.
        balance: Errors of the white balance gains.
        blur_px: Standard deviation of the blur in px.
        jpeg: Quality of the compression; None for the camera's own.
        ceiling: Level at which the camera's tone curve ends.
        seed: Seed of the noise.
    """
    wide, high = size
    yaw, pitch, roll = np.radians([turn_deg[0], turn_deg[1], turn_deg[2] + 90])
    turn = cv2.Rodrigues(np.array([0, yaw, 0.0]))[0] @ cv2.Rodrigues(np.array([pitch, 0, 0.0]))[0]
    turn = turn @ cv2.Rodrigues(np.array([0, 0, roll]))[0]
    focal = 1.1 * wide
    rows, columns = page.shape[:2]
    distance = focal * rows / (fill * wide)
    center = np.array([[1, 0, -columns / 2], [0, 1, -rows / 2], [0, 0, 1.0]])
    plane = np.column_stack([turn[:, :2], np.array([0, 0, distance])])
    lens = np.array([[focal, 0, wide / 2], [0, focal, high / 2], [0, 0, 1.0]])

    fine = np.diag([2.0, 2.0, 1.0])
    scene = cv2.warpPerspective(
        page,
        fine @ lens @ plane @ center,
        (2 * wide, 2 * high),
        flags=cv2.INTER_LINEAR,
        borderValue=tuple(0.28 * WHITE_XYZ),
    )
    scene = cv2.resize(scene, size, interpolation=cv2.INTER_AREA)

    x, y = np.meshgrid(np.linspace(-1, 1, wide), np.linspace(-1, 1, high))
    light = 1 / (1 + falloff * ((x - 0.3) ** 2 + (y + 0.2) ** 2))
    light *= 1 - shade / (1 + np.exp(-(x + 0.4 * y - 0.15) / 0.01))
    scene = scene * light[..., None].astype(np.float32)
    spot = glare * np.exp(-(((x - 0.2) / 0.22) ** 2 + ((y - 0.15) / 0.22) ** 2))
    scene += (spot[..., None] * WHITE_XYZ).astype(np.float32)
    scene = cv2.GaussianBlur(scene, (0, 0), blur_px)
    quality = camera.jpeg if jpeg is None else jpeg
    return _develop(scene, camera, exposure, balance, quality, ceiling, seed)


def _develop(
    scene: npt.NDArray[np.float32],
    camera: ForeignCamera,
    exposure: float,
    balance: Sequence[float],
    quality: int,
    ceiling: int,
    seed: int,
) -> npt.NDArray[np.uint8]:
    """Sensor, mosaic, white balance, color matrix, tone curve, sharpening and JPEG."""
    sensor, out = _matrices(camera)
    full = exposure * scene @ sensor.T.astype(np.float32)
    raw = np.empty(full.shape[:2])
    for row, column, channel in ((0, 0, 0), (0, 1, 1), (1, 0, 1), (1, 1, 2)):
        raw[row::2, column::2] = full[row::2, column::2, channel]
    rng = np.random.default_rng(seed)
    noise = np.sqrt(raw.clip(0) / camera.electrons + (camera.read_noise / camera.electrons) ** 2)
    levels = ((raw + noise * rng.standard_normal(raw.shape)).clip(-0.02, 1) * 60000 + 2000).astype(
        np.uint16
    )
    color = (cv2.demosaicing(levels, cv2.COLOR_BayerRGGB2RGB).astype(np.float64) - 2000) / 60000

    picture = 255 * _tone((color * np.array(balance)) @ out.T, camera.curve)
    soft = cv2.GaussianBlur(picture, (0, 0), 1.0)
    picture = (picture + camera.sharpen * (picture - soft)).clip(0, 255)
    eight = np.asarray((picture * ceiling / 255).round(), np.uint8)
    _, data = cv2.imencode(".jpg", eight[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(data, 1)[..., ::-1])
