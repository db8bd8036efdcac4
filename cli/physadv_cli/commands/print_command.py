"""``physadv print``: a bundle's print sheet as a PDF true to the millimeter, its cut line as
SVG."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from physadv.core.findings import Finding
from physadv.core.wording import count_noun
from physadv.printing.config import PrintConfig
from physadv_cli.configured import from_config
from physadv_cli.runs import RunOptions, print_findings

if TYPE_CHECKING:
    from physadv.core.sign_artwork import SignFace
    from physadv.patches.bundle import PatchBundle
    from physadv.printing.sheet import PrintedSheet


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command(
        "print",
        short_help="Write the print sheet of a patch, true to the millimeter.",
        rich_help_panel=panel,
    )(from_config(print_sheet, PrintConfig, out="BUNDLE/sheet.pdf", threads=None))


def print_sheet(config: PrintConfig, run: RunOptions) -> None:
    """Write the print sheet of a patch: sticker, cut line, markers and a 100 mm bar to measure.

    Print it at 100 %. Without --paper it goes on a4, or on the smallest larger paper that takes it.
    Beside the PDF lies the cut line as SVG. With --icc the PDF is PDF/X-4 for a print shop, with a
    soft proof as PNG beside it.

    Example: physadv print runs/stop --paper a4 --tile --bleed 2 --test-signs

    Example: physadv print runs/stop --page 300x400mm --bleed 2 --safe 3

    Example: physadv print runs/stop --icc press.icc
    """
    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle
    from physadv.printing.cut_line import CutOptions
    from physadv.printing.icc import PressProfile
    from physadv.printing.sheet import write_sheet
    from physadv_cli.progress import status_line

    patch = read_bundle(bundle_folder(Path(config.bundle)))
    target = run.claim_file(run.out or _usual_path(Path(config.bundle)), config)
    paper, remark = _chosen_paper(config, patch)
    with status_line("drawing the sheet"):
        sheet = write_sheet(
            patch,
            target,
            paper=paper,
            tile=config.tile,
            overlap=config.overlap,
            cut=CutOptions(
                config.bleed, config.safe, config.corner_radius, config.cut_name, config.cut_width
            ),
            press=None if config.icc is None else PressProfile(config.icc, intent=config.intent),
            test_signs=config.test_signs,
            sign=None if config.sign is None else _face_of(config.sign, patch),
        )

    print_findings([finding.as_dict() for finding in _findings(sheet)])
    size = patch.card.size
    words = f"{size.width_mm:.1f} x {size.height_mm:.1f} mm"
    summary = _summary(sheet, words, paper, config.icc)
    run.finish(_result(config, patch, sheet, paper), summary + remark)


def _chosen_paper(config: PrintConfig, patch: PatchBundle) -> tuple[str, str]:
    """The paper to print on, and a line on what to do without it, empty for the usual one."""
    from physadv.printing.layout import usual_paper
    from physadv.printing.tiling import tiles_needed

    if config.paper is not None:
        return config.paper, ""
    size = patch.card.size.width_mm, patch.card.size.height_mm
    paper = "a4" if config.tile else usual_paper(*size, config.bleed)
    if paper == "a4":
        return paper, ""
    tiles = tiles_needed(*size, "a4", overlap=config.overlap, bleed=config.bleed)
    return paper, "\na4 is too small for it and its markers" + (
        f"; for a4, {tiles}" if tiles else ""
    )


def _usual_path(bundle: Path) -> Path:
    """sheet.pdf in the bundle's folder; ready-made bundles stay as they are."""
    return bundle / "sheet.pdf" if bundle.exists() else Path(f"{bundle.name}.pdf")


def _face_of(drawing: str, patch: PatchBundle) -> SignFace:
    """The sign of the bundle with ``drawing`` as its picture."""
    from physadv.core.image_io import read_rgba
    from physadv.core.sign_artwork import SignFace

    placement = patch.card.placement
    return SignFace(placement.sign, read_rgba(drawing, svg_px=2048), placement.sign_width_mm)


