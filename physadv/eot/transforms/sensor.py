"""Sensor: bands of a rolling shutter, photons and read-out, color filter array and demosaicing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from kornia.color import CFA, raw_to_rgb, rgb_to_raw
from torch import Tensor

from physadv.eot.crop_window import CropWindow
from physadv.eot.sampling import (
    DrawStream,
    broadcast_parameters,
    draw_bernoulli,
    draw_uniform,
    log_uniform,
)
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, SHARE, Range, Stage, StageRanges, span
from physadv.eot.warp import pixel_centers

Demosaic = Callable[[Tensor, int], Tensor]
"""(image, phase) -> the image through a filter array and back."""


@dataclass(frozen=True)
class SensorRanges(StageRanges):
    """Ranges of the sensor."""

    rolling_ev: Range = span(0, 0, within=FROM_ZERO, effects=("exposure",))
    """Depth of the bands that a flickering lamp leaves under a rolling shutter."""
    rolling_rows: Range = span(0, 0, within=FROM_ZERO)
    """Period of the bands as a share of the picture's height."""
    full_well_e: Range = span(0, 0, within=FROM_ZERO, effects=("noise",))
    """Electrons at white: shot noise of the raw picture, log-uniform; 0 switches raw noise off."""
    read_noise_e: Range = span(0, 0, within=FROM_ZERO, effects=("noise",))
    """Standard deviation of the read-out, in electrons."""
    bayer_probability: Range = span(0, 0, within=SHARE, effects=("sensor",))
    """Color filter array and demosaicing."""


@dataclass(frozen=True)
class SensorDraw:
    """Sensors of b cameras."""

    rolling_ev: Tensor  # (b,)
    rolling_px: Tensor  # (b,) period in rows
    rolling_phase: Tensor  # (b,) in periods
    full_well_e: Tensor | None  # (b,) electrons at white; None: no raw noise
    read_e: Tensor  # (b,) electrons
    bayer: Tensor  # (b,) 1: through a filter array
    normal: Tensor | None = None  # (b, 3, h, w)
    rows: Tensor | None = None  # (b or 1, h, 1) heights of a crop's pixels; None: the whole picture
    phase: int = 0  # 1: a crop begins on an odd row and column of the filter array


def rolling_bands(light: Tensor, ys: Tensor, draw: SensorDraw) -> Tensor:
    """Return light whose rows are darker by ``rolling_ev`` where they were exposed while the lamp
    was dim.

    The steps between bright and dim rows are soft over a tenth of the period.

    Args:
        light: (b, 3, h, w) linear light.
        ys: (b or 1, h, 1) heights of the rows in px.
        draw: The b sensors.
    """
    period, phase = (p.to(light)[:, None, None] for p in (draw.rolling_px, draw.rolling_phase))
    wave = torch.sin(2 * torch.pi * (ys / period + phase))
    dim = (wave * 1.6 + 0.5).clamp(0, 1)
    return light * torch.exp2(-draw.rolling_ev.to(light)[:, None, None] * dim)[:, None]


def expose_sensor(
    light: Tensor, normal: Tensor, draw: SensorDraw, demosaic: Demosaic | None = None
) -> Tensor:
    """Clip light at white, add the noise of photons and read-out, and demosaic (RGGB).

    Noise has the standard deviation sqrt(signal well + read^2) electrons; its strength carries no
    gradient.

    Args:
        light: (b, 3, h, w) linear light.
        normal: (b, 3, h, w) drawn standard normal numbers.
        draw: The b sensors.
        demosaic: Filter array and back; None: :func:`demosaic_bilinear`.

    Returns:
        (b, 3, h, w) linear light.
    """
    signal = light.clamp(0, 1)
    if draw.full_well_e is not None:
        well, read = (broadcast_parameters(p).to(light) for p in (draw.full_well_e, draw.read_e))
        signal = signal + (signal.detach() / well + (read / well) ** 2).sqrt() * normal

    if not bool(draw.bayer.any()):
        return signal
    through = (demosaic or demosaic_bilinear)(signal, draw.phase)

    return (
        through
        if bool(draw.bayer.all())
        else torch.where(broadcast_parameters(draw.bayer).to(light) > 0, through, signal)
    )


