"""Tiles: together they are the sticker at its size, and the strip that two of them share is printed
identically."""

from __future__ import annotations

import re
from itertools import product
from math import ceil, floor, inf
from pathlib import Path

import cv2
import numpy as np
import pikepdf
import pypdfium2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from printed import needs_poppler, noise, poppler, sticker

from physadv.core.errors import GeometryError, OptionError
from physadv.printing.cut_line import CutOptions
from physadv.printing.layout import (
    PAPERS,
    Paper,
    fits_paper,
    max_sticker_size,
    paper_size,
    sheet_layout,
)
from physadv.printing.sheet import SCALE_LINE, VISIBLE_LINE, write_sheet
from physadv.printing.tiling import tile_layout

DOT = 25.4 / 300


def whole(value: float) -> bool:
    """Whether a length is a whole number of 300 dpi dots."""
    return abs(value / DOT - round(value / DOT)) < 1e-5


@settings(max_examples=150, deadline=None)
@given(
    width=st.floats(50, 3000),
    height=st.floats(50, 3000),
    overlap=st.floats(5, 50),
    bleed=st.floats(0, 5),
    paper=st.sampled_from(["letter", "a4", "a3", (300.0, 400.0)]),
)
def test_tiles_cover_the_sticker(
    width: float, height: float, overlap: float, bleed: float, paper: str | tuple[float, float]
) -> None:
    """Whatever the size, tiles cover sticker and bleed, share the overlap, lie on dots and stay off
    the page's edge."""
    try:
        layout = tile_layout(width, height, paper, overlap=overlap, bleed=bleed)
    except GeometryError as error:
        assert "at most 400" in str(error)  # noqa: PT017
        return
    if layout.turned:
        width, height = height, width
    first, last = layout.tiles[0].region, layout.tiles[-1].region
    assert max(first.x, first.y) <= -bleed - 1 + 1e-6
    assert last.x + last.w >= width + bleed + 1 - 1e-6
    assert last.y + last.h >= height + bleed + 1 - 1e-6
    assert len(layout.tiles) == layout.rows * layout.columns
    assert len({t.label for t in layout.tiles}) == len(layout.tiles)
    for t in layout.tiles:
        assert (t.region.w, t.region.h) == (t.window.w, t.window.h)
        assert t.window.x >= 13.9
        assert t.window.x + t.window.w <= layout.page[0] - 13.9
        assert t.window.y >= 25.9
        assert t.window.y + t.window.h <= layout.bar.y - 11
        assert whole(t.window.x - t.region.x)
        assert whole(t.window.y - t.region.y)
    for a, b in zip(layout.tiles, layout.tiles[1:], strict=False):
        if a.row == b.row:
            assert a.region.x + a.region.w - b.region.x == pytest.approx(layout.overlap)
    if layout.rows > 1:
        a, b = layout.tile(0, 0).region, layout.tile(1, 0).region
        assert a.y + a.h - b.y == pytest.approx(layout.overlap)
    assert layout.overlap >= overlap - 1e-9
    assert layout.overlap < overlap + 0.1


def test_marks_of_neighbors_meet() -> None:
    """Round marks stand at the same points of the sticker on both tiles of a seam, outside what is
    printed."""
    layout = tile_layout(500, 600, "a4")
    assert (layout.rows, layout.columns) == (3, 3)
    marks = {
        t.label: {(round(x, 4), round(y, 4)) for x, y in layout.marks(t)} for t in layout.tiles
    }
    for t in layout.tiles:
        if t.column + 1 < layout.columns:
            assert len(marks[t.label] & marks[layout.tile(t.row, t.column + 1).label]) == 2
        for x, y in layout.marks(t):
            px, py = t.on_page(x, y)
            w = t.window
            outside = py < w.y - 2 or py > w.y + w.h + 2 or px < w.x - 2 or px > w.x + w.w + 2
            assert outside
            assert 8 <= px <= layout.page[0] - 8
            assert 17 <= py <= layout.bar.y - 5
    for row in range(layout.rows - 1):
        for column in (0, layout.columns - 1):
            upper, lower = layout.tile(row, column).label, layout.tile(row + 1, column).label
            assert len(marks[upper] & marks[lower]) == 1


def test_refusals() -> None:
    """An overlap out of range, too many sheets and a paper without room are each named."""
    with pytest.raises(OptionError, match="5 to 50 mm"):
        tile_layout(500, 500, "a4", overlap=2)
    with pytest.raises(GeometryError, match="at most 400"):
        tile_layout(9000, 9000, "a4")
    with pytest.raises(GeometryError, match="no room"):
        tile_layout(500, 500, (121.0, 121.0), overlap=50)


def advised(error: GeometryError) -> int | None:
    """The number of sheets that a refusal names; None where it does not speak of tiles."""
    found = re.search(r"--tile on (\d+) sheet", str(error))
    return int(found[1]) if found else None


