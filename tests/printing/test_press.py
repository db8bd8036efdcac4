"""Color on paper: sRGB by default; a CMYK profile converts the pictures and predicts what the print
misses."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pikepdf
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from press_profiles import cmyk_profile, gray_profile, rgb_profile
from printed import noise, sticker

from physadv.core.errors import OptionError
from physadv.core.image_io import read_rgba
from physadv.printing.icc import PressProfile, srgb_profile
from physadv.printing.sheet import write_sheet


def images(pdf: pikepdf.Pdf) -> list[pikepdf.Stream]:
    """Pictures of a PDF, soft masks left out."""
    streams = [
        o for o in pdf.objects if isinstance(o, pikepdf.Stream) and o.get("/Subtype") == "/Image"
    ]
    return [s for s in streams if s.get("/ColorSpace") != "/DeviceGray"]


def test_pictures_carry_srgb_by_default(tmp_path: Path) -> None:
    """Without a profile, pictures have an sRGB profile that LittleCMS reads, the same bytes each
    time."""
    sheet = write_sheet(sticker(tmp_path / "b", 60, 40, noise(8, 12)), tmp_path / "s.pdf")
    with pikepdf.open(sheet.pdf) as pdf:
        (picture,) = images(pdf)
        kind, profile = picture.ColorSpace
        data = profile.read_bytes()
        assert (kind, int(profile.N)) == ("/ICCBased", 3)
    assert "sRGB" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(io.BytesIO(data)))
    assert data == srgb_profile()
    assert sheet.proof is None
    assert sheet.proof_png is None


@pytest.mark.parametrize(("make", "space"), [(rgb_profile, "RGB"), (gray_profile, "GRAY")])
def test_other_printers_get_their_channels(
    tmp_path: Path, make: Callable[[Path], Path], space: str
) -> None:
    """Pictures for a printer driven in RGB or gray have its channels, and white stays white."""
    press = PressProfile(make(tmp_path / "p.icc"))
    assert press.space == space
    ink = press.convert(np.array([[[255, 255, 255], [0, 0, 0]]], np.uint8))
    assert ink.shape == (1, 2, press.channels)
    assert ink[0, 0].min() >= 250
    assert ink[0, 1].max() <= 60
    bundle = sticker(tmp_path / "b", 60, 40, noise(8, 12))
    sheet = write_sheet(bundle, tmp_path / "s.pdf", press=press)
    with pikepdf.open(sheet.pdf) as pdf:
        streams = [o for o in pdf.objects if isinstance(o, pikepdf.Stream)]
        (picture,) = [o for o in streams if o.get("/Subtype") == "/Image"]
        assert len(picture.read_bytes()) == picture.Width * picture.Height * press.channels
    assert sheet.proof is not None
    assert (sheet.proof.most_ink_percent is None) == (space == "RGB")


def test_cmyk_profile_converts_every_picture(tmp_path: Path) -> None:
    """All pictures are lossless DeviceCMYK, hold what LittleCMS makes of them, and the intent is
    the profile given."""
    profile = cmyk_profile(tmp_path / "press.icc")
    bundle = sticker(tmp_path / "b", 60, 40, noise(8, 12))
    sheet = write_sheet(
        bundle, tmp_path / "s.pdf", press=PressProfile(profile), test_signs=True, sign_dpi=60
    )
    with pikepdf.open(sheet.pdf) as pdf:
        assert {str(i.ColorSpace) for i in images(pdf)} == {"/DeviceCMYK"}
        assert {str(i.Filter) for i in images(pdf)} == {"/FlateDecode"}
        (intent,) = pdf.Root.OutputIntents
        assert intent.DestOutputProfile.read_bytes() == profile.read_bytes()
        assert int(intent.DestOutputProfile.N) == 4
        assert intent.S == "/GTS_PDFX"
        name = next(
            k
            for k, o in pdf.pages[0].obj.Resources.XObject.items()
            if o.ColorSpace == "/DeviceCMYK"
        )
        picture = pdf.pages[0].obj.Resources.XObject[name]
        ink = np.frombuffer(picture.read_bytes(), np.uint8).reshape(
            int(picture.Height), int(picture.Width), 4
        )
    rgb = (bundle.patch[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    way = ImageCms.buildTransform(
        ImageCms.createProfile("sRGB"),
        str(profile),
        "RGB",
        "CMYK",
        1,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    want = np.asarray(ImageCms.applyTransform(Image.fromarray(rgb), way))
    assert np.array_equal(ink[:: ink.shape[0] // 8, :: ink.shape[1] // 12], want)


def test_proof_says_what_is_missed(tmp_path: Path) -> None:
    """A screen green counts as far off, paper white does not, and the PNG is beside the PDF."""
    press = PressProfile(cmyk_profile(tmp_path / "press.icc"))
    patch = torch.ones(1, 3, 20, 20)
    patch[..., :10] = torch.tensor([0.0, 1.0, 0.0])[None, :, None, None]
    sheet = write_sheet(sticker(tmp_path / "b", 60, 60, patch), tmp_path / "s.pdf", press=press)
    assert sheet.proof is not None
    assert sheet.proof.share_far == pytest.approx(0.5)
    assert sheet.proof.worst > 10
    assert 0 < sheet.proof.mean < sheet.proof.worst
    assert sheet.proof.most_ink_percent is not None
    assert sheet.proof.most_ink_percent <= 400
    white, green = press.proof(np.array([[[255, 255, 255], [0, 255, 0]]], np.uint8))[0].astype(int)
    assert white.min() >= 250
    assert green[1] < 240
    assert sheet.proof_png == tmp_path / "s-proof.png"
    assert read_rgba(tmp_path / "s-proof.png").shape[1] > 900


def test_wrong_profiles_are_refused(tmp_path: Path) -> None:
    """A missing file, a file that is no profile, a display's profile and an unknown intent are each
    named."""
    (tmp_path / "x.icc").write_bytes(b"nothing")
    (tmp_path / "rgb.icc").write_bytes(srgb_profile())
    with pytest.raises(OptionError, match="no such file"):
        PressProfile(tmp_path / "none.icc")
    with pytest.raises(OptionError, match="not an ICC profile"):
        PressProfile(tmp_path / "x.icc")
    with pytest.raises(OptionError, match=r"for displays; an output profile \(prtr\) is needed"):
        PressProfile(tmp_path / "rgb.icc")
    with pytest.raises(OptionError, match="relative"):
        PressProfile(cmyk_profile(tmp_path / "press.icc"), intent="vivid")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    length=st.integers(0, 9000),
    spoiled=st.dictionaries(st.integers(0, 600), st.integers(0, 255), max_size=12),
    space=st.sampled_from([cmyk_profile, gray_profile, rgb_profile]),
)
def test_damaged_profiles_are_refused_in_words(
    tmp_path: Path, length: int, spoiled: dict[int, int], space: Callable[[Path], Path]
) -> None:
    """Whatever bytes a profile has, it can be used or is refused as an option."""
    path = tmp_path / "damaged.icc"
    if not (tmp_path / space.__name__).exists():
        space(tmp_path / space.__name__)
    data = bytearray((tmp_path / space.__name__).read_bytes())
    if length < 3000:
        data = data[:length]
    for place, value in spoiled.items():
        if place < len(data):
            data[place] = value
    path.write_bytes(data)
    picture = np.zeros((2, 2, 3), np.uint8)
    try:
        press = PressProfile(path)
    except OptionError:
        return
    assert press.name
    assert press.convert(picture).shape == (2, 2, press.channels)
    press.compare(picture, np.ones((2, 2), bool))
