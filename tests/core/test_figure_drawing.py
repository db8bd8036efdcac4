"""A figure of a study is drawn in a process of its own, whose end is one error."""

from __future__ import annotations

import pytest

from physadv.core import drawing_process, figure_drawing
from physadv.core.errors import ImageError
from physadv.core.image_io import decode_rgba
from physadv.report.figure_files import rasterize_figure

FIGURE = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 40 20"><rect width="20" height="20" '
    'fill="#00f"/><text x="22" y="15" font-size="12">a</text></svg>'
)


def test_a_figure_is_drawn_with_its_text() -> None:
    """The width is the one asked for, shapes have their color, and the font is found."""
    drawn = decode_rgba(rasterize_figure(FIGURE, 80), "figure")
    assert drawn.shape == (40, 80, 4)
    assert drawn[20, 10].tolist() == [0, 0, 255, 255]
    assert drawn[:, 42:, 3].any()


def test_memory_that_runs_out_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The renderer, in Rust, aborts its process then: not this one."""
    monkeypatch.setattr(figure_drawing, "MOST_MEMORY_BYTES", 96 << 20)
    with pytest.raises(ImageError, match=r"figure: takes over .* to draw"):
        rasterize_figure(FIGURE, 6000)
    # A limit that this process hands on, as a shell's ulimit sets it, is not the figure's fault.
    monkeypatch.setattr(drawing_process, "_most_memory_bytes", lambda: 1 << 20)
    with pytest.raises(ImageError, match="more memory than there is"):
        rasterize_figure(FIGURE, 6000)


def test_a_figure_that_is_none_is_one_error() -> None:
    """A fault of this program would be told, not drawn."""
    with pytest.raises(ImageError, match="not a readable SVG"):
        rasterize_figure("<svg")
