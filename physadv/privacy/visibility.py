"""Visibility of a change: structural dissimilarity, color difference, PSNR, largest change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import log10

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from kornia.metrics import ssim
from torch import Tensor

from physadv.core.color import de00, de00_of_srgb, lab
from physadv.core.tensors import exact_device

_SIGMA, _RADIUS = 1.5, 5
_BAND_PIXELS = 250_000
"""Pixels that are compared at once."""
_MATRIX_SIDE = 256
"""Longest side in px of pictures that are blurred by a matrix."""
_LUMINANCE = (0.2126, 0.7152, 0.0722)
_EYE_PX = 1.0
"""Sigma in px of the blur of an eye before a screen at 100 %: 60 px a degree of sight, at which
sensitivity to contrast halves at about ten periods a degree."""
_PATCH = 1 / 40
"""Sigma of a patch of skin, as a share of the face box."""
_FLAT = 0.6
"""Share of a face box that counts as flat."""
_SCALES_SIDE = 512
"""Longest side in px at which MS-SSIM is measured; larger faces are reduced to it."""
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Weights of MS-SSIM's scales, finest first (Wang et al., 2003)."""


@dataclass(frozen=True)
class ImageChange:
    """Change of one face box.

    Attributes:
        linf: Largest change of a value in 8-bit steps.
        dssim: Structural dissimilarity in [0, 0.5].
        psnr: Peak signal to noise ratio in dB; inf if equal.
        color: Mean CIEDE2000 as an eye before a screen at 100 % sees it; None where not
            measured.
        patches: CIEDE2000 that 99 % of patches of flat skin, of a fortieth of the box, stay below:
            what shows as blotches and other skin; None where not measured.
        ms_ssim: Structural similarity over several scales, 1 if equal; None where not measured.
        features: Distance of :mod:`physadv.privacy.feature_distance`, 0 if equal; None where not
            measured.
    """

    linf: int
    dssim: float
    psnr: float
    color: float | None = None
    patches: float | None = None
    ms_ssim: float | None = None
    features: float | None = None


def dssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural dissimilarity (1 - SSIM) / 2, (b,), of ``first`` and ``second``, (b,
    3, h, w) in [0, 1].

    0 is equal, 0.5 has nothing in common. SSIM after Wang et al. (2004): Gaussian window of 11 px,
    sigma 1.5, on each of R, G and B, averaged. Sides under 11 px are padded by their border.

    Example:
        >>> import torch
        >>> float(dssim(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)))
        0.0
    """
    return dssim_map(first, second).mean((1, 2, 3))


def dssim_map(first: Tensor, second: Tensor) -> Tensor:
    """Return the dissimilarity of ``first`` and ``second`` in each window and channel: (b, 3, h -
    10, w - 10)."""
    similarity: Tensor = ssim(
        _padded(first), _padded(second), 2 * _RADIUS + 1, eps=0.0, padding="valid"
    )
    return (1 - similarity) / 2


def ms_ssim(first: Tensor, second: Tensor) -> Tensor:
    """Return the structural similarity over several scales, MS-SSIM (b,), of ``first`` and
    ``second``, (b, 3, h, w) in [0, 1].

    1 is equal. Each of up to five scales halves the one before (Wang et al., 2003). Where a side is
    under 176 px, only the scales that have the window of 11 px count, by the same weights scaled to
    a sum of 1.

    Example:
        >>> import torch
        >>> float(ms_ssim(torch.ones(1, 3, 16, 16), torch.ones(1, 3, 16, 16)))
        1.0
    """
    one, other = _padded(first), _padded(second)
    window = 2 * _RADIUS + 1
    fitting = [k for k in range(len(_SCALE_WEIGHTS)) if min(one.shape[-2:]) >> k >= window]
    weights = torch.tensor(_SCALE_WEIGHTS[: len(fitting)])
    similarity = torch.ones(len(one)).to(one)
    for scale, weight in enumerate((weights / weights.sum()).tolist()):
        light, contrast = _ssim_parts(one, other)
        counted = light * contrast if scale == fitting[-1] else contrast
        similarity = similarity * counted.mean((1, 2, 3)).clamp_min(0) ** weight
        one, other = F.avg_pool2d(one, 2), F.avg_pool2d(other, 2)
    return similarity


def reduced_ms_ssim(before: Tensor, after: Tensor) -> float:
    """Return the MS-SSIM of two face boxes, (3, h, w) in [0, 1] or uint8, at 512 px at most."""
    factor = min(1.0, _SCALES_SIDE / max(before.shape[-2:]))
    size = tuple(max(1, round(side * factor)) for side in before.shape[-2:])
    # Channel by channel: all three at once as floats take several times the memory of the photo.
    pair = [
        torch.cat([_reduced(plane, size) for plane in each[:, None]], 1) for each in (before, after)
    ]
    return float(ms_ssim(*pair))


def _reduced(plane: Tensor, size: tuple[int, ...]) -> Tensor:
    unit = _unit(plane[None])
    if tuple(unit.shape[-2:]) == size:
        return unit
    return F.interpolate(unit, size, mode="bilinear", antialias=True, align_corners=False)


def _ssim_parts(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of SSIM in each window and channel: of the means, and of contrast with
    structure."""
    low, high = 0.01**2, 0.03**2
    means = _blurred(first), _blurred(second)
    product = means[0] * means[1]
    squares = means[0] ** 2 + means[1] ** 2
    together = _blurred(first * second) - product
    spread = _blurred(first * first) + _blurred(second * second) - squares
    return (2 * product + low) / (squares + low), (2 * together + high) / (spread + high)


