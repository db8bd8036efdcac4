"""Rasterization of SVG drawings, with a limit on their size, and refusal of what would be drawn
otherwise than a browser draws it: text, files beside the drawing, HTML, animation, some CSS."""

from __future__ import annotations

import base64
import binascii
import io
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from physadv.core.errors import ImageError

MOST_SVG_ASPECT = 50.0
"""Drawings longer than this many times their width, or the reverse, are refused."""
_SVG = "{http://www.w3.org/2000/svg}"
_HREFS = ("href", "{http://www.w3.org/1999/xlink}href")
_TEXT_REMEDY = "Turn text into paths (Inkscape: Path > Object to Path)"
_DRAW_REMEDY = "Draw it with plain shapes, or name a PNG of the drawing"
_TEXT = ("text", "flowRoot", "textArea")
_UNDRAWN = {
    "foreignObject": "HTML in it",
    "script": "a script in it",
    "animate": "an animation in it",
    "animateColor": "an animation in it",
    "animateMotion": "an animation in it",
    "animateTransform": "an animation in it",
    "set": "an animation in it",
    "meshgradient": "a mesh gradient in it",
    "meshGradient": "a mesh gradient in it",
    "mesh": "a mesh gradient in it",
    "hatch": "a hatch in it",
    "solidcolor": "a solidcolor in it",
    "solidColor": "a solidcolor in it",
    "video": "a video in it",
    "canvas": "a canvas in it",
    "iframe": "a page in it",
}
"""Elements that the renderer leaves out."""
_UNITS_PX = {
    **{"": 1.0, "px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4},
    **{"em": 16.0, "ex": 8.0},
}
_LENGTH = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-z%]*)")

_FUNCTION = re.compile(r"\b(var|calc|env|attr|min|max|clamp)\(")
_COLOR_FUNCTION = re.compile(r"\b(hwb|lab|lch|oklab|oklch|color|color-mix|light-dark)\(")
_REFERENCE = re.compile(r"url\(\s*['\"]?([^'\")]*)['\"]?\s*\)\s*(\S*)")
_COLORS = ("fill", "stroke", "color", "stop-color", "flood-color", "lighting-color")
_GEOMETRY = ("d", "cx", "cy", "r", "rx", "ry", "x", "y", "width", "height")
_PSEUDO = re.compile(r"::?[\w-]+(?:\([^)]*\))?")
_HARMLESS_PSEUDO = (":first-child", ":hover", ":focus", ":active", ":visited", ":link")


