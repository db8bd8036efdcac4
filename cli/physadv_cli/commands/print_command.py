"""`physadv print`: a patch folder -> a PDF true to the millimeter, and its cut line as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.lengths import parse_size_mm
from physadv_cli.runs import console, finish

if TYPE_CHECKING:
    from physadv.printing.sheet import PrintedSheet


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command."""
    app.command("print", rich_help_panel=panel)(print_sheet)


def print_sheet(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle folder, or a name in patches/.", metavar="BUNDLE")
    ],
    paper: Annotated[
        str,
        typer.Option("--paper", help="a5, letter, a4, legal, a3, a2, a1, or a size: 300x400mm."),
    ] = "a4",
    tile: Annotated[
        bool,
        typer.Option("--tile", help="Lay a sticker larger than the paper over several sheets."),
    ] = False,
    overlap: Annotated[
        float, typer.Option("--overlap", help="What two tiles have in common, 5 to 50 mm.")
    ] = 10.0,
    bleed: Annotated[
        float, typer.Option("--bleed", help="Picture continued beyond the cut, 0 to 5 mm.")
    ] = 0.0,
    safe: Annotated[
        float, typer.Option("--safe", help="Safe area inside the cut, in mm: a guide in the SVG.")
    ] = 2.0,
    corner_radius: Annotated[
        float, typer.Option("--corner-radius", help="Of the cut line, 0.3 mm or more.")
    ] = 0.3,
    cut_name: Annotated[
        str, typer.Option("--cut-name", help="Spot color of the cut line.")
    ] = "CutContour",
    cut_width: Annotated[
        float, typer.Option("--cut-width", help="Width of the cut line, 0.25 to 1 pt.")
    ] = 0.25,
    icc: Annotated[
        Path | None,
        typer.Option(
            "--icc", help="CMYK profile of your print shop; writes a proof. (default: sRGB)"
        ),
    ] = None,
    intent: Annotated[
        str,
        typer.Option("--intent", help="With --icc: relative, perceptual, saturation or absolute."),
    ] = "relative",
    test_signs: Annotated[
        bool,
        typer.Option("--test-signs", help="Add three small paper signs to hold before a webcam."),
    ] = False,
    sign: Annotated[
        Path | None,
        typer.Option(
            "--sign",
            "--signs",
            help="Drawing of the sign for --test-signs. (default: drawn by code)",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="The PDF. (default: BUNDLE/sheet.pdf)")
    ] = None,
    json: options.Json = False,
) -> None:
    """Write the print sheet of a patch: cut line, 100 mm bar to measure, markers; print it at 100
    %.

    Beside the PDF lie the cut line as SVG and, with --icc, a soft proof as PNG.

    Example: physadv print runs/stop --paper a4 --tile --bleed 2 --test-signs
    """
    from physadv.core.image_io import read_rgba
    from physadv.core.package_data import bundle_folder
    from physadv.core.sign_artwork import SignFace
    from physadv.patches.bundle import read_bundle
    from physadv.printing.cut_line import CutOptions
    from physadv.printing.icc import PressProfile
    from physadv.printing.sheet import write_sheet

    beside = (
        bundle / "sheet.pdf" if bundle.exists() else Path(f"{bundle.name}.pdf")
    )  # ready-made ones stay as they are
    patch = read_bundle(bundle_folder(bundle))
    place = patch.card.placement
    face = (
        None
        if sign is None
        else SignFace(place.sign, read_rgba(sign, svg_px=2048), place.sign_width_mm)
    )
    with console.status("Drawing the sheet"):
        sheet = write_sheet(
            patch,
            out or beside,
            paper=paper_of(paper),
            tile=tile,
            overlap=overlap,
            cut=CutOptions(bleed, safe, corner_radius, cut_name, cut_width),
            press=None if icc is None else PressProfile(icc, intent=intent),
            test_signs=test_signs,
            sign=face,
        )
    size = patch.card.size
    result = {
        "pdf": sheet.pdf,
        "svg": sheet.svg,
        "proof": sheet.proof_png,
        "run_id": patch.card.patch.run_id,
        "paper": paper,
        "page_mm": sheet.page_mm,
        "pages": sheet.pages,
        "size_mm": [size.width_mm, size.height_mm],
        "bleed_mm": bleed,
        "safe_mm": safe,
        "safe_share": round(sheet.safe_share, 4),
        "corner_radius_mm": corner_radius,
        "cut_name": cut_name,
        "bar_mm": round(sheet.bar_mm, 3),
        **_places(sheet),
        **_proof(sheet),
    }
    finish(
        result,
        as_json=json,
        summary=_summary(sheet, f"{size.width_mm:.1f} x {size.height_mm:.1f} mm", paper),
    )


def paper_of(text: str) -> str | tuple[float, float]:
    """A paper's name, or its size in mm, e.g. 300x400mm; other text is left for the library to
    refuse."""
    return parse_size_mm(text, "--paper") if text.strip()[:1].isdigit() else text.strip()


def _places(sheet: PrintedSheet) -> dict[str, Any]:
    """Where the sticker, or each tile, lies: x, y, w, h in mm from the page's top-left corner."""
    if sheet.tiled is None:
        s = sheet.layout.sticker
        return {"sticker_mm": [s.x, s.y, s.w, s.h], "tiles": []}
    tiles = [
        {
            "label": t.label,
            "page": i + 2,
            "window_mm": [round(v, 4) for v in (t.window.x, t.window.y, t.window.w, t.window.h)],
            "region_mm": [round(v, 4) for v in (t.region.x, t.region.y, t.region.w, t.region.h)],
        }
        for i, t in enumerate(sheet.tiled.tiles)
    ]
    grid = [sheet.tiled.columns, sheet.tiled.rows]
    return {"tiles": tiles, "grid": grid, "overlap_mm": round(sheet.tiled.overlap, 4)}


def _proof(sheet: PrintedSheet) -> dict[str, Any]:
    if sheet.proof is None:
        return {}
    p = sheet.proof
    return {
        "proof_de00": {
            "mean": round(p.mean, 2),
            "p95": round(p.p95, 2),
            "worst": round(p.worst, 2),
        },
        "proof_share_over_5": round(p.share_far, 4),
        "most_ink_percent": round(p.most_ink_percent),
    }


def _summary(sheet: PrintedSheet, size: str, paper: str) -> str:
    on = (
        f"on {paper}"
        if sheet.tiled is None
        else f"on {len(sheet.tiled.tiles)} tiles of {paper}, assembled by page 1"
    )
    lines = [
        f"{sheet.pdf}: sticker {size} {on}. Print at 100 %, measure the bar.",
        f"{sheet.svg}: the cut line",
    ]
    if sheet.proof is not None:
        p = sheet.proof
        lines.append(
            f"{sheet.proof_png}: soft proof, the profile's prediction and no measurement: dE00 "
            f"mean {p.mean:.1f}, "
            f"95 % under {p.p95:.1f}, over 5 on {100 * p.share_far:.0f} % of the sticker"
        )
    return "\n".join(lines)
