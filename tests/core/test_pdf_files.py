"""PDF files are read in a process of their own: what is broken or endless is one line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pypdfium2
import pytest

from physadv.core import pdf_drawing
from physadv.core.errors import ImageError
from physadv.core.package_data import patches_dir
from physadv.core.pdf_files import read_trimmed, render_parts

SHEET = patches_dir() / "stop-sticker-signs-v1" / "sheet.pdf"


def pdf(content: str, *, box: str = "0 0 100 100", pages: int = 1) -> bytes:
    """A PDF of one page, whose table readers have to mend."""
    return (
        "%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n"
        f"2 0 obj<</Type/Pages/Kids[3 0 R]/Count {pages}>>endobj\n"
        f"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[{box}]/Contents 4 0 R>>endobj\n"
        f"4 0 obj<</Length {len(content)}>>stream\n{content}\nendstream endobj\n"
        "trailer<</Root 1 0 R>>"
    ).encode()


def test_a_page_is_drawn_as_by_the_renderer_itself() -> None:
    """Neither the process nor the window changes a pixel."""
    with pypdfium2.PdfDocument(str(SHEET)) as document:
        picture = document[0].render(scale=50 / 72).to_pil().convert("RGB")
    facts, (part,) = render_parts(SHEET, [(0, None)], dpi=50)
    assert np.array_equal(part.pixels, np.asarray(picture))
    assert part.window == (0, 0, *facts.pages[0].size)


def test_all_parts_come_from_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of pages, and a TrimBox with the facts, each take one process, and are what they are
    when drawn alone."""
    started: list[object] = []
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: started.append(a) or run(*a, **k))
    windows = [(100.0, 200.0, 300.0, 350.0), (10.0, 20.0, 63.0, 40.0)]
    _, parts = render_parts(SHEET, [(0, w) for w in windows], dpi=72, is_gray=True)
    assert [part.pixels.shape for part in parts] == [(150, 200), (20, 53)]
    assert len(started) == 1
    for window, part in zip(windows, parts, strict=True):
        alone = render_parts(SHEET, [(0, window)], dpi=72, is_gray=True)[1][0]
        assert np.array_equal(alone.pixels, part.pixels)

    started.clear()
    facts, trimmed = read_trimmed(SHEET, dpi=72)
    assert len(started) == 1
    assert trimmed is not None
    box, height = facts.pages[0].trim_box, facts.pages[0].size[1]
    assert box is not None
    left, top, right, bottom = trimmed.window
    assert (left, height - bottom) <= (box[0], box[1])
    assert (right, height - top) >= (box[2], box[3])
    assert np.array_equal(
        render_parts(SHEET, [(0, trimmed.window)], dpi=72)[1][0].pixels, trimmed.pixels
    )


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not a readable PDF"),
        (b"%PDF-1.4", "not a readable PDF"),
        (SHEET.read_bytes()[:5000], "not a readable PDF"),
        (pdf("0 0 50 50 re f", box="0 0 12000 12000"), "px"),
        (pdf("0 0 50 50 re f", box="0 0 -5 0"), ""),
        (pdf("0 0 50 50 re f", pages=2_000_000_000), ""),
        (pdf("q " * 2_000_000 + "0 0 50 50 re f"), ""),
        (pdf("/X Do " * 10), ""),
    ],
    ids=["nothing", "a head", "torn", "gigapixels", "no area", "pages", "nesting", "no object"],
)
def test_a_broken_pdf_is_one_line_or_a_picture(tmp_path: Path, data: bytes, said: str) -> None:
    """Its process dies alone."""
    (tmp_path / "a.pdf").write_bytes(data)
    refused = ""
    try:
        _, (part,) = render_parts(tmp_path / "a.pdf", [(0, None)], dpi=72)
        assert part.pixels.shape[2] == 3
    except ImageError as error:
        refused = str(error)
    assert said in refused


def test_a_page_that_takes_minutes_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processor time of the process is bounded."""
    monkeypatch.setattr(pdf_drawing, "MOST_SECONDS", 1)
    curve = "0 0 m 5000 5000 -5000 5000 100 0 c 100 w S "
    (tmp_path / "a.pdf").write_bytes(pdf(curve * 60_000, box="0 0 5000 5000"))
    with pytest.raises(ImageError, match="takes over 1 s to draw"):
        render_parts(tmp_path / "a.pdf", [(0, None)], dpi=72)


def test_other_pages_and_names(tmp_path: Path) -> None:
    """A page that is not there is one line; a name may be no text."""
    with pytest.raises(ImageError, match="1 pages, not 4"):
        render_parts(SHEET, [(3, None)], dpi=20)
    odd = tmp_path / b"\xff.pdf".decode("utf-8", "surrogateescape")
    odd.write_bytes(SHEET.read_bytes())
    assert len(read_trimmed(odd, dpi=20)[0].pages) == 1
