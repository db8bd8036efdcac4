"""Camera effects on crops of signs, drawn in batches from named generators.

Arithmetic is that of the EOT's stages; what is drawn is the recipe's own.

Every function takes images (b, c, h, w) in [0, 1] and a CPU generator and returns new images of the
same shape; the same generator state gives the same result. None of them mirrors: a mirrored sign is
another sign.
"""

from __future__ import annotations

from math import log, pi

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from physadv.eot.sampling import draw_uniform, log_uniform
from physadv.eot.transforms.blur import blur_lens
from physadv.eot.transforms.codec import from_ycc, quantize_blocks, to_ycc
from physadv.eot.transforms.exposure import apply_exposure
from physadv.eot.transforms.noise import sensor_noise


def draw_chance(generator: Generator, share: float, n: int) -> Tensor:
    """Draw ``n`` booleans from ``generator``, each true with probability ``share``."""
    return torch.rand(n, generator=generator) < share


def draw_homographies(
    boxes: Tensor,
    generator: Generator,
    *,
    fill: tuple[float, float] = (0.55, 1.1),
    degrees: float = 20.0,
    tilt: float = 0.16,
    squeeze: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """Draw views of objects on their canvases.

    Args:
        boxes: (b, 4) x0, y0, x1, y1 of each object, in [-1, 1].
        generator: Source of the draws.
        fill: Share of the output's side that the object spans, log-uniform: below 1 there is
            context around it, above 1 the crop is tighter than the object.
        degrees: Largest rotation.
        tilt: Largest perspective term of either axis.
        squeeze: Largest logarithm of the sides' ratio.

    Returns:
        (b, 3, 3) maps from output to canvas coordinates, both in [-1, 1], and the drawn fill (b,).
    """
    b = len(boxes)
    share = log_uniform(generator, fill, b)
    angle = draw_uniform(generator, (-degrees, degrees), b) * pi / 180
    stretch = torch.exp(draw_uniform(generator, (-squeeze, squeeze), b) / 2)
    slack = 0.08 + 0.45 * (1 - share).clamp(min=0)
    shift = draw_uniform(generator, (-1, 1), b, 2) * slack[:, None]

    h = torch.eye(3).repeat(b, 1, 1)
    h[:, 0, 0], h[:, 0, 1] = angle.cos() * stretch, -angle.sin()
    h[:, 1, 0], h[:, 1, 1] = angle.sin(), angle.cos() / stretch
    h[:, 2, :2] = draw_uniform(generator, (-tilt, tilt), b, 2)

    move = torch.eye(3).repeat(b, 1, 1)
    move[:, :2, :2] /= share[:, None, None]
    move[:, :2, 2] = shift / share[:, None]

    place = torch.eye(3).repeat(b, 1, 1)
    place[:, 0, 0], place[:, 1, 1] = (
        (boxes[:, 2] - boxes[:, 0]) / 2,
        (boxes[:, 3] - boxes[:, 1]) / 2,
    )
    place[:, 0, 2], place[:, 1, 2] = (
        (boxes[:, 2] + boxes[:, 0]) / 2,
        (boxes[:, 3] + boxes[:, 1]) / 2,
    )
    return place @ h @ move, share


def warp_canvas(canvas: Tensor, view: Tensor, px: int, *, padding: str = "border") -> Tensor:
    """Return ``canvas`` (b, c, h, w) seen through ``view`` (b, 3, 3): (b, c, px, px).

    Anti-aliased by one pyramid level; outside of the canvas ``padding`` is that of grid_sample.
    Photos are smooth, so they are interpolated, unlike a patch's texels in the EOT.
    """
    b, _, height, _ = canvas.shape
    line = (torch.arange(px) + 0.5) / px * 2 - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = view @ torch.stack([x, y, torch.ones_like(x)]).reshape(3, -1)
    grid = (points[:, :2] / points[:, 2:].clamp(min=1e-3)).transpose(1, 2).reshape(b, px, px, 2)

    fine = F.grid_sample(canvas, grid, padding_mode=padding, align_corners=False)
    coarse = F.grid_sample(F.avg_pool2d(canvas, 2), grid, padding_mode=padding, align_corners=False)

    shrink = torch.linalg.det(view[:, :2, :2]).abs().sqrt() * height / px
    level = torch.log2(shrink.clamp(min=1e-3)).clamp(0, 1).reshape(b, 1, 1, 1)
    return torch.lerp(fine, coarse, level)


def cover_with_stickers(
    canvas: Tensor, boxes: Tensor, generator: Generator, *, share: float = 0.5
) -> Tensor:
    """Lay one or two stickers, flat-colored or of coarse noise, over the objects of some canvases.

    Together they take 3 to 25 % of the box, lie anywhere in it and are turned at random: a sticker
    as such must not change the verdict.

    Args:
        canvas: (b, 3, h, w) in [0, 1].
        boxes: (b, 4) x0, y0, x1, y1 of each object, in [-1, 1].
        generator: Decides the stickers.
        share: Share of the canvases that get them.

    Returns:
        (b, 3, h, w).
    """
    height, width = canvas.shape[-2:]
    hit = draw_chance(generator, share, len(canvas)).nonzero().flatten()

    b = len(hit)
    if b == 0:
        return canvas

    twice = draw_chance(generator, 0.4, b)
    area = draw_uniform(generator, (0.03, 0.25), b) / (1 + twice.float())
    aspect = torch.exp(draw_uniform(generator, (-1.6, 1.6), b) / 2)
    half = torch.stack([area.sqrt() * aspect, area.sqrt() / aspect], 1)
    angle = draw_uniform(generator, (-pi / 2, pi / 2), b) * draw_chance(generator, 0.6, b)

    inside = _rectangle(
        boxes[hit], draw_uniform(generator, (-0.85, 0.85), b, 2), half, angle, height, width
    )
    second = _rectangle(
        boxes[hit], draw_uniform(generator, (-0.85, 0.85), b, 2), half, angle, height, width
    )
    inside |= second & twice[:, None, None]

    out = canvas.clone()
    out[hit] = torch.where(inside[:, None], _paint(b, height, width, generator), canvas[hit])
    return out


def _rectangle(
    boxes: Tensor, center: Tensor, half: Tensor, angle: Tensor, height: int, width: int
) -> Tensor:
    """Return (b, h, w) booleans: inside the turned rectangle.

    Center and half sides are in units of the box's half sides.
    """
    y, x = torch.meshgrid(
        (torch.arange(height) + 0.5) / height * 2 - 1,
        (torch.arange(width) + 0.5) / width * 2 - 1,
        indexing="ij",
    )

    middle, radius = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    u = (x - middle[:, 0, None, None]) / radius[:, 0, None, None] - center[:, 0, None, None]
    v = (y - middle[:, 1, None, None]) / radius[:, 1, None, None] - center[:, 1, None, None]

    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return ((c * u + s * v).abs() < half[:, 0, None, None]) & (
        (c * v - s * u).abs() < half[:, 1, None, None]
    )


def _paint(b: int, height: int, width: int, generator: Generator) -> Tensor:
    """Return flat colors (often black, white or gray) and coarse noise, (b, 3, height, width)."""
    flat = draw_uniform(generator, (0, 1), b, 3)
    gray = (draw_chance(generator, 0.5, b).float() * 0.85 + draw_uniform(generator, (0, 0.15), b))[
        :, None
    ].expand(b, 3)
    flat = torch.where(draw_chance(generator, 0.5, b)[:, None], gray, flat)[..., None, None]

    noise = F.interpolate(
        draw_uniform(generator, (0, 1), b, 3, 16, 16), size=(height, width), mode="nearest"
    )
    return torch.where(
        draw_chance(generator, 0.35, b)[:, None, None, None], noise, flat.expand_as(noise)
    )


def vary_light(images: Tensor, generator: Generator) -> Tensor:
    """Vary exposure, contrast, gamma, color temperature, saturation, veil and a shadow edge.

    At times strongly, on all ``images`` (b, 3, h, w); all is drawn from ``generator``.
    """
    b = len(images)

    def per_image(low: float, high: float, channels: int = 1) -> Tensor:
        return draw_uniform(generator, (low, high), b, channels, 1, 1)

    x = images.clamp(0, 1)
    gray = x.mean(1, keepdim=True)
    x = gray + (x - gray) * per_image(0.5, 1.5)
    x = x.clamp(1e-4, 1) ** torch.exp(per_image(-0.4, 0.4))
    ev, tint = per_image(-0.6, 0.45).flatten() / log(2), torch.exp(per_image(-0.13, 0.13, 3))
    x = apply_exposure(x, ev, tint.flatten(1)) * _shadow(b, images, generator)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * per_image(0.6, 1.4)
    return (x + per_image(-0.05, 0.15) * (per_image(0, 1) < 0.5)).clamp(0, 1)


def _shadow(b: int, images: Tensor, generator: Generator) -> Tensor:
    """Return a soft-edged darker half plane on a third of the images, ones elsewhere."""
    h, w = images.shape[-2:]
    y, x = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
    angle, offset = (
        draw_uniform(generator, (-pi, pi), b, 1, 1, 1),
        draw_uniform(generator, (-0.7, 0.7), b, 1, 1, 1),
    )

    side = torch.sigmoid(
        (angle.cos() * x + angle.sin() * y - offset)
        * torch.exp(draw_uniform(generator, (1, 4), b, 1, 1, 1))
    )

    depth = (
        draw_uniform(generator, (0.0, 0.6), b, 1, 1, 1)
        * draw_chance(generator, 0.35, b)[:, None, None, None]
    )
    return 1 - depth * side


def view_from_afar(images: Tensor, generator: Generator, *, share: float = 0.4) -> Tensor:
    """Reduce to 18-48 px a side and enlarge again, as a sign looks from far away.

    On ``share`` of the ``images`` (b, 3, h, w); all is drawn from ``generator``.
    """
    b, _, h, w = images.shape
    side = torch.exp(draw_uniform(generator, (2.88, 3.9), b)).round()
    side = torch.where(
        draw_chance(generator, share, b), (side / 6).round() * 6, torch.tensor(float(h))
    )

    out = images.clone()
    for px in sorted({int(s) for s in side.tolist() if s < h}):
        chosen = (side == px).nonzero().flatten()
        small = F.interpolate(images[chosen], size=(px, px), mode="bilinear", antialias=True)
        out[chosen] = F.interpolate(small, size=(h, w), mode="bilinear", align_corners=False)
    return out


def blur_crops(images: Tensor, generator: Generator, *, share: float = 0.3) -> Tensor:
    """Defocus, and motion along a random direction, by the blur of the EOT.

    On ``share`` of the ``images``; all is drawn from ``generator``. Strengths are those of a
    Gaussian in 7 x 7 px, stretched along the direction.
    """
    b = len(images)
    chosen = draw_chance(generator, share, b).nonzero().flatten()
    short, long = (
        draw_uniform(generator, (0.3, 1.3), b)[chosen],
        draw_uniform(generator, (0.0, 2.2), b)[chosen],
    )
    angle = draw_uniform(generator, (-pi, pi), b)[chosen]
    if len(chosen) == 0:
        return images

    # A straight motion of length L has the variance L^2 / 12, which the long axis has beyond the
    # short one.
    across, along = _variance_in_7px(short), _variance_in_7px(short + long)
    motion = (12 * (along - across).clamp(min=0)).sqrt()
    out = images.clone()
    out[chosen] = blur_lens(images[chosen], across.sqrt(), motion, angle).clamp(0, 1)
    return out


def _variance_in_7px(sigma: Tensor) -> Tensor:
    """Return the variance (n,) of Gaussians of (n,) sigma cut to 7 whole px."""
    reach = torch.arange(-3.0, 4)
    weights = torch.exp(-(reach**2) / (2 * sigma[:, None] ** 2))
    return (weights * reach**2).sum(1) / weights.sum(1)


def sharpen_crops(images: Tensor, generator: Generator, *, share: float = 0.25) -> Tensor:
    """Sharpen by an unsharp mask of 5 px, up to 1.5, as cameras do.

    Without it soft training photos teach that signs are soft. On ``share`` of the ``images`` (b,
    3, h, w); all is drawn from ``generator``.
    """
    chosen = draw_chance(generator, share, len(images)).nonzero().flatten()
    amount = draw_uniform(generator, (0, 1.5), len(chosen), 1, 1, 1)
    soft = F.avg_pool2d(F.pad(images[chosen], (2, 2, 2, 2), mode="replicate"), 5, 1)
    out = images.clone()
    out[chosen] = (images[chosen] + amount * (images[chosen] - soft)).clamp(0, 1)
    return out


def add_noise(images: Tensor, generator: Generator, *, share: float = 0.5) -> Tensor:
    """Add noise, per pixel and (weaker) per 2x2 block, standard deviation up to 0.06.

    On ``share`` of the ``images`` (b, 3, h, w); all is drawn from ``generator``.
    """
    _, c, h, w = images.shape
    chosen = draw_chance(generator, share, len(images)).nonzero().flatten()
    strength = draw_uniform(generator, (0, 0.06), len(chosen))
    fine = torch.randn(len(chosen), c, h, w, generator=generator)
    coarse = torch.randn(len(chosen), c, (h + 1) // 2, (w + 1) // 2, generator=generator)
    coarse = coarse.repeat_interleave(2, 2).repeat_interleave(2, 3)[..., :h, :w]
    out = images.clone()
    noisy = sensor_noise(images[chosen], fine + 0.5 * coarse, strength, torch.zeros_like(strength))
    out[chosen] = noisy.clamp(0, 1)
    return out


def compress_crops(images: Tensor, generator: Generator, *, share: float = 0.5) -> Tensor:
    """Compress 8x8 cosine blocks in YCbCr, more coarsely the higher the frequency, as JPEG does.

    Sides are whole blocks. On ``share`` of the ``images`` (b, 3, h, w); all is drawn from
    ``generator``.
    """
    b = len(images)
    chosen = draw_chance(generator, share, b).nonzero().flatten()
    step = torch.exp(draw_uniform(generator, (-5.0, -2.6), b))[chosen]
    if len(chosen) == 0:
        return images

    n = torch.arange(8.0)
    frequency = 1 + 0.6 * (n[:, None] + n[None])
    color = torch.tensor([1.0, 2.0, 2.0])
    table = step[:, None, None, None] * color[:, None, None] * frequency
    coded = quantize_blocks(to_ycc(images[chosen]), table[:, :, None, None])
    out = images.clone()
    out[chosen] = from_ycc(coded).clamp(0, 1)
    return out


def simulate_camera(images: Tensor, generator: Generator, *, share: float = 0.85) -> Tensor:
    """Apply what follows the lens: light, distance, blur, sharpening, noise, compression.

    On ``share`` of the ``images`` (b, 3, h, w); all is drawn from ``generator``.
    """
    chosen = draw_chance(generator, share, len(images)).nonzero().flatten()
    if len(chosen) == 0:
        return images

    seen = view_from_afar(vary_light(images[chosen], generator), generator)
    seen = sharpen_crops(blur_crops(seen, generator), generator)
    out = images.clone()
    out[chosen] = compress_crops(add_noise(seen, generator), generator)
    return out
