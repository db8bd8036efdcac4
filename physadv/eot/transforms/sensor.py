"""The sensor: bands of a rolling shutter, photons and read-out, the color filter array and its
demosaicing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.eot.ranges import EotRanges
from physadv.eot.sampling import broadcast_parameters, draw_uniform, happens, log_uniform

RING = 4
"""Pixels round a window that demosaicing and sharpening look at; even, so that the filter array
keeps its phase."""


@dataclass(frozen=True)
class Sensor:
    """What b sensors do to the light."""

    rolling_ev: Tensor  # (b,)
    rolling_px: Tensor  # (b,) period in rows
    rolling_phase: Tensor  # (b,) in periods
    full_well_e: Tensor | None  # (b,) electrons at white; None: no raw noise
    read_e: Tensor  # (b,) electrons
    bayer: Tensor  # (b,) 1: through a filter array


def sample_sensor(
    count: int, height: int, ranges: EotRanges, generator: torch.Generator
) -> Sensor | None:
    """Draw b sensors for pictures of ``height`` rows; None where nothing of it acts."""
    if not any(ranges.acts(name) for name in ("rolling_ev", "full_well_e", "bayer_probability")):
        return None
    g = generator
    return Sensor(
        rolling_ev=draw_uniform(g, ranges.rolling_ev, count),
        rolling_px=(draw_uniform(g, ranges.rolling_rows, count) * height).clamp(min=2.0),
        rolling_phase=draw_uniform(g, (0.0, 1.0), count),
        full_well_e=log_uniform(g, ranges.full_well_e, count)
        if ranges.acts("full_well_e")
        else None,
        read_e=draw_uniform(g, ranges.read_noise_e, count),
        bayer=happens(g, ranges.bayer_probability, count),
    )


def banded(light: Tensor, ys: Tensor, draw: Sensor) -> Tensor:
    """Rows exposed while the lamp was dim are darker by ``rolling_ev``; ``ys`` (b, h, 1) are their
    heights in px.

    The steps between bright and dim rows are soft over a tenth of the period.
    """
    period, phase = (p.to(light)[:, None, None] for p in (draw.rolling_px, draw.rolling_phase))
    wave = torch.sin(2 * torch.pi * (ys / period + phase))
    dim = (wave * 1.6 + 0.5).clamp(0, 1)
    return light * torch.exp2(-draw.rolling_ev.to(light)[:, None, None] * dim)[:, None]


def expose_sensor(light: Tensor, normal: Tensor, draw: Sensor) -> Tensor:
    """Clip (b, 3, h, w) light at white, add the noise of photons and read-out, and demosaic (RGGB).

    ``normal`` is the drawn sample. Noise has the standard deviation sqrt(signal well + read^2)
    electrons; its strength carries no gradient.
    """
    signal = light.clamp(0, 1)
    if draw.full_well_e is not None:
        well, read = (broadcast_parameters(p).to(light) for p in (draw.full_well_e, draw.read_e))
        signal = signal + (signal.detach() / well + (read / well) ** 2).sqrt() * normal
    if not bool(draw.bayer.any()):
        return signal
    through = demosaiced(signal)
    return (
        through
        if bool(draw.bayer.all())
        else torch.where(broadcast_parameters(draw.bayer).to(light) > 0, through, signal)
    )


def demosaiced(image: Tensor) -> Tensor:
    """One color kept at each pixel of (b, 3, h, w) and the others interpolated (bilinear); the
    mosaic is RGGB.

    As kornia's raw_to_rgb but at the borders; sums of slices, far cheaper on a CPU than its
    convolutions.
    """
    height, width = image.shape[-2:]
    rows, columns = torch.arange(-1, height + 1) % 2, torch.arange(-1, width + 1) % 2
    phase = (2 * rows[:, None] + columns).to(image.device)
    mosaic = F.pad(image, (1, 1, 1, 1), mode="reflect")
    red, green, blue = (
        (mosaic[:, i] * keep)
        for i, keep in enumerate((phase == 0, (phase == 1) | (phase == 2), phase == 3))
    )
    return torch.stack([_tent(red), _cross(green), _tent(blue)], 1)


def _tent(plane: Tensor) -> Tensor:
    """Bilinear interpolation of every other sample of every other row, without the outermost px."""
    down = plane[:, 1:-1] + (plane[:, :-2] + plane[:, 2:]) / 2
    return down[..., 1:-1] + (down[..., :-2] + down[..., 2:]) / 2


def _cross(plane: Tensor) -> Tensor:
    """Samples on a chequerboard and the mean of the four neighbors between them, without the
    outermost px."""
    beside = plane[:, 1:-1, :-2] + plane[:, 1:-1, 2:] + plane[:, :-2, 1:-1] + plane[:, 2:, 1:-1]
    return plane[:, 1:-1, 1:-1] + beside / 4