@pytest.mark.parametrize(
    ("size", "paper", "sheets"),
    [
        ((150.0, 140.0), (130.0, 160.0), 5),
        ((200.0, 100.0), (130.0, 160.0), 4),
        ((250.1, 333.3), "a3", 1),
        ((333.3, 250.1), "a3", 1),
        ((100.0, 95.0), (130.0, 160.0), 1),
    ],
)
def test_the_advice_is_what_is_written(
    tmp_path: Path, size: tuple[float, float], paper: Paper, sheets: int
) -> None:
    """A sticker that is too large is refused with the number of sheets of paper that --tile then
    writes, on upright or turned paper."""
    bundle = sticker(tmp_path / "b", *size, noise(9, 11))
    with pytest.raises(GeometryError) as refused:
        write_sheet(bundle, tmp_path / "s.pdf", paper=paper)
    sheet = write_sheet(bundle, tmp_path / "s.pdf", paper=paper, tile=True)
    assert advised(refused.value) == sheet.pages == sheets
    assert sheet.tiled is not None
    assert sheet.tiled.sheets == sheets
    with pypdfium2.PdfDocument(str(sheet.pdf)) as document:
        assert len(document) == sheets
        assert ("assemble" in document[0].get_textpage().get_text_range()) == (sheets > 1)
    if sheets == 1:  # nothing to assemble: the page is trimmed to the sticker
        with pikepdf.open(sheet.pdf) as pdf:
            box = [float(v) * 25.4 / 72 for v in pdf.pages[0].obj.TrimBox]
        assert (box[2] - box[0], box[3] - box[1]) == pytest.approx(
            size[::-1] if sheet.turned else size, abs=0.001
        )


def test_the_advice_knows_the_overlap_and_the_bleed(tmp_path: Path) -> None:
    """Options that change the number of tiles are in the advice."""
    bundle = sticker(tmp_path / "b", 180, 90, noise(9, 11))
    cut, paper = CutOptions(bleed=5), (130.0, 160.0)
    counts = []
    for overlap in (5.0, 30.0):
        with pytest.raises(GeometryError) as refused:
            write_sheet(bundle, tmp_path / "s.pdf", paper=paper, overlap=overlap, cut=cut)
        sheet = write_sheet(
            bundle, tmp_path / "s.pdf", paper=paper, tile=True, overlap=overlap, cut=cut
        )
        assert advised(refused.value) == sheet.pages
        counts.append(sheet.pages)
    assert counts[0] < counts[1]
    small = sticker(tmp_path / "c", 50, 50, noise(9, 11))
    assert write_sheet(small, tmp_path / "c.pdf", tile=True).tiled is None


def fewest(span: float, room: float, overlap: float) -> float:
    """Tiles of at most ``room`` that cover ``span``, by counting; lengths in whole dots."""
    if span <= room:
        return 1
    if room <= 2 * overlap:
        return inf
    return next((n for n in range(2, 402) if n * (room - overlap) + overlap >= span), inf)


@settings(max_examples=200, deadline=None)
@given(
    width=st.floats(50, 2000),
    height=st.floats(50, 2000),
    overlap=st.floats(5, 50),
    bleed=st.floats(0, 5),
    paper=st.sampled_from(["letter", "a5", "a4", "a3", (300.0, 400.0), (400.0, 300.0)]),
)
def test_no_fewer_tiles_would_do(
    width: float, height: float, overlap: float, bleed: float, paper: str | tuple[float, float]
) -> None:
    """The number of tiles is the least that covers the sticker, upright or turned, on upright or
    turned paper, up to the rounding to dots."""
    try:
        layout = tile_layout(width, height, paper, overlap=overlap, bleed=bleed)
    except GeometryError:
        return
    spans = [ceil((side + 2 * (bleed + 1)) / DOT) for side in (width, height)]
    common = ceil(overlap / DOT - 1e-6)
    counts = []
    pages = (paper_size(paper), paper_size(paper)[::-1])
    for page, sides in product(pages, (spans, spans[::-1])):
        rooms = [floor((page[0] - 28) / DOT), floor((page[1] - 54) / DOT)]
        pairs = list(zip(sides, rooms, strict=True))
        counts.append(
            [fewest(s - slack, r, common) for slack in (0, 4) for s, r in pairs]
            if page[0] >= 116
            else [inf] * 4
        )
    most = min(c[0] * c[1] for c in counts)
    least = min(c[2] * c[3] for c in counts)
    assert least <= len(layout.tiles) <= most


