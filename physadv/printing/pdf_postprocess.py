"""PDF features that reportlab lacks: page boxes, print settings, output intent, layers, inks,
lossless streams."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pikepdf
from pikepdf import Array, Dictionary, Name, String

from physadv.core.files import atomic_path
from physadv.printing.icc import PressProfile, srgb_profile
from physadv.printing.layout import PageRect
from physadv.printing.sheet_parts import CUT_LAYER

_POINTS = 72 / 25.4


def finish_pdf(
    data: bytes,
    path: str | Path,
    *,
    boxes: Mapping[int, tuple[PageRect, PageRect]],
    cut_name: str,
    press: PressProfile | None,
) -> None:
    """Save a PDF made by reportlab, whole or not at all; equal data gives equal bytes.

    Args:
        data: The PDF of reportlab.
        path: File to write.
        boxes: TrimBox and BleedBox by page index, in mm from the page's top-left corner; these
            pages carry the layer of the cut line.
        cut_name: Name of the cut line's spot color and layer.
        press: Profile to whose inks every picture is converted; None keeps sRGB.
    """
    with atomic_path(path) as temporary, pikepdf.open(io.BytesIO(data)) as pdf:
        print_as_is(pdf)

        layer = _layer(pdf, cut_name)
        for index, (trim, bleed) in boxes.items():
            page = pdf.pages[index].obj
            page["/TrimBox"], page["/BleedBox"] = _box(page, trim), _box(page, bleed)
            page["/Resources"]["/Properties"] = Dictionary({CUT_LAYER: layer})
            _name_spot_color(page, cut_name)
        _output_intent(pdf, press)
        rewrite_images(pdf, press)
        pdf.save(temporary, deterministic_id=True, compress_streams=True)


def print_as_is(pdf: pikepdf.Pdf) -> None:
    """Set the viewer preferences of ``pdf``: 100 %, one side, paper of the page's size."""
    preferences = {"/PrintScaling": Name("/None"), "/Duplex": Name("/Simplex")}
    pdf.Root.ViewerPreferences = Dictionary({**preferences, "/PickTrayByPDFSize": True})


def rewrite_images(pdf: pikepdf.Pdf, press: PressProfile | None = None) -> None:
    """Recompress every picture of ``pdf`` losslessly (Flate), in the inks of ``press`` where one is
    given."""
    for item in pdf.objects:
        if isinstance(item, pikepdf.Stream) and item.get("/Subtype") == "/Image":
            _rewrite(item, press)


def _box(page: pikepdf.Object, r: PageRect) -> Array:
    height = float(page["/MediaBox"][3]) / _POINTS
    edges = (r.x, height - r.y - r.h, r.x + r.w, height - r.y)
    return Array([round(v * _POINTS, 5) for v in edges])


def _layer(pdf: pikepdf.Pdf, name: str) -> pikepdf.Object:
    """Add a visible and printable layer, so that a shop finds the cut line alone and a viewer can
    hide it."""
    layer = pdf.make_indirect(Dictionary(Type=Name("/OCG"), Name=String(name)))
    listed = Array([layer])
    pdf.Root.OCProperties = Dictionary(
        OCGs=listed, D=Dictionary(Order=listed, ON=listed, Name=String("as printed"))
    )
    return layer


def _name_spot_color(page: pikepdf.Object, name: str) -> None:
    """Give the cut line's ink on ``page`` its ``name``; pikepdf escapes what a PDF name may not
    hold, which reportlab does not."""
    for space in page["/Resources"].get("/ColorSpace", Dictionary()).values():
        if isinstance(space, Array) and space[0] == Name("/Separation") and space[1] == CUT_LAYER:
            space[1] = Name(f"/{name}")


def _output_intent(pdf: pikepdf.Pdf, press: PressProfile | None) -> None:
    profile = pdf.make_stream(srgb_profile() if press is None else press.data)
    profile["/N"] = 3 if press is None else 4
    name = "sRGB IEC61966-2.1" if press is None else press.name
    # A press profile belongs to PDF/X, sRGB does not.
    kind = Name("/GTS_PDFA1") if press is None else Name("/GTS_PDFX")

    intent = Dictionary(
        Type=Name("/OutputIntent"),
        S=kind,
        OutputConditionIdentifier=String("Custom" if press else name),
        Info=String(name),
        RegistryName=String("http://www.color.org"),
        DestOutputProfile=profile,
    )
    pdf.Root.OutputIntents = Array([pdf.make_indirect(intent)])


def _rewrite(image: pikepdf.Stream, press: PressProfile | None) -> None:
    """Recompress one picture with Flate alone (reportlab adds ASCII85), in the inks of ``press`` if
    given."""
    data = image.read_bytes()
    if press is not None and image.get("/ColorSpace") == "/DeviceRGB":
        rgb = np.frombuffer(data, np.uint8).reshape(int(image["/Height"]), int(image["/Width"]), 3)
        data = press.convert(rgb).tobytes()
        image["/ColorSpace"] = Name("/DeviceCMYK")
    image.write(data)
