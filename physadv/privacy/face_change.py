"""Parameters of a cloak's change: a small shift of edges and a small gain of light.

Shifted edges leave flat skin as it is, and a gain keeps the color of eyes, lips and teeth. The gain
is bounded by what the eye misses: a just noticeable difference on flat skin, more where texture
masks it. A line (hairline, brow, jaw) is no texture: it masks little, and where parts of it shift
apart it wavers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.privacy.visibility import gaussian_blur, lightness

_TEXTURE_PX = 1.2
"""Sigma in px of a 112 px face, of the neighborhood whose texture masks a change."""
_LINE_PX = 2.0
"""Sigma in px of a 112 px face, of the neighborhood whose edges are compared for one direction."""
_LINE_SLOPE = 1.0
"""Lightness a px at which an edge of one direction counts half as a line."""
_LINE_MASKS = 0.2
"""Share of a line's contrast that masks a change."""
_LEAST_SLOPE = 4.0
"""Least lightness a unit of gain, which bounds the gain of black."""
_BAND_PIXELS = 250_000
"""Pixels of a large face that are moved at once."""
_KERNEL_PX = 3
"""Reach of the bicubic kernel, rounded up."""


@dataclass(frozen=True)
class ChangeLimits:
    """Limits of the change at each place.

    Attributes:
        flat: Largest change of lightness on flat skin, in units of CIELAB L*; 1 is about just
            noticeable.
        masking: Additional lightness a unit of the texture's own contrast in L*.
        most: Largest change of lightness anywhere.
        shift: Farthest shift of an edge, in px of a 112 px face.
        brighter: Times as much that lightness may rise as fall: what is darker looks like a fold or
            a bruise, what is brighter like light.
    """

    flat: float = 0.7
    masking: float = 0.3
    most: float = 4.0
    shift: float = 1.0
    brighter: float = 1.0


def masking_texture(box: Tensor) -> Tensor:
    """Return the contrast in L* around each place of a face ``box`` (1, 3, h, w) in [0, 1], (1, 1,
    h, w).

    Only detail counts: it is 0 on a smooth shade, where a change would be seen as a wrinkle, and
    beside a lone edge, where it would be seen as a halo.
    """
    light = lightness(box)
    sigma = max(1.0, max(box.shape[-2:]) / 112 * _TEXTURE_PX)
    detail = light - gaussian_blur(light, sigma)
    contrast = gaussian_blur(detail * detail, sigma).sqrt()
    reach = max(1, round(sigma))
    padded = F.pad(-contrast, (reach,) * 4, mode="replicate")
    return gaussian_blur(-F.max_pool2d(padded, 2 * reach + 1, 1), 0.7 * sigma)


def line_share(box: Tensor) -> Tensor:
    """Return how much each place of a face ``box`` (1, 3, h, w) in [0, 1] belongs to a line, (1, 1,
    h, w) in [0, 1].

    It is the coherence of the structure tensor of L* (Weickert, 1999), by how steep the edge is: 1
    along a strong edge of one direction, 0 in a texture of all directions and on a smooth shade.
    """
    sigma = max(1.0, max(box.shape[-2:]) / 112 * _LINE_PX)
    light = F.pad(gaussian_blur(lightness(box), sigma / 2), (1,) * 4, mode="replicate")
    across = (light[..., 1:-1, 2:] - light[..., 1:-1, :-2]) / 2
    down = (light[..., 2:, 1:-1] - light[..., :-2, 1:-1]) / 2

    products = torch.cat([across * across, down * down, across * down], 1)
    xx, yy, xy = gaussian_blur(products, sigma).chunk(3, 1)
    energy = xx + yy
    coherence = ((xx - yy) ** 2 + 4 * xy * xy).sqrt() / (energy + _LINE_SLOPE**2 / 4)
    slope = energy.sqrt()
    share: Tensor = coherence * slope / (slope + _LINE_SLOPE)
    return share


