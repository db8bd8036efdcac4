"""The sticker's picture for printing: with its mask as alpha, or extended beyond the cut as
bleed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

import cv2
import numpy as np

from physadv.core.image_io import Array, to_uint8
from physadv.patches.bundle import PatchBundle
from physadv.printing.layout import PageRect

MIN_DPI = 300
_MAX_PIXELS = 8000


@dataclass(frozen=True)
class StickerArtwork:
    """The sticker's picture and its extent beyond the cut.

    Attributes:
        rgba: Picture (h, w, 4) uint8.
        beyond: Extent beyond the cut rectangle in mm, across and down.
    """

    rgba: Array
    beyond: tuple[float, float] = (0.0, 0.0)

    def around(self, sticker: PageRect) -> PageRect:
        """Return the rectangle of the whole picture when the cut rectangle is ``sticker``."""
        x, y = self.beyond
        return PageRect(sticker.x - x, sticker.y - y, sticker.w + 2 * x, sticker.h + 2 * y)


def turned_bundle(bundle: PatchBundle) -> PatchBundle:
    """Return ``bundle`` as it lies on a sheet on which it is turned by 90 degrees: what was its top
    is on the left. Its size is swapped; its place on the sign is that of the upright one."""
    size = bundle.card.size
    swapped = replace(size, width_mm=size.height_mm, height_mm=size.width_mm)
    return replace(
        bundle,
        card=replace(bundle.card, size=swapped),
        patch=bundle.patch.rot90(1, (-2, -1)),
        mask=bundle.mask.rot90(1, (-2, -1)),
    )


def sticker_art(bundle: PatchBundle) -> StickerArtwork:
    """Return the artwork of ``bundle`` with its mask as alpha; every pixel is the bundle's."""
    rgba = np.dstack([to_uint8(bundle.patch), to_uint8(bundle.mask)])
    return StickerArtwork(_repeated(rgba, _pixel_mm(bundle)))


def bleed_art(bundle: PatchBundle, bleed: float) -> StickerArtwork:
    """Extend the sticker beyond its shape: every added pixel repeats the nearest one inside.

    Pixels inside the mask are the bundle's. The picture ends on whole pixels, so the page has to
    clip it to the bleed.

    Args:
        bundle: Patch to print.
        bleed: Least extent in mm.

    Returns:
        The artwork.
    """
    size, pixel = bundle.card.size, _pixel_mm(bundle)
    across, down = (ceil(bleed / side - 1e-9) for side in pixel)
    inside = np.pad(to_uint8(bundle.mask)[:, :, 0] >= 128, ((down, down), (across, across)))
    rgb = np.pad(to_uint8(bundle.patch), ((down, down), (across, across), (0, 0)), mode="edge")

    # Labels number the inside pixels; each pixel gets the label of the nearest one.
    _, labels = cv2.distanceTransformWithLabels(
        np.asarray(~inside, np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL
    )

    colors = np.zeros((int(labels.max()) + 1, 3), np.uint8)
    colors[labels[inside]] = rgb[inside]
    reach = cv2.dilate(
        np.asarray(inside, np.uint8), np.ones((2 * down + 1, 2 * across + 1), np.uint8)
    )

    rgba = np.dstack([colors[labels], reach * 255]).astype(np.uint8)
    beyond = (
        across * size.width_mm / bundle.patch.shape[-1],
        down * size.height_mm / bundle.patch.shape[-2],
    )
    return StickerArtwork(_repeated(rgba, pixel), beyond)


def _pixel_mm(bundle: PatchBundle) -> tuple[float, float]:
    h, w = bundle.patch.shape[-2:]
    return bundle.card.size.width_mm / w, bundle.card.size.height_mm / h


def _repeated(rgba: Array, pixel_mm: tuple[float, float]) -> Array:
    """Repeat pixels, without interpolation, until viewers have no reason to smooth them; the
    resolution is about the same across and down."""
    across, down = (
        max(1, min(ceil(MIN_DPI * side / 25.4), _MAX_PIXELS // max(rgba.shape[:2])))
        for side in pixel_mm
    )
    return np.ascontiguousarray(rgba.repeat(down, 0).repeat(across, 1))
