"""PDF documents: begun in reportlab, finished in pikepdf with boxes, colors and metadata."""

from __future__ import annotations

import hashlib
import io
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pikepdf
from pikepdf import Array, Dictionary, Name, String
from reportlab.lib.units import mm
from reportlab.pdfgen.canvas import Canvas

import physadv
from physadv.core.files import write_bytes
from physadv.printing.fonts import base_font, printable
from physadv.printing.glyph_fonts import GlyphFonts
from physadv.printing.icc import PressProfile
from physadv.printing.layout import PageRect
from physadv.printing.pdf_colors import (
    blend_in_press_space,
    color_pictures,
    gray_as_rgb,
    name_cut_color,
    output_intent,
)

VISIBLE_LINE = "Robustness test print - for your own signs in a lab, never for public roads"
"""Label of every page."""
CUT_LAYER = "/CutLine"
"""Resource name of the cut line's layer and spot color until :func:`finish_document` names both."""
PDFX = "PDF/X-4"
"""Standard that a sheet with a print shop's profile conforms to (ISO 15930-7)."""
_UNDATED = datetime(2000, 1, 1, tzinfo=UTC)
_POINTS = 72 / 25.4


@dataclass(frozen=True)
class DocumentInfo:
    """What a document says of itself in its metadata.

    Attributes:
        title: Title.
        keywords: Keywords, such as the run's id.
        created: Time at which the content was made, ISO 8601. Text that is no time, or none, stands
            for a fixed day: equal sheets are equal files.
    """

    title: str
    keywords: tuple[str, ...] = ()
    created: str = ""


class PdfCanvas(Canvas):  # type: ignore[misc]  # reportlab has no types
    """A reportlab canvas that embeds every font and depends on nothing but what is drawn.

    Args:
        page: Width and height of the first page in mm.
    """

    def __init__(self, page: tuple[float, float]) -> None:
        self.buffer = io.BytesIO()
        self.glyphs = GlyphFonts()
        super().__init__(
            self.buffer,
            pagesize=(page[0] * mm, page[1] * mm),
            invariant=1,
            pageCompression=1,
            initialFontName=base_font(),
        )


def finish_document(
    canvas: PdfCanvas,
    path: str | Path,
    info: DocumentInfo,
    *,
    boxes: Mapping[int, tuple[PageRect, PageRect]] | None = None,
    cut_name: str = "",
    press: PressProfile | None = None,
) -> None:
    """Save a document, whole or not at all; equal input gives equal bytes.

    With ``press`` the file is PDF/X-4: its profile is the output intent, and every color is in its
    space. Without, pictures carry an sRGB profile, and no standard is claimed.

    Args:
        canvas: What was drawn.
        path: File to write.
        info: What the metadata say.
        boxes: TrimBox and BleedBox by page index, in mm from the page's top-left corner; these
            pages carry the layer of the cut line. Both are the whole page on other pages.
        cut_name: Name of the cut line's spot color and layer.
        press: Output profile of the print shop.
    """
    canvas.save()
    data = canvas.buffer.getvalue()
    whole = io.BytesIO()
    with pikepdf.open(io.BytesIO(data)) as pdf:
        _print_as_is(pdf)
        canvas.glyphs.embed(pdf)
        _page_boxes(pdf, boxes or {})
        if boxes:
            _cut_layer(pdf, tuple(boxes), cut_name)
            name_cut_color(pdf, CUT_LAYER, cut_name, press)

        color_pictures(pdf, press)
        if press is not None:
            pdf.Root.OutputIntents = Array([output_intent(pdf, press)])
            blend_in_press_space(pdf, press)
            if press.space == "RGB":
                gray_as_rgb(pdf)

        _write_metadata(pdf, info, conforms=press is not None, content=data)
        pdf.save(whole, deterministic_id=True, compress_streams=True, force_version="1.6")
    write_bytes(path, whole.getvalue())


def _print_as_is(pdf: pikepdf.Pdf) -> None:
    """Set the viewer preferences of ``pdf``: 100 %, one side, paper of the page's size."""
    preferences = {"/PrintScaling": Name("/None"), "/Duplex": Name("/Simplex")}
    pdf.Root.ViewerPreferences = Dictionary({**preferences, "/PickTrayByPDFSize": True})


def _page_boxes(pdf: pikepdf.Pdf, boxes: Mapping[int, tuple[PageRect, PageRect]]) -> None:
    for index, page in enumerate(pdf.pages):
        whole = PageRect(0, 0, *(float(v) / _POINTS for v in list(page.obj["/MediaBox"])[2:]))
        trim, bleed = boxes.get(index, (whole, whole))
        page.obj["/TrimBox"], page.obj["/BleedBox"] = _box(page.obj, trim), _box(page.obj, bleed)
        if "/Trans" in page.obj:  # a transition between slides, which reportlab leaves empty
            del page.obj["/Trans"]


def _box(page: pikepdf.Object, r: PageRect) -> Array:
    height = float(page["/MediaBox"][3]) / _POINTS
    edges = (r.x, height - r.y - r.h, r.x + r.w, height - r.y)
    return Array([round(v * _POINTS, 5) for v in edges])


def _cut_layer(pdf: pikepdf.Pdf, pages: tuple[int, ...], name: str) -> None:
    """Add a visible and printable layer, so that a shop finds the cut line alone and a viewer can
    hide it."""
    layer = pdf.make_indirect(Dictionary(Type=Name("/OCG"), Name=String(name)))
    listed = Array([layer])
    pdf.Root.OCProperties = Dictionary(
        OCGs=listed, D=Dictionary(Order=listed, ON=listed, Name=String("as printed"))
    )
    for index in pages:
        pdf.pages[index].obj["/Resources"]["/Properties"] = Dictionary({CUT_LAYER: layer})


def _write_metadata(
    pdf: pikepdf.Pdf, info: DocumentInfo, *, conforms: bool, content: bytes
) -> None:
    """Write XMP, and the document information that agrees with it.

    Args:
        pdf: Document.
        info: What it says of itself.
        conforms: Whether the file is PDF/X-4.
        content: What is drawn, from which the document's id follows.
    """
    del pdf.docinfo
    created = _time(info.created).strftime("%Y-%m-%dT%H:%M:%S+00:00")
    fingerprint = hashlib.sha256(content + repr(info).encode()).hexdigest()

    with pdf.open_metadata(set_pikepdf_as_editor=False) as record:
        record["dc:title"] = printable(info.title)
        record["dc:description"] = VISIBLE_LINE
        record["dc:creator"] = ["physadv"]
        record["pdf:Keywords"] = printable(", ".join(info.keywords))
        record["pdf:Producer"] = f"physadv {physadv.__version__}"
        record["pdf:Trapped"] = "False"
        record["xmp:CreatorTool"] = "physadv"
        for date in ("xmp:CreateDate", "xmp:ModifyDate", "xmp:MetadataDate"):
            record[date] = created
        record["xmpMM:DocumentID"] = f"uuid:{uuid.uuid5(uuid.NAMESPACE_OID, fingerprint)}"
        record["xmpMM:VersionID"] = "1"
        record["xmpMM:RenditionClass"] = "default"
        if conforms:
            record.register_xml_namespace("http://www.npes.org/pdfx/ns/id/", "pdfxid")
            record["pdfxid:GTS_PDFXVersion"] = PDFX
    pdf.docinfo["/Trapped"] = Name("/False")


def _time(text: str) -> datetime:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return _UNDATED
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC)
