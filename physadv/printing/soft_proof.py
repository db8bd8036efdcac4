"""Soft proof as a picture: the design, the profile's prediction, and their difference."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from physadv.core.files import beside
from physadv.core.image_io import Array, save_png, to_uint8
from physadv.patches.bundle import PatchBundle
from physadv.printing.icc import FAR, PressProfile, SoftProof

_SIDE, _GAP, _HEAD, _FOOT = 420, 16, 34, 62


def write_proof(bundle: PatchBundle, press: PressProfile, pdf: Path) -> tuple[Path, SoftProof]:
    """Write ``<name of the PDF>-proof.png`` beside the PDF.

    Args:
        bundle: Patch to print.
        press: Output profile of the print shop.
        pdf: File of the sheet.

    Returns:
        The picture's path, and the figures over the sticker's mask.
    """
    rgb, inside = to_uint8(bundle.patch), to_uint8(bundle.mask)[:, :, 0] >= 128
    proof, off = press.compare(rgb, inside)
    heat = np.clip(off / (4 * FAR) * 255, 0, 255).astype(np.uint8)
    missed = cv2.cvtColor(cv2.applyColorMap(heat, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)

    pictures = [
        np.where(inside[..., None], p, 255).astype(np.uint8)
        for p in (rgb, press.proof(rgb), missed)
    ]
    captions = (
        "as designed (sRGB)",
        "as the profile predicts",
        f"difference: black 0, yellow dE00 {4 * FAR:.0f} and more",
    )

    ink = "" if proof.most_ink_percent is None else f"; most ink {proof.most_ink_percent:.0f} %"
    notes = (
        f"{press.name}, intent {press.intent}. Soft proof: what the profile predicts, not a "
        "measured print.",
        f"dE00 mean {proof.mean:.1f}, 95 % under {proof.p95:.1f}, worst {proof.worst:.1f}; "
        f"over {FAR:.0f} on {100 * proof.share_far:.0f} % of the area{ink}",
    )

    path = beside(pdf, "-proof.png")
    save_png(path, _panel(pictures, captions, notes))
    return path, proof


def _panel(pictures: list[Array], captions: tuple[str, ...], notes: tuple[str, ...]) -> Array:
    h, w = pictures[0].shape[:2]
    scale = _SIDE / max(h, w)
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    step = max(size[0], 300) + _GAP

    sheet = Image.new("RGB", (step * len(pictures) + _GAP, size[1] + _HEAD + _FOOT), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    resampling = Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    for i, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
        sheet.paste(Image.fromarray(picture).resize(size, resampling), (_GAP + i * step, _HEAD))
        draw.text((_GAP + i * step, 9), caption, "black", font)

    for i, note in enumerate(notes):
        draw.text((_GAP, size[1] + _HEAD + 10 + 22 * i), note, "black", font)
    return np.asarray(sheet, np.uint8)