def _result(
    config: PrintConfig, patch: PatchBundle, sheet: PrintedSheet, paper: str
) -> dict[str, Any]:
    """What ``--json`` prints."""
    size = patch.card.size
    return {
        "pdf": sheet.pdf,
        "svg": sheet.svg,
        "proof": sheet.proof_png,
        "run_id": patch.card.patch.run_id,
        "paper": paper,
        "page_mm": sheet.page_mm,
        "pages": sheet.pages,
        "size_mm": [size.width_mm, size.height_mm],
        "turned": sheet.turned,
        "bleed_mm": config.bleed,
        "safe_mm": config.safe,
        "safe_share": round(sheet.safe_share, 4),
        "corner_radius_mm": config.corner_radius,
        "cut_name": config.cut_name,
        "bar_mm": round(sheet.bar_mm, 3),
        "picture_dpi": [round(v, 1) for v in sheet.picture_dpi],
        "standard": sheet.standard,
        "doubts": [finding.as_dict() for finding in _findings(sheet)],
        **_places(sheet),
        **_proof(sheet),
    }


def _places(sheet: PrintedSheet) -> dict[str, Any]:
    """Where the sticker, or each tile, lies: x, y, w, h in mm from the page's top-left corner."""
    if sheet.tiled is None:
        s = sheet.layout.sticker
        return {"sticker_mm": [s.x, s.y, s.w, s.h], "tiles": []}
    tiles = [
        {
            "label": t.label,
            "page": i + 1 + sheet.tiled.assembled,
            "window_mm": [round(v, 4) for v in (t.window.x, t.window.y, t.window.w, t.window.h)],
            "region_mm": [round(v, 4) for v in (t.region.x, t.region.y, t.region.w, t.region.h)],
        }
        for i, t in enumerate(sheet.tiled.tiles)
    ]
    grid = [sheet.tiled.columns, sheet.tiled.rows]
    return {"tiles": tiles, "grid": grid, "overlap_mm": round(sheet.tiled.overlap, 4)}


def _proof(sheet: PrintedSheet) -> dict[str, Any]:
    """What the soft proof predicts, where there is one."""
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
        "most_ink_percent": None if p.most_ink_percent is None else round(p.most_ink_percent),
    }


def _findings(sheet: PrintedSheet) -> list[Finding]:
    """Characters that are not on the sheet as they should be."""
    if not sheet.lacking:
        return []
    characters = ", ".join(f"{c} (U+{ord(c):04X})" for c in sheet.lacking)
    return [
        Finding(
            "missing font",
            f"no font on this machine has {characters}; a frame with the code is printed instead",
            "Install the fonts with `pip install 'physadv[fonts]'` and print again",
        )
    ]


def _summary(sheet: PrintedSheet, size: str, paper: str, profile: str | None) -> str:
    """The files for people, a line each."""
    on = (
        f"on {paper}"
        if sheet.tiled is None
        else f"on {count_noun(len(sheet.tiled.tiles), 'tile')} of {paper}, assembled by page 1"
        if sheet.tiled.assembled
        else f"on {paper} without markers around it"
    )
    turn = ", turned: its top is on the left" if sheet.turned else ""
    lines = [
        f"{sheet.pdf}: sticker {size} {on}{turn}. Print at 100 %, measure the bar.",
        _standard_in_words(sheet, profile),
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


def _standard_in_words(sheet: PrintedSheet, profile: str | None) -> str:
    dpi = " x ".join(f"{v:.0f}" for v in sheet.picture_dpi)
    if sheet.standard is None:
        return (
            f"picture at {dpi} dpi in sRGB; plain PDF: for PDF/X-4 give your print shop's profile "
            "with --icc"
        )
    return f"picture at {dpi} dpi; {sheet.standard} for the profile {Path(profile or '').name}"