def demosaic_bilinear(image: Tensor, phase: int = 0) -> Tensor:
    """Return ``image`` with one color kept at each pixel and the others interpolated; RGGB.

    As kornia's raw_to_rgb but at the borders; sums of slices, far cheaper on a CPU than its
    convolutions. ``image`` is (b, 3, h, w); with ``phase`` 1 it begins on an odd row and column.
    """
    height, width = image.shape[-2:]
    rows, columns = ((torch.arange(-1, n + 1) + phase) % 2 for n in (height, width))
    site = (2 * rows[:, None] + columns).to(image.device)
    mosaic = F.pad(image, (1, 1, 1, 1), mode="reflect")
    red, green, blue = (
        (mosaic[:, i] * keep)
        for i, keep in enumerate((site == 0, (site == 1) | (site == 2), site == 3))
    )
    return torch.stack([_tent(red), _cross(green), _tent(blue)], 1)


def demosaic_with_kornia(image: Tensor, phase: int = 0) -> Tensor:
    """Return what :func:`demosaic_bilinear` does of ``image`` and ``phase``, but at the borders."""
    height, width = image.shape[-2:]
    even = F.pad(image, (0, width % 2, 0, height % 2), mode="replicate")
    # kornia names an array by its second row, as OpenCV does: BG is RGGB.
    array = CFA.RG if phase % 2 else CFA.BG
    through: Tensor = raw_to_rgb(rgb_to_raw(even, array), array)
    return through[..., :height, :width]


def _tent(plane: Tensor) -> Tensor:
    """Interpolate every other sample of every other row bilinearly, without the outermost px."""
    down = plane[:, 1:-1] + (plane[:, :-2] + plane[:, 2:]) / 2
    return down[..., 1:-1] + (down[..., :-2] + down[..., 2:]) / 2


def _cross(plane: Tensor) -> Tensor:
    """Fill a chequerboard of samples with the mean of the four neighbors, without the outermost
    px."""
    beside = plane[:, 1:-1, :-2] + plane[:, 1:-1, 2:] + plane[:, :-2, 1:-1] + plane[:, 2:, 1:-1]
    return plane[:, 1:-1, 1:-1] + beside / 4


class RawSensor(Stage[SensorRanges, SensorDraw]):
    """Rolling bands, photons and read-out, filter array and demosaicing, in linear light."""

    encoding = "linear"
    windowed = True
    backends = ("own", "kornia")

    def sample(
        self, batch: SceneBatch, ranges: SensorRanges, stream: DrawStream
    ) -> SensorDraw | None:
        """Draw the sensors of ``batch`` within ``ranges`` from the ``stream`` "sensor"."""
        if not ranges.acts("rolling_ev", "full_well_e", "bayer_probability"):
            return None

        g, (count, _, height, _) = stream.named("sensor"), batch.images.shape
        return SensorDraw(
            rolling_ev=draw_uniform(g, ranges.rolling_ev, count),
            rolling_px=(draw_uniform(g, ranges.rolling_rows, count) * height).clamp(min=2.0),
            rolling_phase=draw_uniform(g, (0.0, 1.0), count),
            full_well_e=log_uniform(g, ranges.full_well_e, count)
            if ranges.acts("full_well_e")
            else None,
            read_e=draw_uniform(g, ranges.read_noise_e, count),
            bayer=draw_bernoulli(g, ranges.bayer_probability, count),
            normal=stream.normal,
        )

    def apply(self, images: Tensor, params: SensorDraw) -> Tensor:
        """Return linear ``images`` as the sensor of ``params`` reads them out, clipped at white."""
        height, width = images.shape[-2:]
        rows = params.rows
        ys = pixel_centers((height, width), images)[1] if rows is None else rows.to(images)
        normal = torch.zeros_like(images) if params.normal is None else params.normal.to(images)
        demosaic = demosaic_bilinear if self.backend == "own" else demosaic_with_kornia
        return expose_sensor(rolling_bands(images, ys, params), normal, params, demosaic)

    def crop(self, params: SensorDraw, window: CropWindow, margin: int) -> SensorDraw:
        """Return ``params`` of the ``window`` with ``margin`` px round it."""
        normal = None if params.normal is None else window.take(params.normal, margin)
        rows = window.rows(margin, params.rolling_ev)
        return replace(params, normal=normal, rows=rows, phase=margin % 2)

    def reach(self, params: SensorDraw, picture: tuple[int, int]) -> int:
        """Return the 2 px that a window needs, whatever ``params`` and ``picture`` are."""
        return 2