def measure_change(before: Tensor, after: Tensor) -> ImageChange:
    """Measure the change from ``before`` to ``after``, both (3, h, w) in [0, 1] or uint8."""
    exact = exact_device(before.device)
    before, after = before.to(exact), after.to(exact)
    height, width = before.shape[-2:]
    first, second = _padded(before[None]), _padded(after[None])
    squares = largest = unlike = 0.0
    step = max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        rows = slice(top, top + step)
        difference = (_unit(after[:, rows]) - _unit(before[:, rows])).double()
        largest = max(largest, float(difference.abs().max()))
        squares += float((difference**2).sum())
    for top in range(0, first.shape[2] - 2 * _RADIUS, step):
        rows = slice(top, top + step + 2 * _RADIUS)
        bands = _unit(first[:, :, rows]), _unit(second[:, :, rows])
        unlike += float(dssim_map(*bands).double().sum())

    error = squares / before.numel()
    windows = before.shape[0] * (first.shape[2] - 2 * _RADIUS) * (first.shape[3] - 2 * _RADIUS)
    psnr = -10 * log10(error) if error > 0 else float("inf")
    return ImageChange(round(largest * 255), unlike / windows, psnr)


def _unit(x: Tensor) -> Tensor:
    """Pixels in [0, 1], of uint8 or as they are."""
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def lightness(rgb: Tensor) -> Tensor:
    """Return CIELAB lightness L* (b, 1, h, w) of sRGB ``rgb`` (b, 3, h, w) in [0, 1];
    differentiable."""
    linear = torch.where(rgb <= 0.04045, rgb / 12.92, ((rgb.clamp_min(0) + 0.055) / 1.055) ** 2.4)
    weights = torch.tensor(_LUMINANCE).to(rgb).view(1, 3, 1, 1)
    y = (linear * weights).sum(1, keepdim=True)
    root = torch.where(y > 0.008856, y.clamp_min(0.008856) ** (1 / 3), 7.787 * y + 16 / 116)
    return 116 * root - 16