@pytest.mark.parametrize("paper", ["a4", "a3", "letter", (300.0, 400.0)])
def test_what_fits_exactly_is_one_sheet(paper: str | tuple[float, float]) -> None:
    """A sticker that fills the space for tiles is one tile, a millimeter more are two; one that
    fills the page with its markers needs no tiles, a hair more does."""
    page = paper_size(paper)
    for w, h in (page, page[::-1]):
        room = (w - 28 - 2, h - 54 - 2)
        assert len(tile_layout(*room, paper).tiles) == 1
        assert len(tile_layout(room[0] + 1, room[1], (w, h)).tiles) == 2
        if min(largest := max_sticker_size((w, h))) > 0:
            assert fits_paper(*largest, paper)
            assert not fits_paper(max(page), max(largest[1], w), paper)


@settings(max_examples=200, deadline=None)
@given(
    width=st.floats(10, 900),
    height=st.floats(10, 900),
    bleed=st.floats(0, 5),
    paper=st.sampled_from(["a5", "a4", "letter", "legal", "a3", (160.0, 330.0)]),
)
def test_the_paper_advised_takes_the_sticker(
    width: float, height: float, bleed: float, paper: Paper
) -> None:
    """A refusal names the smallest common paper that takes the sticker, and a limit that is
    kept."""
    try:
        sheet_layout(width, height, paper, bleed)
    except GeometryError as error:
        text = str(error)
        named = re.search(r"--paper (a\d)", text)
        limits = re.findall(r"([\d.]+) x ([\d.]+) mm", text.partition("takes at most")[2])
    else:
        return
    common = [p for p in ("a4", "a3", "a2", "a1") if fits_paper(width, height, p, bleed)]
    assert (named[1] if named else None) == (common[0] if common else None)
    for w, h in limits:
        assert fits_paper(float(w), float(h), paper, bleed)
    if named:
        sheet_layout(width, height, named[1], bleed)


def test_pages_say_what_they_are(tmp_path: Path) -> None:
    """Page 1 is not trimmed; each tile's TrimBox is its window; every page has the label, each tile
    its name and the bar."""
    bundle = sticker(tmp_path / "b", 300, 330, noise(9, 11))
    sheet = write_sheet(bundle, tmp_path / "s.pdf", tile=True, test_signs=True, sign_dpi=50)
    assert sheet.tiled is not None
    with pikepdf.open(sheet.pdf) as pdf, pypdfium2.PdfDocument(str(sheet.pdf)) as document:
        texts = [page.get_textpage().get_text_range() for page in document]
        assert len(texts) == sheet.pages == 1 + len(sheet.tiled.tiles) + 3
        assert all(VISIBLE_LINE in text for text in texts)
        for page in (pdf.pages[0], *list(pdf.pages)[-3:]):
            assert [float(v) for v in page.obj.TrimBox] == pytest.approx(
                [float(v) for v in page.obj.MediaBox], abs=0.001
            )
        for tile, page, text in zip(
            sheet.tiled.tiles, list(pdf.pages)[1:], texts[1:], strict=False
        ):
            assert f"tile {tile.label}," in text
            assert SCALE_LINE in text
            assert tile.label in texts[0]
            w, height = tile.window, sheet.page_mm[1]
            box = [float(v) * 25.4 / 72 for v in page.obj.TrimBox]
            assert box == pytest.approx(
                [w.x, height - w.y - w.h, w.x + w.w, height - w.y], abs=0.001
            )
            assert page.obj.BleedBox == page.obj.TrimBox
            assert len(page.obj.Resources.XObject) == 1
        assert bundle.card.patch.run_id in texts[0]


