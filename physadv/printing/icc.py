"""Color on paper: sRGB as the default output intent, or a print shop's CMYK profile with a soft
proof.

A proof is what the profile predicts, not a measurement of a print.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

from physadv.core.color import de00
from physadv.core.errors import OptionError
from physadv.core.image_io import Array

INTENTS = {
    "perceptual": ImageCms.Intent.PERCEPTUAL,
    "relative": ImageCms.Intent.RELATIVE_COLORIMETRIC,
    "saturation": ImageCms.Intent.SATURATION,
    "absolute": ImageCms.Intent.ABSOLUTE_COLORIMETRIC,
}
FAR = 5.0
"""dE00 above which a color counts as clearly missed."""
_DATE = slice(24, 36)  # of an ICC header


@dataclass(frozen=True)
class SoftProof:
    """What a profile predicts of a picture: dE00 between wish and print (paper white taken as
    white), and its ink."""

    mean: float
    p95: float
    worst: float
    share_far: float
    most_ink_percent: float


def srgb_profile() -> bytes:
    """The sRGB profile as ICC bytes, without the date of its making, so that the same sheet gives
    the same file."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    data[_DATE] = bytes([0x07, 0xD0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0])  # 2000-01-01
    return bytes(data)


class PressProfile:
    """A print shop's CMYK profile: converts pictures for it, and predicts how they will look.

    ``intent`` is relative (with black-point compensation), perceptual, saturation or absolute.
    Raises OptionError for a file that is no CMYK output profile, naming what it is.
    """

    def __init__(self, profile: str | Path, *, intent: str = "relative") -> None:
        if intent not in INTENTS:
            raise OptionError(
                f"intent {intent!r}", f"one of {', '.join(INTENTS)}", "Correct the name"
            )
        self.path, self.intent = Path(profile), intent
        if not self.path.is_file():
            raise OptionError(f"ICC profile {self.path}", "no such file", "Check the path")
        self.data = self.path.read_bytes()
        self._profile = self._read()
        self.name = ImageCms.getProfileDescription(self._profile).strip() or self.path.stem

    def _read(self) -> Any:
        remedy = "give the CMYK output profile of your print shop, e.g. one of ISO Coated or GRACoL"
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(self.data))
        except (ImageCms.PyCMSError, OSError) as error:
            raise OptionError(f"ICC profile {self.path}", "not an ICC profile", remedy) from error
        space = profile.profile.xcolor_space.strip()
        if space != "CMYK" or not profile.profile.is_intent_supported(INTENTS[self.intent], 1):
            kind = f"colour space {space}" if space != "CMYK" else "it cannot be printed with"
            raise OptionError(
                f"ICC profile {self.path}", f"{kind}; a CMYK output profile is needed", remedy
            )
        return profile

    @cached_property
    def _to_press(self) -> Any:
        flags = (
            ImageCms.Flags.BLACKPOINTCOMPENSATION
            if self.intent == "relative"
            else ImageCms.Flags.NONE
        )
        srgb = ImageCms.createProfile("sRGB")
        return ImageCms.buildTransform(
            srgb, self._profile, "RGB", "CMYK", INTENTS[self.intent], flags
        )

    def convert(self, rgb: Array) -> Array:
        """sRGB (h, w, 3) -> ink (h, w, 4), 255 is solid; transparency is no business of this."""
        return np.asarray(self._inked(rgb), np.uint8)

    def proof(self, rgb: Array) -> Array:
        """sRGB (h, w, 3) -> sRGB as the profile predicts the print, seen with its paper as white."""
        return self._seen(rgb, ImageCms.createProfile("sRGB"), "RGB")

    def judge(
        self, rgb: Array, inside: npt.NDArray[np.bool_]
    ) -> tuple[SoftProof, npt.NDArray[np.float64]]:
        """How far the print will be off over the pixels ``inside`` (h, w), and dE00 of every pixel
        (h, w)."""
        lab = ImageCms.createProfile("LAB")
        way = ImageCms.buildTransform(
            ImageCms.createProfile("sRGB"), lab, "RGB", "LAB", INTENTS["relative"]
        )
        wished = np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), way), np.uint8)
        off = de00(_lab(wished), _lab(self._seen(rgb, lab, "LAB")))
        there = off[inside]
        ink = self.convert(rgb).astype(np.float64).sum(-1)[inside].max() / 255 * 100
        figures = (there.mean(), np.quantile(there, 0.95), there.max(), (there > FAR).mean(), ink)
        return SoftProof(*map(float, figures)), off

    def _inked(self, rgb: Array) -> Any:
        return ImageCms.applyTransform(Image.fromarray(rgb), self._to_press)

    def _seen(self, rgb: Array, space: Any, mode: str) -> Array:
        way = ImageCms.buildTransform(self._profile, space, "CMYK", mode, INTENTS["relative"])
        return np.asarray(ImageCms.applyTransform(self._inked(rgb), way), np.uint8)


def _lab(eight_bit: Array) -> npt.NDArray[np.float64]:
    """8-bit Lab as Pillow hands it out (a and b in two's complement) -> L 0 to 100, a and b -128 to
    127."""
    signed = eight_bit[..., 1:].astype(np.int8).astype(np.float64)
    return np.concatenate([eight_bit[..., :1] / 2.55, signed], -1)