def seen_color_change(before: Tensor, after: Tensor) -> float:
    """Return the mean CIEDE2000 from ``before`` to ``after``, both (3, h, w) in [0, 1] or uint8.

    Both are blurred first as by an eye before a screen at 100 % (S-CIELAB, Zhang & Wandell, 1997,
    with one Gaussian).
    """
    height, width = before.shape[-2:]
    reach = max(1, round(3 * _EYE_PX))
    total, step = 0.0, max(1, _BAND_PIXELS // width)
    for top in range(0, height, step):
        first, last = max(0, top - reach), min(height, top + step + reach)
        seen = [gaussian_blur(_unit(x[None, :, first:last]), _EYE_PX)[0] for x in (before, after)]
        band = slice(top - first, min(height, top + step) - first)
        total += float(_differences(seen[0][:, band], seen[1][:, band]).sum())
    return total / (height * width)


def patch_color_change(before: Tensor, after: Tensor) -> float:
    """Return the CIEDE2000 that 99 % of flat patches stay below, from ``before`` to ``after``, both
    (1, 3, h, w) in [0, 1] at any size.

    A patch has a fortieth of the box as its sigma: small enough for a blotch. It is flat where the
    lightness around it varies by less than in two fifths of the box.
    """
    return ReferenceBox(before).patch_color_change(after)


class ReferenceBox:
    """A face box that many others are compared with; what depends on it alone is computed once.

    Args:
        box: Face box (1, 3, h, w) in [0, 1].

    Example:
        >>> import torch
        >>> float(ReferenceBox(torch.ones(1, 3, 16, 16)).dssim(torch.ones(1, 3, 16, 16)))
        0.0
    """

    def __init__(self, box: Tensor) -> None:
        self._box = _padded(box.detach())
        blurred = _blurred(torch.cat([self._box, self._box * self._box], 1))
        self._mean, self._square = blurred.chunk(2, 1)

        self._sigma = max(1.0, max(box.shape[-2:]) * _PATCH)
        light = lightness(box.detach())
        mean = gaussian_blur(light, self._sigma)
        contrast = (gaussian_blur(light * light, self._sigma) - mean * mean)[0, 0].cpu().numpy()
        self._flat: npt.NDArray[np.bool_] = contrast <= np.quantile(contrast, _FLAT)
        self._colors = lab(self._flat_patches(box))

    def dssim(self, after: Tensor) -> Tensor:
        """Return the DSSIM (1,) of another box ``after`` (1, 3, h, w), as :func:`dssim` does;
        differentiable."""
        low, high = 0.01**2, 0.03**2
        other = _padded(after)
        maps = _blurred(torch.cat([other, other * other, self._box * other], 1))
        mean, square, product = maps.chunk(3, 1)
        both, means = self._mean * mean, self._mean**2 + mean**2
        similarity = (
            (2 * both + low)
            * (2 * (product - both) + high)
            / ((means + low) * (self._square + square - means + high))
        )
        unlike: Tensor = (1 - similarity) / 2
        return unlike.mean((1, 2, 3))

    def patch_color_change(self, after: Tensor) -> float:
        """Return the CIEDE2000 that 99 % of flat patches stay below, to ``after`` (1, 3, h, w)."""
        return float(np.quantile(self._differences(after), 0.99))

    def patch_room(self, after: Tensor, most: float) -> Tensor:
        """Return the share of a change that each place may keep so that flat patches keep a limit.

        Args:
            after: The box (1, 3, h, w) in [0, 1], changed.
            most: Largest CIEDE2000 of a flat patch.

        Returns:
            Shares (1, 1, h, w) in (0, 1].
        """
        kept = np.ones(self._flat.shape)
        kept[self._flat] = most / np.maximum(self._differences(after), most)
        room = torch.from_numpy(kept).to(after)[None, None]
        reach = round(2 * self._sigma)
        least = -F.max_pool2d(F.pad(-room, (reach,) * 4, mode="replicate"), 2 * reach + 1, 1)
        return gaussian_blur(least, self._sigma)

    def _differences(self, after: Tensor) -> npt.NDArray[np.float64]:
        """CIEDE2000 (n,) of the flat patches."""
        return de00(self._colors, lab(self._flat_patches(after)))

    def _flat_patches(self, box: Tensor) -> npt.NDArray[np.float32]:
        """Colors (n, 3) of ``box`` (1, 3, h, w), each the mean of a patch that is flat."""
        blurred = gaussian_blur(box.detach(), self._sigma)[0].clamp(0, 1)
        colors: npt.NDArray[np.float32] = blurred.permute(1, 2, 0).cpu().numpy()[self._flat]
        return colors


def _differences(first: Tensor, second: Tensor) -> npt.NDArray[np.float64]:
    """CIEDE2000 (h, w) of two pictures (3, h, w)."""
    one, other = (x.detach().clamp(0, 1).permute(1, 2, 0).cpu().numpy() for x in (first, second))
    return de00_of_srgb(one, other)


def _padded(x: Tensor) -> Tensor:
    """Short sides get a border, so that the window fits."""
    h, w = (max(0, 2 * _RADIUS + 1 - side) for side in x.shape[-2:])
    border = (w // 2, w - w // 2, h // 2, h - h // 2)
    return F.pad(_unit(x), border, mode="replicate") if h or w else x


def gaussian_blur(x: Tensor, sigma: float) -> Tensor:
    """Blur ``x`` (b, c, h, w) by ``sigma`` px, borders repeated; differentiable."""
    height, width = x.shape[-2:]
    if max(height, width) <= _MATRIX_SIDE:
        down, across = (_blur_matrix(n, sigma).to(x) for n in (height, width))
        return down @ x @ across.T
    radius = max(1, round(3 * sigma))
    return _blurred(F.pad(x, (radius,) * 4, mode="replicate"), sigma, radius)


@lru_cache(maxsize=64)
def _blur_matrix(side: int, sigma: float) -> Tensor:
    """The blur of ``side`` values as a matrix (side, side): of small pictures it is several times
    faster than a convolution."""
    radius = max(1, round(3 * sigma))
    spikes = F.pad(torch.eye(side, dtype=torch.float64)[:, None], (radius, radius), "replicate")
    return F.conv1d(spikes, _window(sigma, radius, spikes)[None, None])[:, 0].T.float()


def _window(sigma: float, radius: int, like: Tensor) -> Tensor:
    """Gaussian weights (2 radius + 1,) with a sum of 1, of the type of ``like``."""
    reach = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    window = torch.exp(-(reach**2) / (2 * max(sigma, 1e-3) ** 2))
    return window / window.sum()


def _blurred(x: Tensor, sigma: float = _SIGMA, radius: int = _RADIUS) -> Tensor:
    """Gaussian window, valid part only."""
    window = _window(sigma, radius, x).expand(x.shape[1], 1, 1, -1)
    across = F.conv2d(x, window, groups=x.shape[1])
    return F.conv2d(across, window.transpose(2, 3), groups=x.shape[1])
