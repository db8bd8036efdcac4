"""SVG drawings are drawn as browsers draw them, or refused with what could not be drawn."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from physadv.core.errors import ImageError
from physadv.core.image_io import read_rgba
from physadv.core.svg import decode_svg, rasterize_svg

RED = '<rect id="r" class="a" width="50" height="50" fill="red"/>'


def drawing(body: str, size: str = 'viewBox="0 0 100 100"') -> str:
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f"{size}>{body}</svg>"
    )


def png(size: tuple[int, int] = (4, 4)) -> str:
    buffer = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "body",
    [
        RED,
        f"<style>.a {{ fill: red }} @font-face {{ font-family: x }}</style>{RED}",
        f"<style>/* @import */ g > rect, rect:first-child, .b:hover {{ fill: red }}</style>{RED}",
        f'<defs>{RED}</defs><use href="#r"/>',
        f'<image width="50" height="50" href="{png()}"/>',
        '<linearGradient id="g"><stop stop-color="red"/></linearGradient>'
        '<rect width="50" height="50" fill="url(#g)"/>',
        '<rect width="50" height="50" fill="url(#none) red"/>',
        f'<g style="display:none"><text>hidden</text></g>{RED}',
        f'<g display="none"><foreignObject/></g><text> </text>{RED}',
        f'<switch><foreignObject requiredExtensions="x"/><g>{RED}</g></switch>',
        f"<style>:root {{ --color: red }}</style>{RED}",
        f'<title>A</title><desc>text</desc><metadata>x</metadata><a href="http://x.y">{RED}</a>',
    ],
)
def test_what_is_drawn_is_a_quarter_of_red(body: str) -> None:
    """Shapes, CSS, gradients, links within and embedded pictures; what is hidden is no fault."""
    rgba = rasterize_svg(drawing(body), 100)
    visible = rgba[..., 3] > 127
    assert float(visible.mean()) == pytest.approx(0.25, abs=0.01)
    assert rgba[visible][:, :3].mean(0) == pytest.approx([255, 0, 0], abs=3)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('<text y="80" font-family="Arial">A</text>', "its text 'A'"),
        ("<g><text><tspan>S</tspan><tspan>T</tspan></text></g>", "its text 'ST'"),
        ("<flowRoot><flowPara>A</flowPara></flowRoot>", "its text 'A'"),
        ('<foreignObject width="9" height="9"/>', "HTML in it"),
        ('<image href="photo.png" width="9" height="9"/>', r"another file \(photo\.png\)"),
        ('<image xlink:href="http://x.y/a.png"/>', r"another file \(http://x"),
        ('<image href="data:image/png;base64,AAAA"/>', "picture embedded"),
        ('<image href="data:image/svg+xml,%3Csvg/%3E"/>', "picture embedded"),
        ('<use href="other.svg#a"/>', "another file"),
        ('<use href="#nothing"/>', "#nothing, which is not in it"),
        ('<rect fill="url(#nothing)"/>', "its fill names #nothing"),
        ('<rect style="filter:url(#nothing)"/>', "its filter names #nothing"),
        ('<rect style="fill:var(--x,red)"/>', r"its fill: var\(--x,red\)"),
        ('<rect style="stroke-width:calc(1px + 2px)"/>', "its stroke-width: calc"),
        ('<circle style="r:30px"/>', "its r: 30px"),
        ("<path style=\"d:path('M0 0')\"/>", "its d: path"),
        ('<rect style="transform:rotate(45deg)"/>', "its transform: rotate"),
        ('<rect style="fill:oklch(0.6 0.2 20)"/>', "its fill: oklch"),
        ('<rect fill="color(display-p3 1 0 0)"/>', "its fill: color"),
        ('<rect style="clip-path:circle(20px)"/>', "its clip-path: circle"),
        ('<rect style="mask-image:linear-gradient(red,blue)"/>', "its mask-image"),
        ('<path vector-effect="non-scaling-stroke"/>', "its vector-effect"),
        ("<style>@import 'a.css';</style>", "the rule @import"),
        ("<style>@media print{rect{fill:red}}</style>", "the rule @media"),
        ("<style>rect:nth-child(2){fill:red}</style>", "the selector 'rect:nth-child"),
        ("<style>g ~ rect{fill:red}</style>", "the selector 'g ~ rect'"),
        ("<style>svg{background:red}</style>", "its background red"),
        ("<rect><animate attributeName='width' to='9'/></rect>", "an animation in it"),
        ("<meshgradient/>", "a mesh gradient in it"),
        ("<script/>", "a script in it"),
    ],
)
def test_what_would_be_left_out_is_refused_by_name(body: str, said: str) -> None:
    """Nothing of a drawing is dropped without a word."""
    with pytest.raises(ImageError, match=said):
        rasterize_svg(drawing(body + RED), 50)


@pytest.mark.parametrize(
    ("size", "height"),
    [
        ('viewBox="0 0 10 20"', 128),
        ('width="10" height="20"', 128),
        ('viewBox="0,0,10,20" width="auto"', 128),
        ('viewBox="0 0 10 20" width="4in" height="1in"', 16),
        ('viewBox="0 0 10 20" width="5"', 128),
        ('viewBox="0 0 10 20" height="600"', 128),
        ('viewBox="0 0 10 20" width="100%" height="100%"', 128),
        ('width="10em" height="10ex"', 32),
        ('width="1e9" height="1e9"', 64),
    ],
)
def test_the_height_follows_the_aspect(size: str, height: int) -> None:
    """Lengths with units, shares and the viewBox give the aspect that browsers take."""
    assert rasterize_svg(drawing(RED, size), 64).shape == (height, 64, 4)


@pytest.mark.parametrize(
    ("size", "said"),
    [
        ('viewBox="0 0 1 1000"', "its sides are 1 and 1000; at most 50 : 1"),
        ('viewBox="0 0 1000 1"', "its sides are 1000 and 1; at most"),
        ('viewBox="0 0 1 1" width="100%" height="600"', "a share of a page"),
        ('width="1" height="1e9"', "its sides are 1 and 1e"),
        ('width="0" height="3"', "its sides are 0 and 3"),
        ("", "it names no size"),
        ('width="100"', "it names no size"),
        ('viewBox="0 0 0 0"', "it names no size"),
    ],
)
def test_sizes_are_judged_before_a_pixel_is_drawn(size: str, said: str) -> None:
    """Strips, empty pages and pages without a size are one line, not gigabytes."""
    with pytest.raises(ImageError, match=said):
        rasterize_svg(drawing(RED, size), 512)


def test_a_root_without_namespace_is_checked_all_the_same() -> None:
    """Old files lack the namespace; they are drawn, and their text is refused as well."""
    plain = drawing(RED).replace('xmlns="http://www.w3.org/2000/svg" ', "", 1)
    assert np.array_equal(rasterize_svg(plain, 20), rasterize_svg(drawing(RED), 20))
    with pytest.raises(ImageError, match="its text 'A'"):
        rasterize_svg(plain.replace("</svg>", "<text>A</text></svg>"), 20)


def test_too_many_pixels_are_refused(tmp_path: Path) -> None:
    """No picture is begun that is over the limit."""
    with pytest.raises(ImageError, match="100x400 is over 30000 px"):
        rasterize_svg(drawing(RED, 'viewBox="0 0 1 4"'), 100, most_px=30_000)
    (tmp_path / "strip.svg").write_text(drawing(RED, 'viewBox="0 0 1 49"'))
    with pytest.raises(ImageError, match=r"strip\.svg: 8192x401408 is over"):
        read_rgba(tmp_path / "strip.svg", svg_px=8192)


def test_encodings_of_the_file() -> None:
    """An SVG is read in the encoding that it declares; a compressed one is named."""
    text = f'<?xml version="1.0" encoding="ENC"?>{drawing("<title>Straße</title>" + RED)}'
    for encoding in ("utf-8", "iso-8859-1", "utf-16"):
        svg = decode_svg(text.replace("ENC", encoding).encode(encoding), "a.svg")
        assert "Straße" in svg
        assert np.array_equal(rasterize_svg(svg, 10), rasterize_svg(drawing(RED), 10))
    with pytest.raises(ImageError, match="gunzip"):
        decode_svg(b"\x1f\x8b\x08", "a.svg")
    with pytest.raises(ImageError, match=r"a\.svg: not a readable SVG"):
        decode_svg(b'<?xml version="1.0" encoding="nonsense"?>', "a.svg")
