"""Rules of PDF/X-4 (ISO 15930-7) that can be read off a file; each broken one is named."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pikepdf
from pikepdf import Array, Dictionary, Name, Stream

_SPACE = {b"CMYK": "/DeviceCMYK", b"RGB ": "/DeviceRGB", b"GRAY": "/DeviceGray"}
_CHANNELS = {"/DeviceCMYK": 4, "/DeviceRGB": 3, "/DeviceGray": 1}
_SAME = {"/Title": "dc:title", "/Creator": "xmp:CreatorTool", "/Producer": "pdf:Producer"}
_SAME_TIMES = {"/CreationDate": "xmp:CreateDate", "/ModDate": "xmp:ModifyDate"}
"""Keys of the document information, and those of XMP that say the same."""
_OPERATORS = {
    "g": "/DeviceGray",
    "G": "/DeviceGray",
    "rg": "/DeviceRGB",
    "RG": "/DeviceRGB",
    "k": "/DeviceCMYK",
    "K": "/DeviceCMYK",
}
_INTENTS = {"/AbsoluteColorimetric", "/RelativeColorimetric", "/Saturation", "/Perceptual"}
_RECORDS = (
    "dc:title",
    "xmp:CreateDate",
    "xmp:ModifyDate",
    "xmp:MetadataDate",
    "xmpMM:DocumentID",
    "xmpMM:VersionID",
    "xmpMM:RenditionClass",
)


def broken_rules(path: Path) -> list[str]:
    """The rules that the file breaks, each in a few words; empty for a PDF/X-4."""
    with pikepdf.open(path) as pdf:
        return [
            *_file(path, pdf),
            *_metadata(pdf),
            *_intent(pdf),
            *_boxes(pdf),
            *_fonts(pdf),
            *_colors(pdf),
            *_pictures(pdf),
            *_blending(pdf),
            *_layers(pdf),
            *_nothing_else(pdf),
        ]


def _file(path: Path, pdf: pikepdf.Pdf) -> Iterator[str]:
    if float(path.read_bytes()[5:8]) > 1.6 or float(pdf.Root.get("/Version", "/1.0")[1:]) > 1.6:
        yield "newer than PDF 1.6"
    if pdf.is_encrypted:
        yield "encrypted"
    if len(pdf.trailer.get("/ID", [])) != 2:
        yield "no file identifier"
    if sum(byte > 127 for byte in path.read_bytes().split(b"\n", 2)[1][:6]) < 4:
        yield "no binary mark in line two"


def _metadata(pdf: pikepdf.Pdf) -> Iterator[str]:
    if "/Metadata" not in pdf.Root:
        yield "no XMP"
        return
    with pdf.open_metadata(set_pikepdf_as_editor=False, update_docinfo=False) as record:
        if record.get("{http://www.npes.org/pdfx/ns/id/}GTS_PDFXVersion") != "PDF/X-4":
            yield "XMP does not claim PDF/X-4"
        yield from (f"XMP lacks {key}" for key in _RECORDS if not record.get(key))
        if record.get("pdf:Trapped") not in ("True", "False"):
            yield "XMP does not tell whether it is trapped"
        if pdf.docinfo.get("/Trapped") != f"/{record.get('pdf:Trapped')}":
            yield "Info and XMP differ on trapping"
        for key, name in _SAME.items():
            if key in pdf.docinfo and str(pdf.docinfo[key]) != record.get(name):
                yield f"Info and XMP differ on {key[1:]}"
        for key, name in _SAME_TIMES.items():
            told = str(pdf.docinfo.get(key, ""))
            if _digits(told)[:14] != _digits(str(record.get(name, "")))[:14]:
                yield f"Info and XMP differ on {key[1:]}"


def _digits(time: str) -> str:
    return "".join(filter(str.isdigit, time))


def _destination(pdf: pikepdf.Pdf) -> Stream | None:
    intents = [i for i in pdf.Root.get("/OutputIntents", []) if i.get("/S") == "/GTS_PDFX"]
    return intents[0].get("/DestOutputProfile") if len(intents) == 1 else None


def _space(pdf: pikepdf.Pdf) -> str:
    profile = _destination(pdf)
    return "" if profile is None else _SPACE.get(profile.read_bytes()[16:20], "")


def _intent(pdf: pikepdf.Pdf) -> Iterator[str]:
    intents = [i for i in pdf.Root.get("/OutputIntents", []) if i.get("/S") == "/GTS_PDFX"]
    if len(intents) != 1:
        yield f"{len(intents)} output intents"
        return
    if not str(intents[0].get("/OutputConditionIdentifier", "")):
        yield "output intent without identifier"
    if not str(intents[0].get("/Info", "")):
        yield "output intent without description"
    if "/DestOutputProfileRef" in intents[0]:
        yield "profile outside the file"
    profile = intents[0].get("/DestOutputProfile")
    if profile is None:
        yield "no profile embedded"
        return
    if profile.read_bytes()[8] > 4:
        yield "profile newer than ICC version 4"
    data = profile.read_bytes()
    if data[12:16] != b"prtr" or data[36:40] != b"acsp":
        yield "not an output profile"
    if _CHANNELS.get(_space(pdf)) != int(profile.get("/N", 0)):
        yield "N is not the number of the profile's channels"


def _boxes(pdf: pikepdf.Pdf) -> Iterator[str]:
    for number, page in enumerate(pdf.pages, 1):
        if "/MediaBox" not in page.obj or page.obj.get("/UserUnit", 1) != 1:
            yield f"page {number}: without a size in points"
        if ("/TrimBox" in page.obj) == ("/ArtBox" in page.obj):
            yield f"page {number}: not one of TrimBox and ArtBox"
            continue
        inner = page.obj.get("/TrimBox", page.obj.get("/ArtBox"))
        nested = [inner, page.obj.get("/BleedBox"), page.obj.get("/CropBox"), page.obj.MediaBox]
        boxes = [[float(v) for v in box] for box in nested if box is not None]
        for a, b in pairwise(boxes):
            if a[0] < b[0] - 1e-3 or a[1] < b[1] - 1e-3 or a[2] > b[2] + 1e-3 or a[3] > b[3] + 1e-3:
                yield f"page {number}: boxes do not lie within each other"


def _resources(pdf: pikepdf.Pdf, kind: str) -> Iterator[pikepdf.Object]:
    """All resources of that kind on pages and in forms."""
    forms = (o for o in pdf.objects if isinstance(o, Stream) and o.get("/Subtype") == "/Form")
    for holder in (*(page.obj for page in pdf.pages), *forms):
        yield from holder.get("/Resources", Dictionary()).get(kind, Dictionary()).values()


def _fonts(pdf: pikepdf.Pdf) -> Iterator[str]:
    for font in _resources(pdf, "/Font"):
        if font.Subtype == "/Type3":
            continue  # its glyphs are in the file
        told = font.DescendantFonts[0] if font.Subtype == "/Type0" else font
        descriptor = told.get("/FontDescriptor", Dictionary())
        if not any(key in descriptor for key in ("/FontFile", "/FontFile2", "/FontFile3")):
            yield f"font {font.get('/BaseFont')} is not embedded"
        outlines = told.get("/Subtype") == "/CIDFontType2"
        if outlines and not isinstance(told.get("/CIDToGIDMap"), Stream | Name):
            yield f"font {font.get('/BaseFont')} does not tell its glyphs"


def _colors(pdf: pikepdf.Pdf) -> Iterator[str]:
    allowed = {_space(pdf)} | ({"/DeviceGray"} if _space(pdf) == "/DeviceCMYK" else set())
    used = {
        _OPERATORS[str(step.operator)]
        for stream in _contents(pdf)
        for step in pikepdf.parse_content_stream(stream)
        if str(step.operator) in _OPERATORS
    }
    for space in _resources(pdf, "/ColorSpace"):
        if isinstance(space, Array) and space[0] == "/Separation":
            used.add(str(space[2]) if isinstance(space[2], Name) else "")
            if space[1] in ("/All", "/None"):
                yield "spot color that is none"
    yield from (f"{name} without such an output intent" for name in sorted(used - allowed - {""}))
    for stream in _contents(pdf):
        for step in pikepdf.parse_content_stream(stream):
            if str(step.operator) == "ri" and str(step.operands[0]) not in _INTENTS:
                yield "unknown rendering intent"
            if str(step.operator) in ("BX", "EX"):
                yield "operators that a reader may skip"


def _contents(pdf: pikepdf.Pdf) -> Iterator[pikepdf.Page | Stream]:
    yield from pdf.pages
    for item in pdf.objects:
        if isinstance(item, Stream) and item.get("/Subtype") == "/Form":
            yield item
        if isinstance(item, Dictionary) and "/CharProcs" in item:
            yield from item.CharProcs.values()


def _pictures(pdf: pikepdf.Pdf) -> Iterator[str]:
    masks = {
        item.SMask.objgen for item in pdf.objects if isinstance(item, Stream) and "/SMask" in item
    }
    for item in pdf.objects:
        if not isinstance(item, Stream):
            continue
        if "/F" in item:
            yield "stream outside the file"
        if "/LZWDecode" in str(item.get("/Filter", "")):
            yield "LZW"
        if item.get("/Subtype") == "/PS" or item.get("/Subtype2") == "/PS":
            yield "PostScript"
        if item.get("/Subtype") == "/Form" and ("/Ref" in item or "/OPI" in item):
            yield "form that stands for another file"
        if item.get("/Subtype") != "/Image" or item.objgen in masks:
            continue
        if item.get("/Intent", Name.RelativeColorimetric) not in _INTENTS:
            yield "unknown rendering intent"
        space = item.get("/ColorSpace")
        if isinstance(space, Name) and space != _space(pdf):
            yield f"picture in {space} without such an output intent"
        if "/Alternates" in item or "/OPI" in item or item.get("/Interpolate", False):
            yield "picture with alternates, OPI or interpolation"


def _blending(pdf: pikepdf.Pdf) -> Iterator[str]:
    for number, page in enumerate(pdf.pages, 1):
        pictures = page.obj.Resources.get("/XObject", Dictionary()).values()
        group = page.obj.get("/Group", Dictionary())
        if any("/SMask" in picture for picture in pictures) and group.get("/CS") != _space(pdf):
            yield f"page {number}: blended in another space than the output intent's"


def _layers(pdf: pikepdf.Pdf) -> Iterator[str]:
    layers = pdf.Root.get("/OCProperties")
    if layers is None:
        return
    shown = layers.D
    if not str(shown.get("/Name", "")):
        yield "layers' configuration without a name"
    if "/AS" in shown:
        yield "layers that switch themselves"
    listed = {layer.objgen for layer in shown.get("/Order", [])}
    if listed != {layer.objgen for layer in layers.OCGs}:
        yield "layers that are not listed"


def _nothing_else(pdf: pikepdf.Pdf) -> Iterator[str]:
    for key in ("/OpenAction", "/AA", "/AcroForm", "/Collection", "/Requirements"):
        if key in pdf.Root:
            yield f"{key} in the catalog"
    for key in ("/JavaScript", "/EmbeddedFiles", "/AlternatePresentations"):
        if key in pdf.Root.get("/Names", Dictionary()):
            yield f"{key[1:]} among the names"
    for page in pdf.pages:
        if page.obj.get("/Annots") or "/AA" in page.obj:
            yield "annotations or actions on a page"
        if "/PresSteps" in page.obj:
            yield "presentation steps on a page"
    for state in _resources(pdf, "/ExtGState"):
        if "/TR" in state or "/HTP" in state or state.get("/TR2", "/Default") != "/Default":
            yield "transfer curve"
        halftone = state.get("/HT", Name.Default)
        if isinstance(halftone, Dictionary | Stream) and halftone.get("/HalftoneType") not in (
            1,
            5,
        ):
            yield "halftone of another type than 1 and 5"
