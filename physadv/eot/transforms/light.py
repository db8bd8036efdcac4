"""Light on the sign: shadow with its soft edge, gradient, specular highlight, color of the lamp."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from physadv.eot.crop_window import CropWindow
from physadv.eot.sampling import DrawStream, broadcast_parameters, draw_bernoulli, draw_uniform
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import FROM_ZERO, SHARE, Range, Stage, StageRanges, span
from physadv.eot.warp import pixel_centers

DAYLIGHT_K = 6504.0
"""Correlated color temperature of D65, the white of sRGB."""

REACH_MM = 250.0
"""Shadow edges and highlights fall within this distance of the sign's center."""


@dataclass(frozen=True)
class LightRanges(StageRanges):
    """Ranges of the light on the sign; lengths on the sign."""

    shadow_probability: Range = span(0, 0, within=SHARE, effects=("light",))
    shadow_ev: Range = span(0, 0, within=FROM_ZERO)
    """How much darker the shaded side is."""
    shadow_edge_mm: Range = span(0, 0, within=FROM_ZERO)
    """Width of the half-shadow on the sign."""
    gradient_ev: Range = span(0, 0, within=FROM_ZERO, effects=("light",))
    """Change of the light along 1 m of the sign, in any direction."""
    highlight_probability: Range = span(0, 0, within=SHARE, effects=("light",))
    highlight: Range = span(0, 0, within=FROM_ZERO)
    """Light of the brightest point of a specular reflection, in units of white."""
    highlight_mm: Range = span(0, 0, within=FROM_ZERO)
    """Standard deviation of its size on the sign."""
    temperature_k: Range = span(
        DAYLIGHT_K,
        DAYLIGHT_K,
        off=(DAYLIGHT_K, DAYLIGHT_K),
        within=(1000.0, 40000.0),
        effects=("colour",),
    )
    """Color temperature that the camera's white balance leaves over; uniform in its reciprocal."""


