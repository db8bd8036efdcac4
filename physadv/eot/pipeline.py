"""Between the placed patch and the victim: parameters are sampled first, then applied, so that any
draw replays.

The order is that of the light: print, sticker, lamp, air, lens, sensor, processor, codec.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from physadv.eot.color_map import ColorMap
from physadv.eot.crop_window import CropWindow, window_round
from physadv.eot.placement import Placement, place_patch, reached_px
from physadv.eot.presets import EotRanges, Range
from physadv.eot.ranges import NO_CODEC
from physadv.eot.sampling import draw_uniform as uniform_from
from physadv.eot.sampling import happens, moved, streams
from physadv.eot.scenes.signs import SceneBatch
from physadv.eot.transforms import blur_and_noise, photometry
from physadv.eot.transforms.air import Air, look_through, sample_air
from physadv.eot.transforms.bend import Bend, sample_bend
from physadv.eot.transforms.codec import differentiable_jpeg, stream
from physadv.eot.transforms.image_processing import (
    PatchPixels,
    PicturePixels,
    sample_patch_pixels,
    sample_picture_pixels,
    sharpen,
    tone_curve,
)
from physadv.eot.transforms.lens_distortion import Radial, distort, sample_radial, undistorted
from physadv.eot.transforms.light import Lighting, illuminate, sample_lighting, sign_spot
from physadv.eot.transforms.printer import MeasuredPrinter, draw_printer, printed_light
from physadv.eot.transforms.sensor import RING, Sensor, banded, expose_sensor, sample_sensor
from physadv.eot.warp import Lookup


@dataclass(frozen=True)
class Draw:
    """Parameters of one EOT draw for b scenes; tensors are (b,) unless said otherwise. None: the
    effect is off."""

    black: Tensor  # (3,)
    white: Tensor  # (3,)
    mixing: Tensor  # (3, 3)
    ev: Tensor
    white_balance: Tensor  # (b, 3)
    contrast: Tensor
    brightness: Tensor
    gamma: Tensor
    sigma: Tensor
    motion: Tensor
    motion_angle: Tensor
    read: Tensor
    shot: Tensor
    normal: Tensor  # (b, 3, h, w)
    quality: Tensor | None
    measured: MeasuredPrinter | None = None
    patch_pixels: PatchPixels | None = None
    bend: Bend | None = None
    lighting: Lighting | None = None
    air: Air | None = None
    radial: Radial | None = None
    sensor: Sensor | None = None
    tone_curve: Tensor | None = None
    sharpening: Tensor | None = None
    picture_pixels: PicturePixels | None = None
    video: Tensor | None = None
    video_qp: Tensor | None = None

    def to(self, device: torch.device) -> Draw:
        """The same draw on another device: it is always made on the CPU."""
        return moved(self, device)


def sample(
    scenes: SceneBatch,
    ranges: EotRanges,
    generator: torch.Generator,
    *,
    colors: ColorMap | None = None,
) -> Draw:
    """Draw everything between the print and the victim for ``scenes``; the generator alone decides.

    ``colours`` is a measured printer: its map takes the place of the drawn inks, with its residual
    spread.
    """
    count, height = len(scenes.images), scenes.images.shape[-2]
    named, spot = streams(generator), sign_spot(scenes.homography)

    def uniform(bounds: Range, *shape: int) -> Tensor:
        return uniform_from(generator, bounds, *(shape or (count,)))

    def optional(name: str) -> Tensor | None:
        return (
            uniform_from(named(name), getattr(ranges, name), count) if ranges.acts(name) else None
        )

    leak = uniform(ranges.ink_mixing, 3, 3) / 2
    mixing = leak - torch.diag(leak.diagonal())
    mixing = mixing + torch.diag(1 - mixing.sum(1))
    balance = torch.ones(count, 3)
    balance[:, 0], balance[:, 2] = uniform(ranges.white_balance), uniform(ranges.white_balance)
    black = uniform(ranges.ink_black, 1).expand(3) * uniform((0.85, 1.15), 3)
    white = uniform(ranges.paper_white, 1).expand(3) * uniform((0.96, 1.04), 3)
    video = ranges.acts("video_probability")
    return Draw(
        black=black,
        white=white if ranges.acts("paper_white") else torch.ones(3),
        mixing=mixing,
        ev=uniform(ranges.exposure_ev),
        white_balance=balance,
        contrast=uniform(ranges.contrast),
        brightness=uniform(ranges.brightness),
        gamma=uniform(ranges.gamma),
        # A sign seen small is enlarged to the victim's input: the blur of that belongs to its
        # distance.
        sigma=(uniform(ranges.defocus_px) ** 2 + 0.2 * (scenes.enlargement**2 - 1)).sqrt(),
        motion=uniform(ranges.motion_px),
        motion_angle=uniform((0.0, 3.1416)),
        read=uniform(ranges.read_noise),
        shot=uniform(ranges.shot_noise),
        normal=torch.randn(scenes.images.shape, generator=generator),
        quality=uniform(ranges.jpeg_quality) if ranges.jpeg_quality != NO_CODEC else None,
        # What follows draws from streams of its own: another effect switched on moves none of the
        # others.
        measured=draw_printer(colors, named("printer")),
        patch_pixels=sample_patch_pixels(count, ranges, named("patch pixels")),
        bend=sample_bend(count, ranges, named("bend")),
        lighting=sample_lighting(spot, ranges, named("light")),
        air=sample_air(spot, scenes.distance_m, ranges, named("air")),
        radial=sample_radial(count, ranges, spot.center_px, named("lens")),
        sensor=sample_sensor(count, height, ranges, named("sensor")),
        tone_curve=optional("tone_curve"),
        sharpening=optional("sharpening"),
        picture_pixels=sample_picture_pixels(count, ranges, named("picture pixels")),
        video=happens(named("video"), ranges.video_probability, count) if video else None,
        video_qp=uniform_from(named("video qp"), ranges.video_qp, count) if video else None,
    )


def apply(
    patch: Tensor, mask: Tensor, placement: Placement, scenes: SceneBatch, draw: Draw
) -> Tensor:
    """The whole way: print the patch, put it on every scene, photograph. (1, 3, ph, pw) -> (b, 3,
    h, w).

    Only a window round the patch is rendered with it; the rest of the picture is that of the clean
    scene.
    """
    light, pinhole = _scene_light(scenes, draw), _pinhole(scenes, draw)
    edited = patch if draw.patch_pixels is None else draw.patch_pixels.apply(patch)
    printed = printed_light(edited, draw.black, draw.white, draw.mixing, draw.measured)
    window, margin = _window(placement, scenes, draw), _margin(light, draw)
    part = window.take(light, margin)
    for homography in _places(scenes):
        picture = (light.shape[-2], light.shape[-1])
        near = window.within(
            reached_px(placement, homography, draw.bend, draw.radial, picture), margin
        )
        placed = place_patch(
            near.take(part),
            printed,
            mask,
            homography,
            placement,
            scenes.gain,
            scenes.lift,
            at=near.centers(window, margin, light),
            pinhole=pinhole,
            bend=draw.bend,
        )
        part = near.paste(part, placed)
    seen = _photograph(part, draw, window, margin)
    if window.is_whole:
        return seen
    with torch.no_grad():
        base = photograph(light, draw)
    return window.paste(base, seen)


def without_patch(scenes: SceneBatch, draw: Draw) -> Tensor:
    """The clean control: the same scenes under the same draw."""
    return photograph(_scene_light(scenes, draw), draw)


def photograph(light: Tensor, draw: Draw) -> Tensor:
    """Lamp, air, lens, sensor, processor and codec: (b, 3, h, w) linear light -> sRGB in [0, 1];
    differentiable."""
    window, margin = CropWindow.whole(light), _margin(light, draw)
    return _photograph(window.take(light, margin), draw, window, margin)


def _photograph(light: Tensor, draw: Draw, window: CropWindow, margin: int) -> Tensor:
    """As :func:`photograph`, of a window of the picture whose light is given with ``margin`` px
    round it."""
    ring = _ring(draw)
    lit = _on_the_way(light, draw, window.columns(margin, light), window.rows(margin, light))
    exposed = photometry.expose(lit, draw.ev, draw.white_balance)
    sharp = not bool((draw.sigma + draw.motion).any())
    focused = (
        exposed
        if sharp
        else blur_and_noise.blurred(exposed, draw.sigma, draw.motion, draw.motion_angle)
    )
    seen = blur_and_noise.cut_margin(focused, margin - ring)
    normal = window.take(draw.normal.to(light), ring)
    if draw.sensor is not None:
        seen = expose_sensor(
            banded(seen, window.rows(ring, light), draw.sensor), normal, draw.sensor
        )
    encoded = _processed(photometry.linear_to_srgb(seen.clamp(0, 1)), draw)
    inner = blur_and_noise.cut_margin(encoded, ring)
    if bool((draw.read + draw.shot).any()):
        inner = blur_and_noise.sensor_noise(
            inner, blur_and_noise.cut_margin(normal, ring), draw.read, draw.shot
        )
    return _coded(inner.clamp(0, 1), draw)


def _on_the_way(light: Tensor, draw: Draw, xs: Tensor, ys: Tensor) -> Tensor:
    """Lamp and air, at pixel centers."""
    lit = light if draw.lighting is None else illuminate(light, xs, ys, draw.lighting)
    return lit if draw.air is None else look_through(lit, xs, ys, draw.air)


def _processed(encoded: Tensor, draw: Draw) -> Tensor:
    """Tone, sharpening and papers' pixel arithmetic."""
    plain = bool(((draw.contrast == 1) & (draw.brightness == 0) & (draw.gamma == 1)).all())
    image = (
        encoded if plain else photometry.tone(encoded, draw.contrast, draw.brightness, draw.gamma)
    )
    if draw.tone_curve is not None:
        image = tone_curve(image, draw.tone_curve)
    if draw.sharpening is not None:
        image = sharpen(image, draw.sharpening)
    return image if draw.picture_pixels is None else draw.picture_pixels.apply(image)


