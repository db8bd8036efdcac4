"""What the printing tests share: a sticker to print, and pages as pixels by poppler."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pikepdf
import pytest
import torch
from bundle_fixtures import demo_bundle
from PIL import Image

from physadv.patches.bundle import PatchBundle

needs_poppler = pytest.mark.skipif(
    shutil.which("pdftoppm") is None, reason="pdftoppm (poppler-utils) is not installed"
)


def sticker(
    folder: Path, width: float, height: float, patch: torch.Tensor, mask: torch.Tensor | None = None
) -> PatchBundle:
    """A bundle of that size in mm; the mask is full where none is given."""
    return demo_bundle(folder, patch, size=(width, height), below=150.0, mask=mask)


def noise(h: int, w: int, seed: int = 4) -> torch.Tensor:
    """A random picture (1, 3, h, w)."""
    return torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(seed))


def poppler(
    pdf: Path, page: int = 1, dpi: int = 600, crop: tuple[int, int, int, int] | None = None
) -> np.ndarray:
    """A page (from 1), or x, y, w, h pixels of it, as (h, w, 3) uint8 by pdftoppm."""
    part = (
        []
        if crop is None
        else [a for k, v in zip("xyWH", crop, strict=True) for a in (f"-{k}", str(v))]
    )
    out = pdf.with_name(f"{pdf.stem}-{page}-{dpi}")
    command = [
        "pdftoppm",
        "-r",
        str(dpi),
        "-f",
        str(page),
        "-l",
        str(page),
        "-singlefile",
        *part,
        str(pdf),
        str(out),
    ]
    subprocess.run(command, check=True, capture_output=True)
    return np.asarray(Image.open(out.with_suffix(".ppm")).convert("RGB"))


def without_cut_line(pdf: Path) -> Path:
    """A copy whose cut line's layer is switched off, so that the picture alone can be measured."""
    out = pdf.with_name(f"{pdf.stem}-bare.pdf")
    with pikepdf.open(pdf) as document:
        settings = document.Root.OCProperties
        settings.D.OFF, settings.D.ON = settings.OCGs, pikepdf.Array([])
        document.save(out)
    return out
