"""`physadv print`: a patch folder -> a PDF true to the millimetre."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from physadv_cli import options
from physadv_cli.runs import console, finish


def register(app: typer.Typer) -> None:
    """Attach the command."""
    app.command("print")(print_sheet)


def print_sheet(
    bundle: Annotated[Path, typer.Argument(help="Patch folder, as made by `physadv patch`.", metavar="BUNDLE")],
    paper: Annotated[str, typer.Option("--paper", help="a5, letter, a4, legal, a3, a2, a1, or WxH in mm.")] = "a4",
    test_signs: Annotated[
        bool, typer.Option("--test-signs", help="Add three small paper signs to hold before a webcam.")
    ] = False,
    sign: Annotated[
        Path | None, typer.Option("--sign", help="Drawing of the sign for --test-signs. [default: drawn by code]")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="The PDF. [default: BUNDLE/sheet.pdf]")] = None,
    json: options.Json = False,
) -> None:
    """Write the print sheet of a patch: cut marks, a 100 mm bar to measure, markers; print it at 100 %.

    Example: physadv print runs/stop --paper a4 --test-signs
    """
    from physadv.core.images import read_rgba
    from physadv.core.signfaces import SignFace
    from physadv.printing.bundle import read_bundle
    from physadv.printing.sheet import write_sheet

    patch = read_bundle(bundle)
    place = patch.card.placement
    face = None if sign is None else SignFace(place.sign, read_rgba(sign, svg_px=2048), place.sign_width_mm)
    target = out or bundle / "sheet.pdf"
    with console.status("Drawing the sheet"):
        layout = write_sheet(patch, target, paper=paper_of(paper), test_signs=test_signs, sign=face)
    sticker, size = layout.sticker, patch.card.size
    result = {
        "pdf": target,
        "paper": paper,
        "page_mm": layout.page,
        "sticker_mm": [sticker.x, sticker.y, sticker.w, sticker.h],
        "run_id": patch.card.patch.run_id,
        "pages": 4 if test_signs else 1,
    }
    summary = (
        f"{target}: sticker {size.width_mm:.1f} x {size.height_mm:.1f} mm on {paper}. Print at 100 %, measure the bar."
    )
    finish(result, as_json=json, summary=summary)


def paper_of(text: str) -> str | tuple[float, float]:
    """A paper's name, or WxH in mm as two numbers; other text is left for the library to refuse."""
    width, cross, height = text.lower().partition("x")
    try:
        return (float(width), float(height)) if cross else text
    except ValueError:
        return text
