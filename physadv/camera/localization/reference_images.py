"""Square reference pictures of a bundle's sign, by which it is recognized: clean, blank sticker,
patch."""

from __future__ import annotations

import numpy as np

from physadv.camera.localization.boxes import Pixels, resize_box
from physadv.core.errors import OptionError
from physadv.core.image_io import to_uint8
from physadv.core.sign_artwork import sign_face
from physadv.patches.bundle import PatchBundle

SIDE = 480
_AROUND = 128


def reference_images(bundle: PatchBundle) -> dict[str, Pixels]:
    """Render the sign of ``bundle`` as (h, w, 3) uint8 squares on gray, by block.

    What is not drawn by code, such as a person, is recognized by the patch itself, see
    :func:`shows_sign`.
    """
    placement = bundle.card.placement
    if not shows_sign(bundle):
        return {"patch": _alone(bundle)}
    face = sign_face(placement.sign, SIDE).rgba.astype(np.float64)

    opaque = face[..., 3:] / 255
    clean = (face[..., :3] * opaque + _AROUND * (1 - opaque)).round().astype(np.uint8)
    white = np.full((*bundle.patch.shape[-2:], 3), 244, np.uint8)
    return {
        "clean": clean,
        "blank": _worn(clean, white, bundle),
        "patch": _worn(clean, to_uint8(bundle.patch), bundle),
    }


def shows_sign(bundle: PatchBundle) -> bool:
    """Return whether the reference pictures of ``bundle`` show a whole sign, which code draws, or
    the patch alone."""
    try:
        sign_face(bundle.card.placement.sign, 16)
    except OptionError:
        return False
    return True


def _alone(bundle: PatchBundle) -> Pixels:
    """Return the patch in the middle of a square as large as its longer side."""
    size = bundle.card.size
    scale = SIDE / max(size.width_mm, size.height_mm)
    w, h = max(1, round(size.width_mm * scale)), max(1, round(size.height_mm * scale))
    picture = np.full((SIDE, SIDE, 3), _AROUND, np.uint8)
    top, left = (SIDE - h) // 2, (SIDE - w) // 2
    mask = resize_box(to_uint8(bundle.mask)[..., 0], w, h) >= 128
    patch = resize_box(to_uint8(bundle.patch), w, h)
    picture[top : top + h, left : left + w][mask] = patch[mask]
    return picture


def _worn(sign: Pixels, sticker: Pixels, bundle: PatchBundle) -> Pixels:
    size, placement = bundle.card.size, bundle.card.placement
    scale = SIDE / placement.sign_width_mm
    w, h = max(1, round(size.width_mm * scale)), max(1, round(size.height_mm * scale))
    x = round(SIDE / 2 + placement.center_mm[0] * scale - w / 2)
    y = round(SIDE / 2 + placement.center_mm[1] * scale - h / 2)

    picture = sign.copy()
    left, top, right, bottom = max(x, 0), max(y, 0), min(x + w, SIDE), min(y + h, SIDE)
    if right <= left or bottom <= top:
        return picture

    inside = slice(top - y, bottom - y), slice(left - x, right - x)
    mask = resize_box(to_uint8(bundle.mask)[..., 0], w, h)[inside] >= 128
    picture[top:bottom, left:right][mask] = resize_box(sticker, w, h)[inside][mask]
    return picture
