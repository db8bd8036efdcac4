"""Occluders and haze between sign and lens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physadv.eot.crop_window import CropWindow
from physadv.eot.sampling import DrawStream, broadcast_parameters, draw_bernoulli, draw_uniform
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, SHARE, Range, Stage, StageRanges, span
from physadv.eot.transforms.light import REACH_MM, SignSpot, sign_spot
from physadv.eot.warp import pixel_centers

UNKNOWN_M = 10.0
"""Distance taken where a scene does not know its own."""


@dataclass(frozen=True)
class AirRanges(StageRanges):
    """Ranges of what stands and hangs before the sign."""

    occlusion_probability: Range = span(0, 0, within=SHARE, effects=("light",))
    occlusion_mm: Range = span(0, 0, within=FROM_ZERO)
    """Width of a branch or leaf before the sign."""
    haze_per_km: Range = span(0, 0, within=FROM_ZERO, effects=("light",))
    """Extinction of the air; 3.9 over the visibility in km (Koschmieder 1924)."""


@dataclass(frozen=True)
class AirDraw:
    """What b cameras look through."""

    spot: SignSpot
    present: Tensor  # (b,) 1: something is in the way
    width_mm: Tensor  # (b,) of the occluder
    length: Tensor  # (b,) its length over its width
    at_mm: Tensor  # (b, 2)
    angle: Tensor  # (b,)
    color: Tensor  # (b, 3) its light
    clear: Tensor  # (b,) share of light that the haze lets through
    airlight: Tensor  # (b,) light of the haze itself
    centers: tuple[Tensor, Tensor] | None = None  # px of a crop; None: the whole picture


def haze_transmission(extinction_per_km: Tensor, distance_m: Tensor) -> Tensor:
    """Return the share of light that reaches the camera (Koschmieder 1924).

    ``extinction_per_km`` and ``distance_m`` are (b,).
    """
    return torch.exp(-extinction_per_km * distance_m / 1000)


def look_through(light: Tensor, xs: Tensor, ys: Tensor, draw: AirDraw) -> Tensor:
    """Return linear light behind the occluder and the haze; all of it as far away as the sign.

    Args:
        light: (b, 3, h, w) linear light.
        xs: (b or 1, 1, w) px of the columns.
        ys: (b or 1, h, 1) px of the rows.
        draw: What b cameras look through.
    """
    cover = occluder_cover(xs, ys, draw)[:, None] * broadcast_parameters(draw.present).to(light)
    seen = light + cover * (broadcast_parameters(draw.color).to(light) - light)
    clear = broadcast_parameters(draw.clear).to(light)
    return seen * clear + broadcast_parameters(draw.airlight).to(light) * (1 - clear)


def occluder_cover(xs: Tensor, ys: Tensor, draw: AirDraw) -> Tensor:
    """Return (b, h, w) in [0, 1]: an ellipse whose edge is one pixel wide.

    Args:
        xs: (b or 1, 1, w) px of the columns.
        ys: (b or 1, h, 1) px of the rows.
        draw: Where the b ellipses are.
    """
    x, y = draw.spot.to_mm(xs, ys)
    turn, at = draw.angle.to(xs)[:, None, None], draw.at_mm.to(xs)
    dx, dy = x - at[:, :1, None], y - at[:, 1:, None]
    half = (draw.width_mm.to(xs) / 2).clamp(min=0.5)[:, None, None]
    along = (dx * turn.cos() + dy * turn.sin()) / (half * draw.length.to(xs)[:, None, None])
    across = (dy * turn.cos() - dx * turn.sin()) / half
    radius = (along**2 + across**2).clamp(min=1e-12).sqrt()
    return ((1 - radius) * half * draw.spot.px_per_mm.to(xs)[:, None, None] + 0.5).clamp(0, 1)


class OccluderAndHaze(Stage[AirRanges, AirDraw]):
    """A branch or leaf in the way, and haze by distance."""

    encoding = "linear"
    windowed = True

    def sample(self, batch: SceneBatch, ranges: AirRanges, stream: DrawStream) -> AirDraw | None:
        """Draw occluder and haze of ``batch`` within ``ranges`` from the ``stream`` "air"."""
        if not ranges.acts("occlusion_probability", "haze_per_km"):
            return None

        g, count = stream.named("air"), len(batch.images)
        away = torch.full((count,), UNKNOWN_M) if batch.distance_m is None else batch.distance_m
        return AirDraw(
            spot=sign_spot(batch.homography),
            present=draw_bernoulli(g, ranges.occlusion_probability, count),
            width_mm=draw_uniform(g, ranges.occlusion_mm, count),
            length=draw_uniform(g, (1.5, 12.0), count),
            at_mm=draw_uniform(g, (-REACH_MM, REACH_MM), count, 2),
            angle=draw_uniform(g, (0.0, torch.pi), count),
            color=draw_uniform(g, (0.02, 0.3), count, 1) * draw_uniform(g, (0.6, 1.0), count, 3),
            clear=haze_transmission(draw_uniform(g, ranges.haze_per_km, count), away),
            airlight=draw_uniform(g, (0.5, 0.9), count),
        )

    def apply(self, images: Tensor, params: AirDraw) -> Tensor:
        """Return linear ``images`` seen through the air of ``params``."""
        height, width = images.shape[-2:]
        xs, ys = params.centers or pixel_centers((height, width), images)
        return look_through(images, xs.to(images), ys.to(images), params)

    def crop(self, params: AirDraw, window: CropWindow, margin: int) -> AirDraw:
        """Return ``params`` with the pixel centers of the ``window`` and ``margin`` px round it."""
        return replace(params, centers=window.pixel_centers(margin, params.present))
