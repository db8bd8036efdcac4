"""Drawing of one SVG, within the process of :mod:`physadv.core.drawing_child`.

It imports the standard library and the renderer alone, and rare parts where they are needed.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

MOST_MEMORY_BYTES, MOST_SECONDS = 3 << 29, 4
"""Limits of the process: its address space, and its processor time."""
_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8")
"""First bytes of the pictures that the renderer shows inside a drawing, beside WebP."""
_MOST_DEPTH, _MOST_ELEMENTS = 200, 500_000
_MOST_ASPECT = 50.0
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
_LENGTH = re.compile(r"([+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*([a-z%]*)")

_FUNCTION = re.compile(r"\b(var|calc|env|attr|min|max|clamp)\(")
_COLOR_FUNCTION = re.compile(r"\b(hwb|lab|lch|oklab|oklch|color|color-mix|light-dark)\(")
_REFERENCE = re.compile(r"url\(((?:'[^']*'|\"[^\"]*\"|[^'\"()])*)\)\s*(\S*)")
_COLORS = ("fill", "stroke", "color", "stop-color", "flood-color", "lighting-color")
_GEOMETRY = ("d", "cx", "cy", "r", "rx", "ry", "x", "y", "width", "height")
_PSEUDO = re.compile(r"::?[\w-]+(?:\([^()]*\))?")
_HARMLESS_PSEUDO = (":first-child", ":hover", ":focus", ":active", ":visited", ":link")


class RefusedError(Exception):
    """A drawing that is not drawn: why, and what to do."""

    def __init__(self, limit: str, remedy: str) -> None:
        super().__init__(limit, remedy)


class _BoundedTree(ElementTree.TreeBuilder):
    """A tree of at most some depth and number of elements."""

    depth = elements = 0

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        """Begin an element."""
        self.depth, self.elements = self.depth + 1, self.elements + 1
        if self.depth > _MOST_DEPTH or self.elements > _MOST_ELEMENTS:
            raise RefusedError(
                f"it nests over {_MOST_DEPTH} or has over {_MOST_ELEMENTS} elements", _DRAW_REMEDY
            )
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        """End an element."""
        self.depth -= 1
        return super().end(tag)


def draw(
    data: bytes,
    no_new_files: Callable[[], AbstractContextManager[None]],
    width_px: str,
    most_px: str,
) -> bytes:
    """Draw an SVG as a PNG file.

    Args:
        data: The drawing, as UTF-8.
        no_new_files: Context in which the process can open nothing.
        width_px: Width in px.
        most_px: Most pixels of the picture.

    Raises:
        RefusedError: It is not drawn.
    """
    import resvg_py

    svg = data.decode()
    root = _parse(svg)
    _check_size(root, int(width_px), int(most_px))
    _check_content(root, svg)
    del root

    with no_new_files():
        try:
            return bytes(
                resvg_py.svg_to_bytes(
                    svg_string=svg, width=int(width_px), dpi=96, skip_system_fonts=True
                )
            )
        except ValueError as error:
            raise _unreadable(error) from error


def _parse(svg: str) -> ElementTree.Element:
    try:
        root = ElementTree.fromstring(svg, ElementTree.XMLParser(target=_BoundedTree()))
    except (ElementTree.ParseError, ValueError) as error:
        raise _unreadable(error) from error
    if _name_of(root) != "svg":
        limit = f"not a readable SVG (its root is <{root.tag[:60]}>)"
        raise RefusedError(limit, "Replace or remove the file")
    return root


def _unreadable(error: Exception) -> RefusedError:
    reason = str(error).partition("\n")[0][:160]
    return RefusedError(f"not a readable SVG ({reason})", "Replace or remove the file")


def _name_of(element: ElementTree.Element) -> str:
    """Return the name of an SVG element; nothing for those of other languages."""
    name = str(element.tag).removeprefix(_SVG)
    return "" if "}" in name else name


def _check_size(root: ElementTree.Element, width_px: int, most_px: int) -> None:
    """Refuse drawings without a size, or with one that would take too many pixels."""
    width, height = _size_px(root)
    aspect = height / width if width > 0 else float("inf")
    if not 1 / _MOST_ASPECT <= aspect <= _MOST_ASPECT:
        raise RefusedError(
            f"its sides are {width:g} and {height:g}; at most {_MOST_ASPECT:g} : 1 is drawn",
            "Cut the page to the drawing",
        )
    if width_px * width_px * aspect > most_px:
        size = f"{width_px}x{round(width_px * aspect)}"
        raise RefusedError(f"{size} is over {most_px} px", "Cut the page to the drawing")


def _size_px(root: ElementTree.Element) -> tuple[float, float]:
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
        raise RefusedError("it names no size", "Add a viewBox to its <svg>")
    if any("%" in length for length in lengths) and lengths[0] != lengths[1]:
        raise RefusedError(
            f"its width is {lengths[0]} and its height {lengths[1]}, a share of a page",
            "Remove both; its viewBox gives the size",
        )
    return box[2], box[3]


def _check_content(root: ElementTree.Element, svg: str) -> None:
    """Refuse what the renderer would leave out without a word."""
    if "<?xml-stylesheet" in svg:
        raise RefusedError("its style sheet is another file", _DRAW_REMEDY)
    identifiers = {element.get("id") for element in root.iter()}
    for element in _drawn(root):
        tag = _name_of(element)
        if tag in _TEXT and (words := " ".join("".join(element.itertext()).split())):
            limit = f"its text {words[:30]!r} would depend on the fonts of this machine"
            raise RefusedError(limit, _TEXT_REMEDY)
        if tag in _UNDRAWN:
            raise RefusedError(f"{_UNDRAWN[tag]} ({tag}) is not drawn", _DRAW_REMEDY)

        _check_link(element, tag, identifiers)
        for key, value in element.attrib.items():
            if key != "style" and "}" not in key:
                _check_declaration(key, value, identifiers, css=False)
        for key, value in _declarations(element.get("style", "")):
            if element is root and key in {"width", "height"}:
                continue
            if element is root and key.startswith("background"):
                _check_background(value)
            _check_declaration(key, value, identifiers)
        if tag == "style":
            _check_sheet("".join(element.itertext()), identifiers)


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


def _check_link(element: ElementTree.Element, tag: str, identifiers: set[str | None]) -> None:
    """Refuse links to other files, to nothing, and to pictures that the renderer leaves out."""
    link = next((element.get(key) for key in _HREFS if element.get(key)), None)
    if link is None or tag == "a":
        return
    link = link.strip()
    if link.startswith("#"):
        if link[1:] not in identifiers:
            raise RefusedError(f"<{tag}> shows {link}, which is not in it", _DRAW_REMEDY)
        return
    if tag not in {"image", "feImage"} or not link.startswith("data:"):
        limit = f"<{tag}> shows another file ({link[:40]})"
        raise RefusedError(limit, "Embed it in the drawing, or name a PNG of the drawing")

    import base64
    from urllib.parse import unquote_to_bytes

    kind, _, content = link[5:].partition(",")
    try:
        encoded = "".join(content.split()).encode()
        data = base64.b64decode(encoded) if ";base64" in kind else unquote_to_bytes(content)
    except ValueError:
        data = b""
    if not data.startswith(_PICTURES) and data[8:12] != b"WEBP":
        limit = f"a picture embedded in it ({kind[:30]}) is not drawn"
        raise RefusedError(limit, "Embed it as PNG or JPEG")


def _declarations(style: str) -> Iterator[tuple[str, str]]:
    """Yield the properties of a style and their values."""
    for part in re.sub(r"/\*.*?\*/", "", style, flags=re.DOTALL).split(";"):
        key, colon, value = part.partition(":")
        if colon:
            yield key.strip().lower(), value.replace("!important", "").strip()


def _check_declaration(
    key: str, value: str, identifiers: set[str | None], *, css: bool = True
) -> None:
    """Refuse a property, of an attribute or of CSS, that the renderer leaves out."""
    if key.startswith("--"):
        return
    lower = value.lower()

    def refuse() -> RefusedError:
        return RefusedError(f"its {key}: {value[:40]} is not drawn", _DRAW_REMEDY)

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
        for quoted, fallback in _REFERENCE.findall(value):
            target = quoted.strip().strip("'\"").strip()
            if not target.startswith("#"):
                raise refuse()
            if target[1:] not in identifiers and not fallback:
                limit = f"its {key} names {target}, which is not in it"
                raise RefusedError(limit, _DRAW_REMEDY)


def _check_background(value: str) -> None:
    """Refuse a background of the page that is seen in a browser; white is what papers are."""
    plain = "".join(value.lower().split())
    if not re.fullmatch(r"none|transparent|white|#fff(fff)?|rgb\(255,255,255\)", plain):
        raise RefusedError(f"its background {value[:30]} is not drawn", "Draw it as a rectangle")


def _check_sheet(sheet: str, identifiers: set[str | None]) -> None:
    """Refuse rules of a style sheet that the renderer passes over."""
    # What is not closed reaches to the end, as in CSS; to look for its end anew from each start
    # would take time by the square of the length.
    sheet = re.sub(r"/\*.*?(\*/|\Z)|<!--|-->", "", sheet, flags=re.DOTALL)
    sheet = re.sub(r"@font-face\s*\{[^}]*(\}|\Z)|@(charset|namespace)[^;]*(;|\Z)", "", sheet)
    if rule := re.search(r"@[\w-]+", sheet):
        raise RefusedError(f"the rule {rule[0]} of its style sheet is not drawn", _DRAW_REMEDY)

    for rule_set in sheet.split("}")[:-1]:
        before, brace, block = rule_set.rpartition("{")
        if not brace:
            continue
        selectors = before.rpartition("{")[2]
        declarations = list(_declarations(block))
        if all(key.startswith("--") for key, _ in declarations):
            continue
        for selector in selectors.split(","):
            plain = re.sub(r"\[[^\]]*(\]|\Z)", "", selector)
            unknown = [p for p in _PSEUDO.findall(plain) if p not in _HARMLESS_PSEUDO]
            if unknown or "~" in plain or "|" in plain:
                limit = f"the selector {selector.strip()[:40]!r} of its style sheet is not drawn"
                raise RefusedError(limit, _DRAW_REMEDY)
        for key, value in declarations:
            if key.startswith("background") and selectors.strip() in {"svg", "*"}:
                _check_background(value)
            _check_declaration(key, value, identifiers)