def _coded(image: Tensor, draw: Draw) -> Tensor:
    """The file or the stream."""
    if draw.quality is None:
        return image
    if draw.video is None or draw.video_qp is None:
        return differentiable_jpeg(image, draw.quality)
    return stream(image, draw.quality, draw.video, draw.video_qp)


def _scene_light(scenes: SceneBatch, draw: Draw) -> Tensor:
    light = photometry.srgb_to_linear(scenes.images)
    return light if draw.radial is None else distort(light, draw.radial)


def _pinhole(scenes: SceneBatch, draw: Draw) -> Lookup | None:
    picture = (scenes.images.shape[-2], scenes.images.shape[-1])
    return (
        None if draw.radial is None else partial(undistorted, radial=draw.radial, picture=picture)
    )


def _places(scenes: SceneBatch) -> tuple[Tensor, ...]:
    """Where the patch lies in each scene: (b, 3, 3) each."""
    return (scenes.homography, *(() if scenes.others is None else scenes.others.unbind(1)))


def _ring(draw: Draw) -> int:
    return RING if draw.sensor is not None or draw.sharpening is not None else 0


def _margin(light: Tensor, draw: Draw) -> int:
    """Pixels that the picture needs round it: the lens's reach, and the sensor's and the
    sharpening's.

    Rounded up to where the Fourier transform of a square picture is fast.
    """
    height, width = light.shape[-2:]
    least = blur_and_noise.lens_reach(draw.sigma, draw.motion, (height, width)) + _ring(draw)
    return min(
        (blur_and_noise.smooth_size(height + 2 * least) - height) // 2
        if height % 2 == 0
        else least,
        height - 1,
        width - 1,
    )


def _window(placement: Placement, scenes: SceneBatch, draw: Draw) -> CropWindow:
    """The part of the picture that the patch can reach."""
    picture = (scenes.images.shape[-2], scenes.images.shape[-1])
    boxes = torch.stack(
        [reached_px(placement, h, draw.bend, draw.radial, picture) for h in _places(scenes)]
    )
    return window_round(
        torch.cat([boxes[..., :2].amin(0), boxes[..., 2:].amax(0)], -1),
        picture,
        _margin(scenes.images, draw),
    )