def rasterize_svg(
    svg: str, width_px: int, *, name: str = "SVG", most_px: int = 200_000_000
) -> npt.NDArray[np.uint8]:
    """Rasterize an SVG drawing.

    Args:
        svg: The drawing, as text.
        width_px: Width in px; the height follows the drawing's aspect.
        name: Name of the drawing in errors.
        most_px: Most pixels of the picture; no larger one is begun.

    Returns:
        Pixels (h, w, 4) uint8, transparent where nothing is drawn.

    Raises:
        ImageError: The text is no SVG, names no size, is too long for its width, or holds what
            would be left out or drawn otherwise than in a browser; the error names it.

    Example:
        >>> square = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"><path/></svg>'
        >>> rasterize_svg(square, 8).shape
        (4, 8, 4)
    """
    import resvg_py

    root = _parse(svg, name)
    _check_size(root, width_px, name, most_px)
    _check_content(root, svg, name, most_px)
    try:
        png = bytes(resvg_py.svg_to_bytes(svg_string=svg, width=int(width_px), dpi=96))
        with Image.open(io.BytesIO(png)) as opened:
            return np.asarray(opened.convert("RGBA"), dtype=np.uint8).copy()
    except (ValueError, OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise _no_svg(name, error) from error


def decode_svg(data: bytes, name: str) -> str:
    """Return the text of an SVG file in the encoding that it declares.

    Args:
        data: Content of the file.
        name: Name of the file in errors.

    Raises:
        ImageError: The content is of another encoding, or compressed.
    """
    if data.startswith(b"\x1f\x8b"):
        raise ImageError(name, "a compressed SVG (.svgz)", "Unpack it with gunzip")
    declared = re.match(rb"""\s*<\?xml[^>]*encoding=["']([\w.-]+)""", data)
    marked = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    encoding = "utf-16" if marked else declared[1].decode() if declared else "utf-8-sig"
    try:
        text = data.decode("utf-8-sig" if encoding.lower() == "utf-8" else encoding)
    except (UnicodeError, LookupError) as error:
        raise _no_svg(name, error) from error
    return re.sub(r"^\s*<\?xml[^>]*\?>", "", text)


def _no_svg(name: str, error: Exception) -> ImageError:
    return ImageError(name, f"not a readable SVG ({error})", "replace or remove the file")


def _parse(svg: str, name: str) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(svg)
    except ElementTree.ParseError as error:
        raise _no_svg(name, error) from error
    if _name_of(root) != "svg":
        limit = f"not a readable SVG (its root is <{root.tag}>)"
        raise ImageError(name, limit, "replace or remove the file")
    return root


def _name_of(element: ElementTree.Element) -> str:
    """Return the name of an SVG element; nothing for those of other languages."""
    name = str(element.tag).removeprefix(_SVG)
    return "" if "}" in name else name


def _check_size(root: ElementTree.Element, width_px: int, name: str, most_px: int) -> None:
    """Refuse drawings without a size, or with one that would take too many pixels."""
    width, height = _size_px(root, name)
    aspect = height / width if width > 0 else float("inf")
    if not 1 / MOST_SVG_ASPECT <= aspect <= MOST_SVG_ASPECT:
        raise ImageError(
            name,
            f"its sides are {width:g} and {height:g}; at most {MOST_SVG_ASPECT:g} : 1 is drawn",
            "Cut the page to the drawing",
        )
    if width_px * width_px * aspect > most_px:
        size = f"{width_px}x{round(width_px * aspect)}"
        raise ImageError(name, f"{size} is over {most_px} px", "Cut the page to the drawing")


def _size_px(root: ElementTree.Element, name: str) -> tuple[float, float]:
    """Return width and height of a drawing in px."""
    lengths = [root.get(key, "auto").strip() for key in ("width", "height")]
    absolute = [
        float(match[1]) * _UNITS_PX[match[2]]
        for match in map(_LENGTH.fullmatch, lengths)
        if match and match[2] in _UNITS_PX
    ]
    if len(absolute) == 2:
        return absolute[0], absolute[1]

    box = [float(number) for number, _ in _LENGTH.findall(root.get("viewBox", ""))]
    if len(box) != 4 or min(box[2:]) <= 0:
        raise ImageError(name, "it names no size", "Add a viewBox to its <svg>")
    if any("%" in length for length in lengths) and lengths[0] != lengths[1]:
        raise ImageError(
            name,
            f"its width is {lengths[0]} and its height {lengths[1]}, a share of a page",
            "Remove both; its viewBox gives the size",
        )
    return box[2], box[3]


def _check_content(root: ElementTree.Element, svg: str, name: str, most_px: int) -> None:
    """Refuse what the renderer would leave out without a word."""
    if "<?xml-stylesheet" in svg:
        raise ImageError(name, "its style sheet is another file", _DRAW_REMEDY)
    identifiers = {element.get("id") for element in root.iter()}
    for element in _drawn(root):
        tag = _name_of(element)
        if tag in _TEXT and (words := " ".join("".join(element.itertext()).split())):
            limit = f"its text {words[:30]!r} would depend on the fonts of this machine"
            raise ImageError(name, limit, _TEXT_REMEDY)
        if tag in _UNDRAWN:
            raise ImageError(name, f"{_UNDRAWN[tag]} ({tag}) is not drawn", _DRAW_REMEDY)

        _check_link(element, tag, identifiers, name, most_px)
        for key, value in element.attrib.items():
            if key != "style" and "}" not in key:
                _check_declaration(key, value, identifiers, name, css=False)
        for key, value in _declarations(element.get("style", "")):
            if element is root and key in {"width", "height"}:
                continue
            if element is root and key.startswith("background"):
                _check_background(value, name)
            _check_declaration(key, value, identifiers, name)
        if tag == "style":
            _check_sheet("".join(element.itertext()), identifiers, name)


def _drawn(element: ElementTree.Element) -> Iterator[ElementTree.Element]:
    """Yield SVG elements without those that no browser draws either, such as hidden layers."""
    if not _name_of(element):
        return
    style = dict(_declarations(element.get("style", "")))
    if "none" in (element.get("display"), style.get("display")):
        return
    if element.get("requiredExtensions") is not None:
        return
    yield element
    for child in element:
        yield from _drawn(child)


def _check_link(
    element: ElementTree.Element, tag: str, identifiers: set[str | None], name: str, most_px: int
) -> None:
    """Refuse links to other files, to nothing, and to pictures that are too large."""
    link = next((element.get(key) for key in _HREFS if element.get(key)), None)
    if link is None or tag == "a":
        return
    link = link.strip()
    if link.startswith("#"):
        if link[1:] not in identifiers:
            raise ImageError(name, f"<{tag}> shows {link}, which is not in it", _DRAW_REMEDY)
        return
    if tag not in {"image", "feImage"} or not link.startswith("data:"):
        limit = f"<{tag}> shows another file ({link[:40]})"
        raise ImageError(name, limit, "Embed it in the drawing, or name a PNG of the drawing")

    kind, _, content = link[5:].partition(",")
    try:
        encoded = "".join(content.split()).encode()
        data = base64.b64decode(encoded) if ";base64" in kind else unquote_to_bytes(content)
        with Image.open(io.BytesIO(data)) as picture:
            known = picture.format in {"PNG", "JPEG", "GIF", "WEBP"}
            size = picture.size
    except (OSError, ValueError, binascii.Error, Image.DecompressionBombError) as error:
        limit = f"a picture embedded in it ({kind[:30]}) is not drawn"
        raise ImageError(name, limit, "Embed it as PNG or JPEG") from error
    if not known:
        raise ImageError(name, f"a picture in it is {kind[:30]}", "Embed it as PNG or JPEG")
    if size[0] * size[1] > most_px:
        raise ImageError(name, f"a picture in it has {size[0]}x{size[1]} px", "Embed a smaller one")


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """Yield the properties of a style and their values."""
    for part in re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL).split(";"):
        key, colon, value = part.partition(":")
        if colon:
            yield key.strip().lower(), value.replace("!important", "").strip()


