"""Colors of a PDF: every picture, gray and spot color in a space that the file defines."""

from __future__ import annotations

import numpy as np
import pikepdf
from pikepdf import Array, Dictionary, Name, Operator, String

from physadv.printing.icc import PressProfile, srgb_profile

_DEVICE = {"CMYK": Name("/DeviceCMYK"), "RGB": Name("/DeviceRGB"), "GRAY": Name("/DeviceGray")}
_MAGENTA: dict[str, list[float]] = {
    "CMYK": [0, 1, 0, 0],
    "RGB": [236 / 255, 0, 140 / 255],
    "GRAY": [0.5],
}
"""The cut line where its spot color is not printed with an ink of its own, e.g. on a screen."""


def output_intent(pdf: pikepdf.Pdf, press: PressProfile) -> pikepdf.Object:
    """Return the output intent of ``press`` for ``pdf``, as PDF/X-4 wants it.

    Its identifier is the profile's description; none of the registered printing conditions is
    named, since the embedded profile alone tells what is meant.
    """
    profile = pdf.make_stream(press.data)
    profile["/N"] = press.channels
    intent = Dictionary(
        Type=Name("/OutputIntent"),
        S=Name("/GTS_PDFX"),
        OutputConditionIdentifier=String(press.name),
        OutputCondition=String(press.name),
        Info=String(press.name),
        DestOutputProfile=profile,
    )
    return pdf.make_indirect(intent)


def color_pictures(pdf: pikepdf.Pdf, press: PressProfile | None) -> None:
    """Give every picture of ``pdf`` a defined color space, losslessly compressed.

    Pictures are converted to the space of ``press``, which is the file's output intent; without it
    they keep their values and get an sRGB profile.
    """
    srgb = None if press else _srgb_space(pdf)
    for item in pdf.objects:
        if isinstance(item, pikepdf.Stream) and item.get("/Subtype") == "/Image":
            data = item.read_bytes()
            if item.get("/ColorSpace") == "/DeviceRGB":
                if press is None:
                    item["/ColorSpace"] = srgb
                else:
                    shape = (int(item["/Height"]), int(item["/Width"]), 3)
                    data = press.convert(np.frombuffer(data, np.uint8).reshape(shape)).tobytes()
                    item["/ColorSpace"] = _DEVICE[press.space]
            item.write(data)  # Flate alone; reportlab adds ASCII85


def name_cut_color(pdf: pikepdf.Pdf, resource: str, name: str, press: PressProfile | None) -> None:
    """Give the cut line's ink its name, and a look on screens in a space that the file defines.

    pikepdf escapes what a PDF name may not hold, which reportlab does not.

    Args:
        pdf: Document.
        resource: Name under which reportlab wrote the ink.
        name: Name of the spot color.
        press: Output profile of the file.
    """
    kind = press.space if press else "RGB"
    space = _DEVICE[kind] if press else _srgb_space(pdf)
    full = _MAGENTA[kind]
    none = [0.0 if kind == "CMYK" else 1.0] * len(full)
    tint = Dictionary(FunctionType=2, Domain=[0, 1], C0=Array(none), C1=Array(full), N=1)
    ink = pdf.make_indirect(Array([Name("/Separation"), Name(f"/{name}"), space, tint]))

    for page in pdf.pages:
        spaces = page.obj["/Resources"].get("/ColorSpace", Dictionary())
        for key, value in list(spaces.items()):
            if isinstance(value, Array) and value[0] == "/Separation" and value[1] == resource:
                spaces[key] = ink


def blend_in_press_space(pdf: pikepdf.Pdf, press: PressProfile) -> None:
    """Declare that pages of ``pdf`` with see-through pictures are blended in the space of
    ``press``."""
    for page in pdf.pages:
        pictures = page.obj["/Resources"].get("/XObject", Dictionary())
        if any("/SMask" in picture for picture in pictures.values()):
            page.obj["/Group"] = Dictionary(
                Type=Name("/Group"), S=Name("/Transparency"), CS=_DEVICE[press.space]
            )


def gray_as_rgb(pdf: pikepdf.Pdf) -> None:
    """Write the grays of ``pdf`` as equal parts of red, green and blue, as a file for an RGB
    printer needs them."""
    for page in pdf.pages:
        steps = []
        for step in pikepdf.parse_content_stream(page):
            operator, values = step.operator, list(step.operands)
            if str(operator) in ("g", "G"):
                operator = Operator("rg" if str(operator) == "g" else "RG")
                values = values * 3
            steps.append((values, operator))
        page.obj["/Contents"] = pdf.make_stream(pikepdf.unparse_content_stream(steps))


def _srgb_space(pdf: pikepdf.Pdf) -> pikepdf.Object:
    profile = pdf.make_stream(srgb_profile())
    profile["/N"], profile["/Alternate"] = 3, Name("/DeviceRGB")
    return pdf.make_indirect(Array([Name("/ICCBased"), profile]))