@needs_poppler
@pytest.mark.parametrize(
    ("paper", "size"), [("a4", (290.3, 180.0)), ((130.0, 160.0), (150.7, 140.9))]
)
def test_assembled_tiles_are_the_sticker(
    tmp_path: Path, paper: str | tuple[float, float], size: tuple[float, float]
) -> None:
    """Rasterized at 600 dpi, overlaps are equal pixel for pixel, and the assembled tiles are the
    sticker at its size."""
    bundle = sticker(tmp_path / "b", *size, noise(11, 17))
    sheet = write_sheet(bundle, tmp_path / "s.pdf", paper=paper, tile=True, cut=CutOptions(bleed=2))
    tiled, dots = sheet.tiled, 600 / 25.4
    assert tiled is not None
    assert len(tiled.tiles) > 1
    first = tiled.tiles[0].region
    span = [round((v + 60) * dots) for v in reversed(size)]
    canvas, seen = np.full((*span, 3), 255, np.uint8), np.zeros(span, bool)
    rows, columns = set(), set()
    for i, tile in enumerate(tiled.tiles):
        w = tile.window
        x, y, wide, high = (round(v * dots) for v in (w.x, w.y, w.w, w.h))
        image = poppler(sheet.pdf, i + 2, crop=(x, y, wide, high))
        at = (round((tile.region.y - first.y) * dots), round((tile.region.x - first.x) * dots))
        there = (slice(at[0], at[0] + high), slice(at[1], at[1] + wide))
        old = seen[there]
        assert np.array_equal(canvas[there][old], image[old]), tile.label
        assert old.any() == (i > 0)
        canvas[there], seen[there] = image, True
        rows.add(at[0])
        columns.add(at[1])
    assert (len(rows), len(columns)) == (tiled.rows, tiled.columns)

    whole = write_sheet(bundle, tmp_path / "w.pdf", paper=(400.0, 330.0), cut=CutOptions(bleed=2))
    s = whole.layout.sticker.grown(2)
    x, y, wide, high = (round(v * dots) for v in (s.x, s.y, s.w, s.h))
    at = (round((-2 - first.y) * dots), round((-2 - first.x) * dots))
    composed = canvas[at[0] : at[0] + high, at[1] : at[1] + wide]
    untiled = poppler(whole.pdf, crop=(x, y, wide, high))
    assert (composed != untiled).any(-1).mean() < 1e-4  # corners of the cut line's strokes
    want = (bundle.patch[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
    cell = np.array([size[1] / 11, size[0] / 17])
    edges = [
        [round((k * c - o) * dots) for k in range(n + 1)]
        for c, o, n in ((cell[0], first.y, 11), (cell[1], first.x, 17))
    ]
    for r in range(11):
        for c in range(
            17
        ):  # each cell of the picture, but one pixel (0.042 mm) at its edges and the cut line
            rim = 3
            part = canvas[
                edges[0][r] + rim : edges[0][r + 1] - rim, edges[1][c] + rim : edges[1][c + 1] - rim
            ]
            assert (part == want[r, c]).all()
    ink = (canvas != 255).any(-1)
    bleed = [np.nonzero(ink.any(a))[0] for a in (0, 1)]
    for found, length in zip(bleed, size, strict=True):
        assert (found[-1] - found[0] + 1) / dots == pytest.approx(length + 4, abs=0.09)


@needs_poppler
def test_printed_marks_of_neighbors_coincide(tmp_path: Path) -> None:
    """Each round mark, rasterized at 600 dpi, is on both tiles of its seam the same dots around the
    same point of the sticker."""
    bundle = sticker(tmp_path / "b", 150.7, 140.9, noise(5, 6))
    sheet = write_sheet(bundle, tmp_path / "s.pdf", paper=(130.0, 160.0), tile=True)
    tiled, dots, reach = sheet.tiled, 600 / 25.4, 2.2
    assert tiled is not None
    seen: dict[tuple[float, float], list[np.ndarray]] = {}
    for i, tile in enumerate(tiled.tiles):
        page = poppler(sheet.pdf, i + 2)
        for mark in tiled.marks(tile):
            x, y = (round((v - reach) * dots) for v in tile.on_page(*mark))
            side = round(2 * reach * dots)
            key = (round(mark[0], 3), round(mark[1], 3))
            seen.setdefault(key, []).append(page[y : y + side, x : x + side])
    assert {len(pictures) for pictures in seen.values()} == {2}
    for first, second in seen.values():
        assert np.array_equal(first, second)
        ink = np.argwhere(first.max(-1) < 128) / dots - reach  # a ring around the middle
        assert ink.mean(0) == pytest.approx((0, 0), abs=0.05)


@pytest.mark.parametrize("paper", sorted(PAPERS))
def test_qr_code_names_the_run(tmp_path: Path, paper: str) -> None:
    """A reader finds the run's id in the code on the page, on every paper."""
    bundle = sticker(tmp_path / "b", 60, 40, noise(8, 12))
    write_sheet(bundle, tmp_path / "s.pdf", paper=paper)
    with pypdfium2.PdfDocument(str(tmp_path / "s.pdf")) as document:
        page = document[0].render(scale=300 / 72, grayscale=True).to_numpy()
    corner = np.ascontiguousarray(
        page[: round(32 / 25.4 * 300), -round(75 / 25.4 * 300) :].reshape(
            round(32 / 25.4 * 300), -1
        )
    )
    text, _, _ = cv2.QRCodeDetector().detectAndDecode(corner)
    assert text == f"physadv run {bundle.card.patch.run_id}"


def test_marks_stand_in_the_middle_of_the_shared_strip() -> None:
    """Half of the overlap lies on either side of a mark: cut there, neither tile lacks anything."""
    layout = tile_layout(500, 600, "a4", overlap=20)
    left, right = layout.tile(0, 0), layout.tile(0, 1)
    shared = {(round(x, 4), round(y, 4)) for x, y in layout.marks(left)} & {
        (round(x, 4), round(y, 4)) for x, y in layout.marks(right)
    }
    end, begin = left.region.x + left.region.w, right.region.x
    for x, _ in shared:
        assert x == pytest.approx((begin + end) / 2, abs=2 * DOT)
