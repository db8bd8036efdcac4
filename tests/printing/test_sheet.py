"""The sheet has the size on the sticker's card, identifies itself, and keeps every pixel."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pikepdf
import pypdfium2
import pytest
import torch
from bundle_fixtures import demo_bundle
from PIL import Image
from printed import needs_poppler, poppler, sticker, without_cut_line

from physadv.calibration.charuco_board import write_board
from physadv.calibration.color_chart import write_chart
from physadv.core.errors import GeometryError
from physadv.patches.bundle import PatchBundle, read_bundle
from physadv.printing.aruco_markers import (
    FIDUCIALS,
    SHEET_IDS,
    corners_from_markers,
    marker_dictionary,
    marker_modules,
)
from physadv.printing.cut_line import CutOptions, cut_contour
from physadv.printing.layout import (
    Paper,
    max_sticker_size,
    paper_size,
    sheet_layout,
    sign_page_layout,
)
from physadv.printing.run_markers import run_code
from physadv.printing.sheet import BAR_LABEL, SCALE_LINE, VISIBLE_LINE, write_sheet

DPI = 600


def make(
    folder: Path, width: float = 120.3, height: float = 81.7, *, mask: torch.Tensor | None = None
) -> PatchBundle:
    """A blue sticker with a picture inside, so that its rectangle can be measured by color."""
    patch = torch.zeros(1, 3, 82, 120)
    patch[:, 2] = 1
    patch[:, :, 20:60, 30:90] = torch.rand(1, 3, 40, 60, generator=torch.Generator().manual_seed(3))
    return demo_bundle(folder, patch, size=(width, height), below=150.0, mask=mask)


def render(path: Path, page: int = 0, dpi: int = DPI) -> np.ndarray:
    """A page as (h, w, 3) uint8 RGB."""
    with pypdfium2.PdfDocument(str(path)) as document:
        return np.asarray(document[page].render(scale=dpi / 72).to_pil().convert("RGB"))


def blue_rectangle(image: np.ndarray, dpi: int) -> tuple[float, float, float, float]:
    """Left, top, width, height in mm of the blue area, edges placed within a pixel by their
    coverage."""
    head = round(28 / 25.4 * dpi)  # the header holds a small picture of the sticker
    image = image[head:]
    is_blue = (image[..., 2] > 200) & (image[..., 0] < 128) & (image[..., 1] < 128)
    ys, xs = np.nonzero(is_blue)
    inset = dpi // 60
    coverage = 1 - image[..., 0] / 255  # the magenta cut line has red in full, so it does not count
    across = coverage[ys.min() + inset, xs.min() - 1 : xs.max() + 2].sum()
    down = coverage[ys.min() - 1 : ys.max() + 2, xs.min() + inset].sum()
    mm = 25.4 / dpi
    return xs.min() * mm, (ys.min() + head) * mm, across * mm, down * mm


@pytest.mark.parametrize("paper", ["a4", "letter"])
def test_sticker_and_bar_measure_true(tmp_path: Path, paper: str) -> None:
    """Rasterized at 600 dpi, the sticker and the 100 mm bar are within 0.1 mm of their nominal
    size."""
    bundle = make(tmp_path / "b")
    layout = write_sheet(bundle, tmp_path / "s.pdf", paper=paper).layout
    image = render(tmp_path / "s.pdf")
    x, y, w, h = blue_rectangle(image, DPI)
    assert (w, h) == pytest.approx((120.3, 81.7), abs=0.1)
    assert (x, y) == pytest.approx((layout.sticker.x, layout.sticker.y), abs=0.1)
    row = image[round((layout.bar.y + layout.bar.h / 2) / 25.4 * DPI), :, 0]
    dark = np.nonzero(row < 128)[0]
    assert (dark.max() - dark.min() + 1) * 25.4 / DPI == pytest.approx(100, abs=0.1)
    assert len(dark) == dark.max() - dark.min() + 1


@pytest.mark.skipif(shutil.which("pdftoppm") is None, reason="pdftoppm (poppler) is not installed")
def test_poppler_agrees(tmp_path: Path) -> None:
    """A second renderer measures the same sticker."""
    write_sheet(make(tmp_path / "b"), tmp_path / "s.pdf")
    command = [
        "pdftoppm",
        "-r",
        "600",
        "-f",
        "1",
        "-l",
        "1",
        "-png",
        str(tmp_path / "s.pdf"),
        str(tmp_path / "page"),
    ]
    subprocess.run(command, check=True)
    image = np.asarray(Image.open(next(tmp_path.glob("page*.png"))).convert("RGB"))
    assert blue_rectangle(image, DPI)[2:] == pytest.approx((120.3, 81.7), abs=0.1)


def first_dark(row: np.ndarray) -> float:
    """Where a row of gray values (0 black) turns dark, in pixels, by coverage."""
    start = int(np.argmax(row < 250))
    return start + 1 - float((1 - row[start] / 255) if row[start] > 5 else 1.0)


def middle(row: np.ndarray) -> float:
    """Center of the one line in a row of gray values, in pixels, by coverage."""
    ink = 1 - row / 255
    return float((ink * (np.arange(len(row)) + 0.5)).sum() / ink.sum())


@needs_poppler
def test_sheet_is_true_to_a_fiftieth_of_a_millimeter(tmp_path: Path) -> None:
    """Rasterized by poppler at 2400 dpi, all four edges of the sticker, its cut marks and both ends
    of the bar are within 0.02 mm of where the layout says."""
    size, dpi = (99.97, 143.21), 2400
    dots = dpi / 25.4
    sheet = write_sheet(
        sticker(tmp_path / "b", *size, torch.zeros(1, 3, 8, 12)), tmp_path / "s.pdf", paper="letter"
    )
    pdf, s, bar = without_cut_line(sheet.pdf), sheet.layout.sticker, sheet.layout.bar

    def across(y: float) -> np.ndarray:
        """Gray values of the page along a line at ``y`` mm."""
        span = round(sheet.page_mm[0] * dots)
        return poppler(pdf, dpi=dpi, crop=(0, round(y * dots), span, 1)).mean(-1).ravel()

    def down(x: float) -> np.ndarray:
        span = round(sheet.page_mm[1] * dots)
        return poppler(pdf, dpi=dpi, crop=(round(x * dots), 0, 1, span)).mean(-1).ravel()

    def near(values: np.ndarray, at: float) -> tuple[np.ndarray, int]:
        """4 mm of a line around ``at`` mm, and the dot with which they begin."""
        start = round((at - 2) * dots)
        return values[start : start + round(4 * dots)], start

    rows = {
        "sticker": across(s.y + s.h / 2),
        "bar": across(bar.y + 0.4),
        "marks": across(s.y - 2.5),
    }
    columns = {"sticker": down(s.x + s.w / 2), "marks": down(s.x - 2.5)}
    edges = {}
    for name, line, begin, end in (
        ("sticker across", rows["sticker"], s.x, s.x + s.w),
        ("sticker down", columns["sticker"], s.y, s.y + s.h),
        ("bar", rows["bar"], bar.x, bar.x + bar.w),
    ):
        values, start = near(line, begin)
        edges[f"begin of {name}"] = ((start + first_dark(values)) / dots, begin)
        values, start = near(line, end)
        edges[f"end of {name}"] = ((start + len(values) - first_dark(values[::-1])) / dots, end)
    for line, places in ((rows["marks"], (s.x, s.x + s.w)), (columns["marks"], (s.y, s.y + s.h))):
        for place in places:
            values, start = near(line, place)
            edges[f"cut mark at {place}"] = ((start + middle(values)) / dots, place)
    assert len(edges) == 10
    for name, (found, wanted) in edges.items():
        assert found == pytest.approx(wanted, abs=0.02), name


def painted(pdf: Path) -> list[list[tuple[float, float]]]:
    """The pictures painted on each page, as their resolutions across and down in dpi."""
    pages = []
    with pypdfium2.PdfDocument(str(pdf)) as document:
        for page in document:
            found = []
            for item in page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE]):
                left, bottom, right, top = item.get_bounds()
                w, h = item.get_px_size()
                found.append((w / (right - left) * 72, h / (top - bottom) * 72))
            pages.append(found)
    return pages


@pytest.mark.parametrize("bleed", [0.0, 3.0])
def test_the_picture_is_painted_once(tmp_path: Path, bleed: float) -> None:
    """One picture on the sheet, and one on every tile, all at the resolution stated, which is about
    the same across and down; icon and assembly drawing show its shape only."""
    bundle = make(tmp_path / "b", 110.0, 60.0)
    cut = CutOptions(bleed=bleed)
    single = write_sheet(bundle, tmp_path / "s.pdf", cut=cut)
    tiled = write_sheet(bundle, tmp_path / "t.pdf", cut=cut, paper=(120.0, 130.0), tile=True)
    across, down = single.picture_dpi
    assert tiled.picture_dpi == single.picture_dpi
    assert min(across, down) >= 300
    assert max(across, down) < 1.2 * min(across, down)
    (on_sheet,) = painted(single.pdf)
    assembly, *tiles = painted(tiled.pdf)
    assert assembly == []
    for pictures in (on_sheet, *tiles):
        assert len(pictures) == 1
        assert pictures[0] == pytest.approx((across, down), rel=0.001)


@pytest.mark.parametrize("paper", ["a5", "a4", "letter", (120.0, 170.0)])
def test_no_text_runs_into_another(tmp_path: Path, paper: Paper) -> None:
    """On every page, no two lines overlap and none leaves the page, also with long names."""
    bundle = make(tmp_path / "b", 90.0, 60.0)
    patch = replace(bundle.card.patch, name="a long name with many words " * 4)
    bundle = replace(bundle, card=replace(bundle.card, patch=patch))
    large = make(tmp_path / "l", 300.0, 200.0)
    write_sheet(bundle, tmp_path / "s.pdf", paper=paper, test_signs=True, sign_dpi=40)
    write_sheet(large, tmp_path / "t.pdf", paper=paper, tile=True)
    write_chart(tmp_path / "c.pdf", 1, paper="letter")
    write_board(tmp_path / "k.pdf", paper="letter")
    for name in ("s", "t", "c", "k"):
        with pypdfium2.PdfDocument(str(tmp_path / f"{name}.pdf")) as document:
            for page in document:
                texts = page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_TEXT])
                boxes = [text.get_bounds() for text in texts]
                assert len(boxes) >= 3
                for left, bottom, right, top in boxes:
                    assert 0 < left < right < page.get_width()
                    assert 0 < bottom < top < page.get_height()
                for a, b in combinations(boxes, 2):
                    apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
                    assert apart, (name, a, b)


def test_pdf_says_how_to_print(tmp_path: Path) -> None:
    """No scaling, the sticker as TrimBox, lossless pictures, a title."""
    layout = write_sheet(
        make(tmp_path / "b"), tmp_path / "s.pdf", test_signs=True, sign_dpi=100
    ).layout
    with pikepdf.open(tmp_path / "s.pdf") as pdf:
        assert pdf.Root.ViewerPreferences.PrintScaling == "/None"
        s, box = layout.sticker, [float(v) * 25.4 / 72 for v in pdf.pages[0].obj["/TrimBox"]]
        assert box == pytest.approx([s.x, 297 - s.y - s.h, s.x + s.w, 297 - s.y], abs=0.001)
        assert "demo" in str(pdf.docinfo["/Title"])
        pictures = [
            o
            for o in pdf.objects
            if isinstance(o, pikepdf.Stream) and o.get("/Subtype") == "/Image"
        ]
        assert pictures
        assert {str(p.get("/Filter")) for p in pictures} == {"/FlateDecode"}
        assert all(p.obj["/TrimBox"] == p.obj["/BleedBox"] for p in list(pdf.pages)[1:])
        assert float(pdf.pages[1].obj["/TrimBox"][3]) == pytest.approx(297 * 72 / 25.4, abs=0.01)


def test_text_is_there(tmp_path: Path) -> None:
    """Every page states where it may be used; the sheet states its name, size, run and how to print
    it."""
    bundle = make(tmp_path / "b")
    write_sheet(bundle, tmp_path / "s.pdf", test_signs=True, sign_dpi=60)
    with pypdfium2.PdfDocument(str(tmp_path / "s.pdf")) as document:
        texts = [page.get_textpage().get_text_range() for page in document]
    assert len(texts) == 4
    assert all(VISIBLE_LINE in text for text in texts)
    assert (
        VISIBLE_LINE
        == "Robustness test print - for your own signs in a lab, never for public roads"
    )
    for wanted in (BAR_LABEL, SCALE_LINE, bundle.card.patch.run_id, "demo", "120.3 x 81.7 mm"):
        assert wanted in texts[0]


def test_pixels_survive(tmp_path: Path) -> None:
    """The embedded picture is the bundle's, each pixel repeated, not one value changed."""
    bundle = make(tmp_path / "b")
    write_sheet(bundle, tmp_path / "s.pdf")
    with pikepdf.open(tmp_path / "s.pdf") as pdf:
        streams = [
            o
            for o in pdf.objects
            if isinstance(o, pikepdf.Stream) and o.get("/Subtype") == "/Image"
        ]
        largest = max(streams, key=lambda s: int(s.Width))
        picture = np.asarray(pikepdf.PdfImage(largest).as_pil_image().convert("RGB"))
    want = (bundle.patch[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    down, across = picture.shape[0] // 82, picture.shape[1] // 120
    assert min(down, across) >= 1
    assert np.array_equal(picture, want.repeat(down, 0).repeat(across, 1))


def test_mask_shows(tmp_path: Path) -> None:
    """Outside the mask the paper stays white, inside the sticker shows; the cut line follows the
    mask in mm."""
    yy, xx = np.mgrid[:82, :120]
    inside = ((xx + 0.5 - 60) / 60) ** 2 + ((yy + 0.5 - 41) / 41) ** 2 <= 1
    mask = torch.from_numpy(inside.astype(np.float32))[None, None]
    bundle = make(tmp_path / "b", mask=mask)
    layout = write_sheet(bundle, tmp_path / "s.pdf").layout
    image, s = render(tmp_path / "s.pdf", dpi=150), layout.sticker
    at = [round(v * 150 / 25.4) for v in (s.y, s.x)]
    assert (image[at[0] + 5, at[1] + 5] == 255).all()
    assert image[at[0] + 10, at[1] + round(s.w / 2 * 150 / 25.4), 2] > 200
    contour = cut_contour(bundle, s)
    area = sum(abs(cv2.contourArea(c.astype(np.float32))) for c in contour)
    assert area == pytest.approx(inside.mean() * s.w * s.h, rel=0.01)


def test_mask_with_hole_has_two_outlines(tmp_path: Path) -> None:
    """A hole in the mask is cut too."""
    mask = torch.ones(1, 1, 82, 120)
    mask[..., 30:50, 40:80] = 0
    bundle = make(tmp_path / "b", mask=mask)
    assert len(cut_contour(bundle, sheet_layout(120, 82, "a4").sticker)) == 2


@pytest.mark.parametrize("paper", ["a4", "letter"])
def test_markers_are_found(tmp_path: Path, paper: str) -> None:
    """A detector finds the right ids on every page, and from them the sign's square."""
    layout = write_sheet(
        make(tmp_path / "b"), tmp_path / "s.pdf", paper=paper, test_signs=True, sign_dpi=60
    ).layout
    detector = cv2.aruco.ArucoDetector(marker_dictionary(), cv2.aruco.DetectorParameters())
    for page, block in enumerate(["sheet", *FIDUCIALS]):
        corners, ids, _ = detector.detectMarkers(
            cv2.cvtColor(render(tmp_path / "s.pdf", page, 150), cv2.COLOR_RGB2GRAY)
        )
        run = () if block == "sheet" else run_code(read_bundle(tmp_path / "b").card.patch.run_id)
        wanted = SHEET_IDS if block == "sheet" else FIDUCIALS[block]
        assert sorted(int(i) for i in ids.ravel()) == sorted((*wanted, *run))
        places = layout.markers if block == "sheet" else sign_page_layout(paper, block).markers
        for name, found in zip(ids.ravel(), corners, strict=True):
            if int(name) in run:
                continue
            place = places[int(name)]
            assert found.reshape(4, 2)[0] * 25.4 / 150 == pytest.approx((place.x, place.y), abs=0.4)
        if block != "sheet":
            sign = sign_page_layout(paper, block).sign
            square = corners_from_markers(ids, corners)
            assert square is not None
            assert square[0] * 25.4 / 150 == pytest.approx((sign.x, sign.y), abs=0.5)
            assert square[2] * 25.4 / 150 == pytest.approx(
                (sign.x + sign.w, sign.y + sign.h), abs=0.5
            )


def test_test_signs_differ_only_by_sticker(tmp_path: Path) -> None:
    """The three signs are one drawing; the sticker is to scale and at the card's position."""
    write_sheet(make(tmp_path / "b"), tmp_path / "s.pdf", test_signs=True, sign_dpi=100)
    pages = [render(tmp_path / "s.pdf", i, 100).astype(int) for i in (1, 2, 3)]
    sign = sign_page_layout("a4", "clean").sign
    scale = sign.w / 762 * 100 / 25.4
    middle = np.array([sign.y + sign.h / 2, sign.x + sign.w / 2]) * 100 / 25.4 + np.array(
        [150 * scale, 0]
    )
    half = np.array([81.7, 120.3]) * scale / 2
    y0, y1, x0, x1 = (
        int(v)
        for v in (
            middle[0] - half[0],
            middle[0] + half[0],
            middle[1] - half[1],
            middle[1] + half[1],
        )
    )
    assert (pages[1][y0 + 2 : y1 - 1, x0 + 2 : x1 - 1] == 255).all()
    top, bottom = (int(v * 100 / 25.4) for v in (sign.y, sign.y + sign.h))
    for page in pages[1:]:
        changed = np.argwhere(np.abs(page - pages[0])[top:bottom].max(2) > 40) + np.array([top, 0])
        assert changed[:, 0].min() >= y0 - 2
        assert changed[:, 0].max() <= y1 + 2
        assert changed[:, 1].min() >= x0 - 2
        assert changed[:, 1].max() <= x1 + 2


def test_same_bytes(tmp_path: Path) -> None:
    """The same bundle gives the same file."""
    bundle = make(tmp_path / "b")
    write_sheet(bundle, tmp_path / "1.pdf")
    write_sheet(bundle, tmp_path / "2.pdf")
    assert (tmp_path / "1.pdf").read_bytes() == (tmp_path / "2.pdf").read_bytes()


def test_wide_sticker_turns_the_page(tmp_path: Path) -> None:
    """A sticker that fits only lengthwise is laid on a turned page, with its true size."""
    bundle = make(tmp_path / "b", 250.0, 100.0)
    layout = write_sheet(bundle, tmp_path / "s.pdf").layout
    assert layout.page == (297.0, 210.0)
    assert blue_rectangle(render(tmp_path / "s.pdf"), DPI)[2:] == pytest.approx((250, 100), abs=0.1)


def test_too_large_is_refused(tmp_path: Path) -> None:
    """The error names the size, the paper and the remedy."""
    with pytest.raises(GeometryError, match=r"250 x 200 mm.*a4 takes at most.*--paper a3"):
        write_sheet(make(tmp_path / "b", 250.0, 200.0), tmp_path / "s.pdf")
    assert not (tmp_path / "s.pdf").exists()
    with pytest.raises(GeometryError, match="Make the sticker smaller"):
        sheet_layout(900, 900, "a1")
    with pytest.raises(GeometryError, match="a4"):
        paper_size("a44")


@pytest.mark.parametrize("paper", ["a5", "a4", "letter", "a3", (160.0, 330.0)])
def test_layout_keeps_apart(paper: Paper) -> None:
    """At the largest size that the paper takes, nothing leaves the page, and markers stay clear of
    sticker and bar."""
    for turn in (1, -1):
        page = paper_size(paper)[::turn]
        if min(max_sticker_size(page)) <= 40:
            continue
        layout = sheet_layout(*max_sticker_size(page), paper)
        s = layout.sticker
        for m in layout.markers.values():
            assert 4 <= m.x <= layout.page[0] - 4 - m.w
            assert m.y >= 24
            assert m.y + m.h <= layout.bar.y - 5
            assert m.y + m.h <= s.y - 2 or m.y >= s.y + s.h + 2


def test_test_sign_layout_is_one_for_all_papers() -> None:
    """In sign widths the markers sit alike on every paper, so a camera needs no paper size."""
    seen = []
    for paper in ("a5", "a4", "letter", "a3"):
        layout = sign_page_layout(paper, "blank")
        sign = layout.sign
        seen.append(
            [
                ((m.x - sign.x) / sign.w, (m.y - sign.y) / sign.w, m.w / sign.w)
                for m in layout.markers.values()
            ]
        )
        assert all(m.y >= 20 and m.y + m.h <= layout.page[1] - 12 for m in layout.markers.values())
    assert np.allclose(seen, seen[0])


def test_corners_from_few_markers() -> None:
    """Two markers seen askew give the square exactly; one is refused unless asked for; foreign ids
    are left out."""
    from physadv.printing.aruco_markers import SIGN_SQUARE, test_sign_layout

    view = np.array([[90, 12, 300], [-8, 80, 200], [0.02, 0.1, 1]])
    seen = [
        cv2.perspectiveTransform(m[None], view)[0].astype(np.float32) for m in test_sign_layout()
    ]
    want = cv2.perspectiveTransform(SIGN_SQUARE[None], view)[0]
    got = corners_from_markers([4, 6, 33], [seen[0], seen[2], seen[1]])
    assert got is not None
    assert np.allclose(got, want, atol=0.02)
    assert corners_from_markers([4], [seen[0]]) is None
    assert corners_from_markers([4], [seen[0]], min_markers=1) is not None
    assert corners_from_markers([4, 5], seen[:2], block="patch") is None
    assert corners_from_markers([], []) is None
    with pytest.raises(GeometryError, match="blnk"):
        corners_from_markers([4], [seen[0]], block="blnk")


def test_marker_modules_have_a_black_border() -> None:
    """Markers are 6x6 with a black frame, each id its own."""
    modules = [marker_modules(i) for i in range(16)]
    assert all(m[0].all() and m[-1].all() and m[:, 0].all() and m[:, -1].all() for m in modules)
    assert len({m.tobytes() for m in modules}) == 16