@dataclass(frozen=True)
class SignSpot:
    """Place of the sign's center in each of b pictures, and the scale there."""

    center_px: Tensor  # (b, 2) x, y
    px_per_mm: Tensor  # (b,)

    def to_mm(self, xs: Tensor, ys: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixel centers ``xs`` (b, 1, w) and ``ys`` (b, h, 1) as mm from the sign's center.

        In the picture's plane, not on the turned sign.
        """
        scale = self.px_per_mm.to(xs)[:, None, None]
        center = self.center_px.to(xs)
        return (xs - center[:, :1, None]) / scale, (ys - center[:, 1:, None]) / scale


def sign_spot(homography: Tensor) -> SignSpot:
    """Return the image of the plane's origin under ``homography`` (b, 3, 3), mm -> px.

    Its scale is the root of the area that 1 mm^2 covers there.
    """
    center = homography[:, :2, 2] / homography[:, 2:, 2]
    slope = (homography[:, :2, :2] - center[:, :, None] * homography[:, 2:, :2]) / homography[
        :, 2:, 2:
    ]
    return SignSpot(center, torch.linalg.det(slope).abs().sqrt().clamp(min=1e-6))


@dataclass(frozen=True)
class LightDraw:
    """Light on b scenes."""

    spot: SignSpot
    shadow_ev: Tensor  # (b,) 0: no shadow
    shadow_edge_mm: Tensor
    shadow_offset_mm: Tensor
    shadow_angle: Tensor
    gradient_ev: Tensor  # (b,) EV per meter
    gradient_angle: Tensor
    highlight: Tensor  # (b,) 0: none
    highlight_mm: Tensor
    highlight_at_mm: Tensor  # (b, 2)
    temperature_k: Tensor  # (b,)
    centers: tuple[Tensor, Tensor] | None = None  # px of a crop; None: the whole picture


def illuminate_scene(light: Tensor, xs: Tensor, ys: Tensor, draw: LightDraw) -> Tensor:
    """Return linear light under the drawn light.

    Args:
        light: (b, 3, h, w) linear light.
        xs: (b or 1, 1, w) px of the columns.
        ys: (b or 1, h, 1) px of the rows.
        draw: Light on b scenes.
    """
    x, y = draw.spot.to_mm(xs, ys)
    factor = torch.exp2(_gradient(x, y, draw) - _shadow(x, y, draw))[:, None]
    lit = light * (broadcast_parameters(temperature_gains(draw.temperature_k).to(light)) * factor)
    return lit + _glint(x, y, draw)[:, None]


def _along(x: Tensor, y: Tensor, angle: Tensor) -> Tensor:
    turn = angle.to(x)[:, None, None]
    return x * turn.cos() + y * turn.sin()


def _gradient(x: Tensor, y: Tensor, draw: LightDraw) -> Tensor:
    meters = _along(x, y, draw.gradient_angle).clamp(-1000, 1000) / 1000
    return draw.gradient_ev.to(x)[:, None, None] * meters


def _shadow(x: Tensor, y: Tensor, draw: LightDraw) -> Tensor:
    """Return the EV taken away: nothing on one side, all on the other, a smoothstep between."""
    depth, edge, offset = (
        p.to(x)[:, None, None] for p in (draw.shadow_ev, draw.shadow_edge_mm, draw.shadow_offset_mm)
    )
    inside = ((_along(x, y, draw.shadow_angle) - offset) / edge.clamp(min=1e-3) + 0.5).clamp(0, 1)
    return depth * inside**2 * (3 - 2 * inside)


def _glint(x: Tensor, y: Tensor, draw: LightDraw) -> Tensor:
    at, size = draw.highlight_at_mm.to(x), draw.highlight_mm.to(x)[:, None, None]
    across = torch.exp(-(((x - at[:, :1, None]) / size) ** 2) / 2)
    down = torch.exp(-(((y - at[:, 1:, None]) / size) ** 2) / 2)
    return draw.highlight.to(x)[:, None, None] * across * down


def temperature_gains(kelvin: Tensor) -> Tensor:
    """Return (b, 3) gains of linear sRGB under a black body of ``kelvin`` (b,); green is 1.

    The camera is balanced to 6504 K.
    """
    return _black_body(kelvin) / _black_body(torch.full_like(kelvin, DAYLIGHT_K))


def _black_body(kelvin: Tensor) -> Tensor:
    """Return linear sRGB of Planck's locus, green 1, by the cubic of Kim (2002), 1667 to 25000
    K."""
    t = 1000 / kelvin.clamp(1667, 25000)
    warm = -0.2661239 * t**3 - 0.2343589 * t**2 + 0.8776956 * t + 0.179910
    cold = -3.0258469 * t**3 + 2.1070379 * t**2 + 0.2226347 * t + 0.240390
    x = torch.where(kelvin <= 4000, warm, cold)

    low = -1.1063814 * x**3 - 1.34811020 * x**2 + 2.18555832 * x - 0.20219683
    middle = -0.9549476 * x**3 - 1.37418593 * x**2 + 2.09137015 * x - 0.16748867
    high = 3.0817580 * x**3 - 5.87338670 * x**2 + 3.75112997 * x - 0.37001483
    y = torch.where(kelvin <= 2222, low, torch.where(kelvin <= 4000, middle, high))

    big_x, big_z = x / y, (1 - x - y) / y
    red = 3.2404542 * big_x - 1.5371385 - 0.4985314 * big_z
    green = -0.9692660 * big_x + 1.8760108 + 0.0415560 * big_z
    blue = 0.0556434 * big_x - 0.2040259 + 1.0572252 * big_z
    return torch.stack([red, green, blue], -1).clamp(min=1e-3) / green[..., None]


class SceneLight(Stage[LightRanges, LightDraw]):
    """Shadow, gradient, highlight and the lamp's color."""

    encoding = "linear"
    windowed = True

    def sample(
        self, batch: SceneBatch, ranges: LightRanges, stream: DrawStream
    ) -> LightDraw | None:
        """Draw the light on ``batch`` within ``ranges`` from the ``stream`` "light"."""
        names = ("shadow_probability", "gradient_ev", "highlight_probability", "temperature_k")
        if not ranges.acts(*names):
            return None

        g, count = stream.named("light"), len(batch.images)
        low, high = ranges.temperature_k
        shadow_ev = draw_bernoulli(g, ranges.shadow_probability, count)
        return LightDraw(
            spot=sign_spot(batch.homography),
            shadow_ev=shadow_ev * draw_uniform(g, ranges.shadow_ev, count),
            shadow_edge_mm=draw_uniform(g, ranges.shadow_edge_mm, count),
            shadow_offset_mm=draw_uniform(g, (-REACH_MM, REACH_MM), count),
            shadow_angle=draw_uniform(g, (0.0, 2 * torch.pi), count),
            gradient_ev=draw_uniform(g, ranges.gradient_ev, count),
            gradient_angle=draw_uniform(g, (0.0, 2 * torch.pi), count),
            highlight=draw_bernoulli(g, ranges.highlight_probability, count)
            * draw_uniform(g, ranges.highlight, count),
            highlight_mm=draw_uniform(g, ranges.highlight_mm, count).clamp(min=1.0),
            highlight_at_mm=draw_uniform(g, (-REACH_MM, REACH_MM), count, 2),
            temperature_k=1 / draw_uniform(g, (1 / high, 1 / low), count)
            if low < high
            else torch.full((count,), low),
        )

    def apply(self, images: Tensor, params: LightDraw) -> Tensor:
        """Return linear ``images`` under the light of ``params``."""
        height, width = images.shape[-2:]
        xs, ys = params.centers or pixel_centers((height, width), images)
        return illuminate_scene(images, xs.to(images), ys.to(images), params)

    def crop(self, params: LightDraw, window: CropWindow, margin: int) -> LightDraw:
        """Return ``params`` with the pixel centers of the ``window`` and ``margin`` px round it."""
        return replace(params, centers=window.pixel_centers(margin, params.shadow_ev))
