"""Drawings that would hang, crash or fill the machine are one line within their limits."""

from __future__ import annotations

import base64
import re
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest

from physadv.core import svg_drawing
from physadv.core.errors import ImageError
from physadv.core.svg import rasterize_svg


def drawing(body: str, size: str = 'viewBox="0 0 100 100"') -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'


def png(side: int) -> str:
    """A white square picture of one bit a pixel, as an address: a few kilobytes."""

    def chunk(name: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + check

    header, rows = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0), zlib.compressobj(9)
    packed = b"".join(rows.compress(bytes(1 + side // 8)) for _ in range(side)) + rows.flush()
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + chunks).decode()
    return f"data:image/png;base64,{data}"


def doubled(inner: str, times: int) -> str:
    """Groups that each show the one before twice: 2^times copies of ``inner``."""
    steps = "".join(
        f'<g id="g{n + 1}"><use href="#g{n}"/><use href="#g{n}" x="1"/></g>' for n in range(times)
    )
    return f'<defs><g id="g0">{inner}</g>{steps}</defs><use href="#g{times}"/>'


RED = '<rect width="50" height="50" fill="red"/>'
BOMBS = {
    "nested groups": ("<g>" * 200_000 + RED + "</g>" * 200_000, "it nests over 200"),
    "unclosed groups": ("<g>" * 200_000, "it nests over 200"),
    "many elements": ("<g/>" * 600_000, "has over 500000 elements"),
    "copies of copies": (doubled(RED, 40), "nodes limit reached"),
    "a use of itself": ('<g id="a"><use href="#a"/></g>', ""),
    "a pattern of itself": (
        '<pattern id="p" width="1" height="1"><rect width="9" height="9" fill="url(#p)"/></pattern>'
        '<rect width="99" height="99" fill="url(#p)"/>',
        "",
    ),
    "a mask of itself": (
        f'<mask id="m">{RED}<rect width="9" height="9" mask="url(#m)"/></mask>'
        '<rect width="9" height="9" mask="url(#m)"/>',
        "",
    ),
    "a filter of 30,000 turbulences": (
        '<filter id="f" x="0" y="0" width="1" height="1">'
        + '<feTurbulence baseFrequency="1" numOctaves="1000000"/>' * 30_000
        + '</filter><rect width="100" height="100" filter="url(#f)"/>',
        "to draw|its renderer",
    ),
    "layers in layers": (
        '<g opacity=".5">' * 150 + RED + "</g>" * 150,
        "",
    ),
    "an embedded picture of 400 megapixels": (
        f'<image width="9" height="9" href="{png(20_000)}"/>',
        "to draw|its renderer",
    ),
    "a style sheet without an end": (f"<style>{'a' * 300_000}</style>{RED}", ""),
    "references without an end": (f'<rect width="9" height="9" fill="{"url(" * 200_000}"/>', ""),
    "blanks in a reference": (f'<rect width="9" height="9" fill="url({" " * 200_000}"/>', ""),
    "comments without an end": (f"<style>{'/*' * 200_000}</style>{RED}", ""),
    "fonts without an end": (f"<style>{'@font-face{' * 100_000}</style>{RED}", ""),
    "selectors without an end": (f"<style>{':a(' * 100_000}{{fill:red}}</style>{RED}", ""),
    "attributes without an end": (f"<style>{'[a' * 100_000}{{fill:red}}</style>{RED}", ""),
    "many dashes": (
        '<path d="M0 0H1e9" stroke="red" stroke-dasharray="1e-7"/>',
        "",
    ),
}


DRAW = """
import resource, sys
from physadv.core.errors import ImageError
from physadv.core.svg import rasterize_svg
try:
    print(rasterize_svg(sys.stdin.read(), 512).shape)
except ImageError as error:
    print(error)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
"""Draws in a small process: what a child has taken counts what its parent had when it began."""


@pytest.mark.parametrize(("body", "said"), BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_one_line_or_a_picture(body: str, said: str) -> None:
    """The process of the drawing dies alone; where it ends in time, its picture is as asked."""
    done = subprocess.run(
        [sys.executable, "-c", DRAW],
        input=drawing(body),
        capture_output=True,
        text=True,
        check=True,
    )
    line, most_kb = done.stdout.splitlines()
    assert re.search(said, "" if line == "(512, 512, 4)" else line)
    assert int(most_kb) * 1024 < svg_drawing.MOST_MEMORY_BYTES


@pytest.mark.parametrize(
    "document",
    [
        '<!DOCTYPE svg [<!ENTITY a "aaaaaaaaaa">'
        + "".join(f'<!ENTITY a{n} "{f"&a{n - 1 or str()};" * 10}">' for n in range(1, 12))
        + f"]>{drawing('<title>&a11;</title>' + RED)}",
        f'<!DOCTYPE svg [<!ENTITY a SYSTEM "file:///etc/passwd">]>{drawing("<title>&a;</title>")}',
        f'<!DOCTYPE svg [<!ENTITY a "&b;"><!ENTITY b "&a;">]>{drawing("<title>&a;</title>")}',
    ],
    ids=["a billion laughs", "an outer entity", "an entity of itself"],
)
def test_entities_neither_grow_nor_read_files(document: str) -> None:
    with pytest.raises(ImageError, match="not a readable SVG"):
        rasterize_svg(document, 64)


def test_an_entity_of_an_editor_is_read() -> None:
    """Illustrator names its namespaces by entities."""
    document = '<!DOCTYPE svg [<!ENTITY ns "http://www.w3.org/2000/svg">]>' + drawing(RED).replace(
        "http://www.w3.org/2000/svg", "&ns;"
    )
    assert np.array_equal(rasterize_svg(document, 64), rasterize_svg(drawing(RED), 64))