def _check_declaration(
    key: str, value: str, identifiers: set[str | None], name: str, *, css: bool = True
) -> None:
    """Refuse a property, of an attribute or of CSS, that the renderer leaves out."""
    if key.startswith("--"):
        return
    lower = value.lower()

    def refuse() -> ImageError:
        return ImageError(name, f"its {key}: {value[:40]} is not drawn", _DRAW_REMEDY)

    if _FUNCTION.search(lower) and key not in {"id", "class"}:
        raise refuse()
    if key in _COLORS and _COLOR_FUNCTION.search(lower):
        raise refuse()
    if css and key in (*_GEOMETRY, "translate", "rotate", "scale", "offset-path", "zoom"):
        raise refuse()
    if css and key == "transform" and re.search(r"\d(deg|rad|turn|px|%|em)|3d|[xyz]\(", lower):
        raise refuse()
    if key == "vector-effect" and lower not in {"none", "inherit"}:
        raise refuse()
    is_image = key.startswith("mask-") and key != "mask-type"
    if (is_image and lower not in {"none", "inherit"}) or (
        key in {"clip-path", "mask"} and not re.match(r"url\(|none$|inherit$", lower)
    ):
        raise refuse()

    if key in _COLORS or key in {"filter", "clip-path", "mask"}:
        for target, fallback in _REFERENCE.findall(value):
            if not target.startswith("#"):
                raise refuse()
            if target[1:] not in identifiers and not fallback:
                limit = f"its {key} names {target}, which is not in it"
                raise ImageError(name, limit, _DRAW_REMEDY)


def _check_background(value: str, name: str) -> None:
    """Refuse a background of the page that is seen in a browser; white is what papers are."""
    plain = "".join(value.lower().split())
    if not re.fullmatch(r"none|transparent|white|#fff(fff)?|rgb\(255,255,255\)", plain):
        raise ImageError(
            name, f"its background {value[:30]} is not drawn", "Draw it as a rectangle"
        )


def _check_sheet(sheet: str, identifiers: set[str | None], name: str) -> None:
    """Refuse rules of a style sheet that the renderer passes over."""
    sheet = re.sub(r"/\*.*?\*/|<!--|-->", "", sheet, flags=re.DOTALL)
    sheet = re.sub(r"@font-face\s*\{[^}]*\}|@(charset|namespace)[^;]*;", "", sheet)
    if rule := re.search(r"@[\w-]+", sheet):
        raise ImageError(name, f"the rule {rule[0]} of its style sheet is not drawn", _DRAW_REMEDY)

    for selectors, block in re.findall(r"([^{}]+)\{([^{}]*)\}", sheet):
        declarations = list(_declarations(block))
        if all(key.startswith("--") for key, _ in declarations):
            continue
        for selector in selectors.split(","):
            plain = re.sub(r"\[[^\]]*\]", "", selector)
            unknown = [p for p in _PSEUDO.findall(plain) if p not in _HARMLESS_PSEUDO]
            if unknown or "~" in plain or "|" in plain:
                limit = f"the selector {selector.strip()[:40]!r} of its style sheet is not drawn"
                raise ImageError(name, limit, _DRAW_REMEDY)
        for key, value in declarations:
            if key.startswith("background") and selectors.strip() in {"svg", "*"}:
                _check_background(value, name)
            _check_declaration(key, value, identifiers, name)
