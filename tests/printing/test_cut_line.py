"""The cut line: a real spot color on the mask's edge in mm, with round corners, in PDF and SVG."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pikepdf
import pytest
import torch
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st
from printed import needs_poppler, noise, poppler, sticker, without_cut_line

from physadv.core.errors import GeometryError, OptionError
from physadv.patches.bundle import (
    CardPlacement,
    ModelInfo,
    PatchBundle,
    PatchCard,
    PatchInfo,
    PatchSize,
)
from physadv.printing.artwork import bleed_art
from physadv.printing.cut_line import CutOptions, cut_contour, safe_contour
from physadv.printing.layout import PageRect
from physadv.printing.sheet import write_sheet

MM = 72 / 25.4


def in_memory(mask: np.ndarray, width: float, height: float) -> PatchBundle:
    """A bundle of that shape that lies nowhere."""
    tensor = torch.from_numpy(mask.astype(np.float32))[None, None]
    card = PatchCard(
        PatchInfo("m", "untargeted", "stop"),
        PatchSize(width, height),
        CardPlacement("stop", 762.0, (0.0, 0.0), 0.01),
        ModelInfo("v", "classify"),
    )
    return PatchBundle(card, tensor.expand(1, 3, *mask.shape), tensor, Path())


def ellipse(h: int, w: int) -> np.ndarray:
    """A mask (h, w) that touches all edges."""
    yy, xx = np.mgrid[:h, :w]
    return np.asarray(
        ((xx + 0.5 - w / 2) / (w / 2)) ** 2 + ((yy + 0.5 - h / 2) / (h / 2)) ** 2 <= 1
    )


@pytest.mark.parametrize("cut_name", ["Thru Cut", "Kiss/Cut", "50% (cut) #2", "<[{cut}]>"])
def test_spot_color_is_a_separation_and_overprints(tmp_path: Path, cut_name: str) -> None:
    """The page strokes one path in a /Separation of the given name, that wide, unfilled,
    overprinting, in its layer."""
    cut = CutOptions(name=cut_name, points=0.5)
    sheet = write_sheet(sticker(tmp_path / "b", 60, 40, noise(8, 12)), tmp_path / "s.pdf", cut=cut)
    with pikepdf.open(sheet.pdf) as pdf:
        page = pdf.pages[0]
        resources = page.obj.Resources
        (space,) = resources.ColorSpace.keys()
        kind, name, alternate, _ = resources.ColorSpace[space]
        assert (kind, name, alternate[0]) == ("/Separation", f"/{cut_name}", "/ICCBased")
        assert [str(g.Name) for g in pdf.Root.OCProperties.OCGs] == [cut_name]
        steps = [(str(i.operator), list(i.operands)) for i in pikepdf.parse_content_stream(page)]
        start = next(i for i, (op, _) in enumerate(steps) if op == "BDC")
        inside = steps[start : next(i for i, (op, _) in enumerate(steps) if op == "EMC")]
        said = [op for op, _ in inside]
        assert ("CS", [space]) in [(op, [str(v) for v in values]) for op, values in inside]
        assert said.count("S") == 1
        assert not {"f", "f*", "B", "b", "B*", "b*"} & set(said)
        assert [float(v[0]) for op, v in inside if op == "w"] == [0.5]
        states = [resources.ExtGState[str(v[0])] for op, v in inside if op == "gs"]
        assert any(s.get("/OP") for s in states)
        assert any(s.get("/OPM") == 1 for s in states)
        painted = [i for i, (op, _) in enumerate(steps) if op == "Do"]
        assert max(painted) < start  # nothing paints over the line


@pytest.mark.parametrize(
    "wrong",
    [
        {"bleed": 6},
        {"bleed": -1},
        {"corner_radius": 0.1},
        {"points": 2},
        {"safe": 30},
        {"name": ""},
        {"name": "Cyan"},
        {"name": "All"},
        {"name": "Schnitt\n"},
        {"name": "x" * 61},
        {"bleed": float("nan")},
    ],
)
def test_values_out_of_range_are_named(wrong: dict[str, float | str]) -> None:
    """Each bad value is refused with its range."""
    with pytest.raises(OptionError, match=r"to|process ink"):
        CutOptions(**wrong)  # type: ignore[arg-type]


@settings(max_examples=60, deadline=None)
@given(
    width=st.floats(4, 900),
    height=st.floats(4, 900),
    x=st.floats(-50, 50),
    share=st.floats(0.0, 0.999),
)
def test_rectangles_are_exact(width: float, height: float, x: float, share: float) -> None:
    """For any size and radius the line touches all four sides, and its area is the rectangle's less
    the corners."""
    radius = max(0.3, share * min(width, height) / 2)
    (line,) = cut_contour(
        in_memory(np.ones((3, 4)), width, height), PageRect(x, 5, width, height), radius
    )
    assert line.min(0) == pytest.approx([x, 5], abs=0.003)
    assert line.max(0) == pytest.approx([x + width, 5 + height], abs=0.003)
    following = np.roll(line, -1, 0)
    area = abs(float((line[:, 0] * following[:, 1] - line[:, 1] * following[:, 0]).sum())) / 2
    perimeter = 2 * (width + height)
    assert area == pytest.approx(width * height - (4 - np.pi) * radius**2, abs=0.003 * perimeter)


def test_corner_has_its_radius() -> None:
    """Every point of a corner lies a radius from its center; a radius over half the side is
    refused."""
    bundle = in_memory(np.ones((3, 4)), 80, 60)
    (line,) = cut_contour(bundle, PageRect(0, 0, 80, 60), 7.0)
    corner = line[(line[:, 0] < 6.9) & (line[:, 1] < 6.9)]
    assert len(corner) > 10
    assert np.linalg.norm(corner - 7.0, axis=1) == pytest.approx(7.0, abs=0.003)
    with pytest.raises(GeometryError, match="at most 30 mm"):
        cut_contour(bundle, PageRect(0, 0, 80, 60), 31.0)


def test_ellipse_within_its_pixels() -> None:
    """The line of an elliptic mask stays within half a pixel of the ellipse and within 0.05 mm of
    its ends."""
    bundle = in_memory(ellipse(400, 600), 150, 100)
    (line,) = cut_contour(bundle, PageRect(0, 0, 150, 100))
    off = np.linalg.norm((line - [75, 50]) / [75, 50], axis=1) - 1
    assert np.abs(off).max() * 75 < 0.25
    assert line.min(0) == pytest.approx([0, 0], abs=0.05)
    assert line.max(0) == pytest.approx([150, 100], abs=0.05)


def test_straight_edges_of_a_shape_are_exact() -> None:
    """A cross whose edges lie on pixel edges is cut on them within 0.05 mm, holes and inner corners
    too."""
    mask = np.zeros((60, 60), bool)
    mask[20:40], mask[:, 20:40] = True, True
    mask[28:32, 28:32] = False
    lines = cut_contour(in_memory(mask, 120, 120), PageRect(0, 0, 120, 120))
    assert len(lines) == 2
    hole = min(lines, key=lambda line: float(np.ptp(line[:, 0])))
    assert hole.min(0) == pytest.approx([56, 56], abs=0.05)
    assert hole.max(0) == pytest.approx([64, 64], abs=0.05)
    outer = max(lines, key=lambda line: float(np.ptp(line[:, 0])))
    upright = outer[(outer[:, 1] > 2) & (outer[:, 1] < 38) & (outer[:, 0] < 60)]
    assert upright[:, 0] == pytest.approx(40, abs=0.05)


def test_svg_is_the_line_of_the_pdf(tmp_path: Path) -> None:
    """The SVG is the page in mm, its cut path measures the sticker, its guide lies 2 mm inside."""
    sheet = write_sheet(
        sticker(tmp_path / "b", 60.2, 40.4, noise(8, 12)),
        tmp_path / "s.pdf",
        cut=CutOptions(name="A&B"),
    )
    root = ElementTree.parse(sheet.svg).getroot()
    assert root.get("width") == "210.0000mm"
    assert root.get("viewBox") == "0.0000 0.0000 210.0000 297.0000"
    groups = {g.get("id"): g[0].get("d") for g in root.iter("{http://www.w3.org/2000/svg}g")}
    spans = {}
    for name, path in groups.items():
        points = np.array(re.findall(r"([-\d.]+),([-\d.]+)", str(path)), float)
        spans[name] = (points.min(0), points.max(0))
    s = sheet.layout.sticker
    assert spans["A&B"][0] == pytest.approx([s.x, s.y], abs=0.001)
    assert spans["A&B"][1] == pytest.approx([s.x + 60.2, s.y + 40.4], abs=0.001)
    assert spans["guides"][0] == pytest.approx([s.x + 2, s.y + 2], abs=0.001)


def test_safe_area(tmp_path: Path) -> None:
    """The safe area lies that far inside, vanishes where nothing is left, and its share of the area
    is reported."""
    bundle = in_memory(ellipse(300, 300), 100, 100)
    (line,) = safe_contour(bundle, PageRect(0, 0, 100, 100), 5)
    assert np.linalg.norm(line - 50, axis=1) == pytest.approx(45, abs=0.8)
    assert safe_contour(in_memory(np.ones((3, 4)), 4, 4), PageRect(0, 0, 4, 4), 2) == []
    sheet = write_sheet(
        sticker(tmp_path / "b", 60, 40, noise(40, 60)), tmp_path / "s.pdf", cut=CutOptions(safe=5)
    )
    assert sheet.safe_share == pytest.approx(50 * 30 / 2400)


def test_bleed_repeats_the_edge() -> None:
    """Beyond the cut the nearest pixel is repeated, inside nothing changes, and the bleed is at
    least as wide as requested."""
    mask = ellipse(20, 30)
    bundle = in_memory(mask, 60, 40)
    patch = noise(20, 30)
    bundle = PatchBundle(bundle.card, patch, bundle.mask, Path())
    art = bleed_art(bundle, 3.0)
    k = art.rgba.shape[0] // (20 + 4)
    small = art.rgba[::k, ::k].astype(int)
    rgb = (patch[0].permute(1, 2, 0).numpy() * 255).round().astype(int)
    assert art.beyond == (4.0, 4.0)
    assert np.array_equal(small[2:-2, 2:-2][mask][:, :3], rgb[mask])
    assert np.array_equal(small[0, 15 + 2, :3], rgb[0, 15])
    assert small[0, 15 + 2, 3] == 255
    assert small[0, 0, 3] == 0


def test_boxes_of_a_bleed(tmp_path: Path) -> None:
    """TrimBox is the cut rectangle, BleedBox 3 mm more on every side; markers and marks stay
    outside it."""
    sheet = write_sheet(
        sticker(tmp_path / "b", 60, 40, noise(8, 12)), tmp_path / "s.pdf", cut=CutOptions(bleed=3)
    )
    with pikepdf.open(sheet.pdf) as pdf:
        trim, bleed = (
            [float(v) / MM for v in pdf.pages[0].obj[k]] for k in ("/TrimBox", "/BleedBox")
        )
    s = sheet.layout.sticker
    assert trim == pytest.approx([s.x, 297 - s.y - 40, s.x + 60, 297 - s.y], abs=0.001)
    assert bleed == pytest.approx([trim[0] - 3, trim[1] - 3, trim[2] + 3, trim[3] + 3], abs=0.001)
    for m in sheet.layout.markers.values():
        assert m.y + m.h <= s.y - 3 - 2 or m.y >= s.y + 40 + 3 + 2


@needs_poppler
@settings(max_examples=6, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(width=st.floats(20, 95), height=st.floats(20, 90), bleed=st.sampled_from([0.0, 1.0, 3.0]))
@example(width=68.81773024835493, height=52.602191830638525, bleed=1.0)
def test_size_on_paper_by_poppler(
    tmp_path_factory: pytest.TempPathFactory, width: float, height: float, bleed: float
) -> None:
    """Rasterised at 1200 dpi any sticker with any bleed is within 0.05 mm of its size and place.

    A dot that an edge only touches may be painted whole: at 600 dpi these alone can be 0.08 mm.
    """
    folder = tmp_path_factory.mktemp("size")
    blue = torch.tensor([0.0, 0.0, 1.0])[None, :, None, None].expand(1, 3, 7, 9)
    sheet = write_sheet(
        sticker(folder / "b", width, height, blue),
        folder / "s.pdf",
        paper=(130, 200),
        cut=CutOptions(bleed),
    )
    s, dots = sheet.layout.sticker.grown(bleed), 1200 / 25.4
    x0, y0 = int((s.x - 1) * dots), int((s.y - 1) * dots)
    crop = (x0, y0, int((s.w + 2) * dots), int((s.h + 2) * dots))
    image = poppler(without_cut_line(sheet.pdf), dpi=1200, crop=crop)
    ink = 1 - image[..., 0] / 255
    middle = (image.shape[0] // 2, image.shape[1] // 2)
    for line, start, origin, length in (
        (ink[middle[0]], s.x, x0, s.w),
        (ink[:, middle[1]], s.y, y0, s.h),
    ):
        assert line.sum() / dots == pytest.approx(length, abs=0.05)
        first = int(np.nonzero(line)[0][0])
        assert (origin + first + 1 - line[first]) / dots == pytest.approx(start, abs=0.05)
