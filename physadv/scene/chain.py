"""Between the placed patch and the victim: parameters are sampled first, then applied, so that any draw replays."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from physadv.scene import optics, photometry
from physadv.scene.codec import jpeg
from physadv.scene.placement import Placement, place
from physadv.scene.presets import EotRanges, Range
from physadv.scene.printer import printed_light
from physadv.scene.scenes import SceneBatch


@dataclass(frozen=True)
class Draw:
    """Parameters of one EOT draw for b scenes; every field is a tensor, (b,) unless said otherwise."""

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
    quality: Tensor

    def to(self, device: torch.device) -> Draw:
        """The same draw on another device: it is always made on the CPU."""
        return Draw(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def sample(scenes: SceneBatch, ranges: EotRanges, generator: torch.Generator) -> Draw:
    """Draw everything between the print and the victim for ``scenes``; the generator alone decides."""
    count = len(scenes.images)

    def uniform(bounds: Range, *shape: int) -> Tensor:
        return bounds[0] + (bounds[1] - bounds[0]) * torch.rand(*(shape or (count,)), generator=generator)

    leak = uniform(ranges.ink_mixing, 3, 3) / 2
    mixing = leak - torch.diag(leak.diagonal())
    mixing = mixing + torch.diag(1 - mixing.sum(1))
    balance = torch.ones(count, 3)
    balance[:, 0], balance[:, 2] = uniform(ranges.white_balance), uniform(ranges.white_balance)
    # A sign seen small is enlarged to the victim's input: the blur of that belongs to its distance.
    return Draw(
        black=uniform(ranges.ink_black, 1).expand(3) * uniform((0.85, 1.15), 3),
        white=uniform(ranges.paper_white, 1).expand(3) * uniform((0.96, 1.04), 3),
        mixing=mixing,
        ev=uniform(ranges.exposure_ev),
        white_balance=balance,
        contrast=uniform(ranges.contrast),
        brightness=uniform(ranges.brightness),
        gamma=uniform(ranges.gamma),
        sigma=(uniform(ranges.defocus_px) ** 2 + 0.2 * (scenes.enlargement**2 - 1)).sqrt(),
        motion=uniform(ranges.motion_px),
        motion_angle=uniform((0.0, 3.1416)),
        read=uniform(ranges.read_noise),
        shot=uniform(ranges.shot_noise),
        normal=torch.randn(scenes.images.shape, generator=generator),
        quality=uniform(ranges.jpeg_quality),
    )


def photograph(light: Tensor, draw: Draw) -> Tensor:
    """Exposure, lens, sensor and codec: (b, 3, h, w) linear light -> sRGB in [0, 1]; pure and differentiable."""
    exposed = photometry.expose(light, draw.ev, draw.white_balance)
    seen = optics.lens(exposed, draw.sigma, draw.motion, draw.motion_angle)
    encoded = photometry.tone(photometry.to_srgb(seen.clamp(0, 1)), draw.contrast, draw.brightness, draw.gamma)
    noisy = optics.sensor_noise(encoded, draw.normal, draw.read, draw.shot)
    return jpeg(noisy.clamp(0, 1), draw.quality)


def apply(patch: Tensor, mask: Tensor, placement: Placement, scenes: SceneBatch, draw: Draw) -> Tensor:
    """The whole chain: print the patch, place it on every scene, photograph. (1, 3, ph, pw) -> (b, 3, h, w)."""
    printed = printed_light(patch, draw.black, draw.white, draw.mixing)
    light = photometry.to_linear(scenes.images)
    placed = place(light, printed, mask, scenes.homography, placement, scenes.gain, scenes.lift)
    for further in () if scenes.others is None else scenes.others.unbind(1):
        placed = place(placed, printed, mask, further, placement, scenes.gain, scenes.lift)
    return photograph(placed, draw)


def without_patch(scenes: SceneBatch, draw: Draw) -> Tensor:
    """The clean control: the same scenes under the same draw."""
    return photograph(photometry.to_linear(scenes.images), draw)