@dataclass(frozen=True)
class GainLimits:
    """Largest gains at each place of a face, as shares of its values.

    Attributes:
        darker: Largest loss of light (1, 1, h, w).
        brighter: Times as much that light may grow.
    """

    darker: Tensor
    brighter: float

    @classmethod
    def of(cls, box: Tensor, limits: ChangeLimits) -> GainLimits:
        """Return the gains of a face ``box`` (1, 3, h, w) in [0, 1] whose change of lightness
        keeps ``limits``."""
        masks = masking_texture(box) * (1 - (1 - _LINE_MASKS) * line_share(box))
        allowed = (limits.flat + limits.masking * masks).clamp_max(limits.most)
        slope = (lightness((1.02 * box).clamp(0, 1)) - lightness(0.98 * box)) / 0.04
        return cls(allowed / slope.clamp_min(_LEAST_SLOPE), limits.brighter)

    def gain(self, share: Tensor) -> Tensor:
        """Return the gain (1, 1, h, w) of a ``share`` in [-1, 1] of the largest at each place."""
        return share * self._largest(share)

    def share(self, gain: Tensor) -> Tensor:
        """Return the share that :meth:`gain` makes ``gain`` of."""
        return gain / self._largest(gain)

    def _largest(self, signed: Tensor) -> Tensor:
        return torch.where(signed < 0, self.darker, self.brighter * self.darker)


def changed_box(box: Tensor, gain: Tensor, flow: Tensor, largest: float) -> Tensor:
    """Apply a change to a face box; differentiable.

    Args:
        box: Face box (1, 3, h, w) in [0, 1].
        gain: Gain (1, 1, h, w) as a share of the values.
        flow: Shift (1, 2, h, w) in px, x and y: where each pixel takes its value from.
        largest: Largest change of a value, in [0, 1].

    Returns:
        Changed face box (1, 3, h, w), not clipped to [0, 1].
    """
    moved = _moved_rows(box, flow, 0)
    return box + (moved * (1 + gain) - box).clamp(-largest, largest)


def rendered_box(original: Tensor, gain: Tensor, flow: Tensor, linf: int) -> Tensor:
    """Apply a change at the photo's own size, in whole 8-bit steps.

    Args:
        original: Face box (3, h, w) uint8 of the photo.
        gain: Gain (1, 1, gh, gw) at the working size; it is enlarged.
        flow: Shift (1, 2, gh, gw) in px of the working size; it is enlarged.
        linf: Largest change of a value in 8-bit steps.

    Returns:
        Face box (3, h, w) uint8.
    """
    height, width = original.shape[-2:]
    scale = torch.tensor([width / flow.shape[-1], height / flow.shape[-2]]).to(flow)
    both = torch.cat([gain, flow * scale[:, None, None]], 1)
    reach = int(both[:, 2].abs().max()) + _KERNEL_PX

    # In bands, as a face of a large photo has tens of megapixels.
    done = original.clone()
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        part = _enlarged_rows(both, (height, width), top, bottom)
        first, last = max(0, top - reach), min(height, bottom + reach)
        around = original[None, :, first:last].to(flow) / 255
        moved = _moved_rows(around, part[:, 1:], top - first)
        band = original[:, top:bottom].to(flow)
        steps = (moved[0] * (1 + part[0, :1]) * 255 - band).round_().clamp_(-linf, linf)
        done[:, top:bottom] = (band + steps).clamp_(0, 255).to(torch.uint8)
    return done


def _enlarged_rows(both: Tensor, size: tuple[int, int], top: int, bottom: int) -> Tensor:
    """Rows from ``top`` to ``bottom`` of ``both`` (1, c, gh, gw), enlarged to ``size``."""
    if tuple(both.shape[-2:]) == size:
        return both[:, :, top:bottom]
    still = torch.zeros(1, 2, bottom - top, size[1]).to(both)
    grid = _grid(still, size, top)
    rows: Tensor = F.grid_sample(both, grid, padding_mode="border", align_corners=False)
    return rows


def _moved_rows(box: Tensor, flow: Tensor, top: int) -> Tensor:
    """The rows of ``box`` from ``top`` on, each pixel taken from where ``flow`` says."""
    height, width = box.shape[-2:]
    moved: Tensor = F.grid_sample(
        box,
        _grid(flow, (height, width), top),
        mode="bicubic",
        padding_mode="border",
        align_corners=False,
    )
    return moved


def _grid(flow: Tensor, size: tuple[int, int], top: int) -> Tensor:
    """Sampling grid of the rows from ``top`` on of a picture of ``size``, shifted by ``flow``."""
    height, width = size
    rows = torch.arange(flow.shape[-2], device=flow.device) + 0.5 + top
    columns = torch.arange(width, device=flow.device) + 0.5
    x = (columns + flow[:, 0]) * (2 / width) - 1
    y = (rows[:, None] + flow[:, 1]) * (2 / height) - 1
    return torch.stack([x, y], -1)
