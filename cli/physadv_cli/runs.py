"""A run records itself: config.toml and environment.json; results to stdout as JSON, to stderr as
text."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import tomli_w
from rich.console import Console

from physadv.core.files import write_json, write_text

console = Console(stderr=True, highlight=False)
"""Everything for people goes here; stdout belongs to --json."""

_RECORDED = (
    "physadv",
    "torch",
    "kornia",
    "numpy",
    "opencv-python",
    "pillow",
    "reportlab",
    "pikepdf",
    "safetensors",
)


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {"python": platform.python_version()}
    for name in _RECORDED:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def plain(value: Any) -> Any:
    """Make ``value`` fit for TOML and JSON: paths to text, None left out of mappings."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value if v is not None]
    return value if isinstance(value, str | int | float | bool) else str(value)


def open_run(command: str, out: Path | None, config: Mapping[str, Any]) -> Path:
    """Create the run's folder (``out``, or runs/<utc>-<command>) and record its configuration and
    environment there."""
    folder = out or Path("runs") / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{command}"
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "config.toml", tomli_w.dumps({"command": command, **plain(config)}))
    write_json(
        folder / "environment.json",
        {**versions(), "platform": platform.platform(), "argv": sys.argv[1:]},
    )
    return folder


def finish(result: Mapping[str, Any], *, as_json: bool, summary: str) -> None:
    """End a command: one JSON object on stdout with ``as_json``; the summary for people on stderr
    either way."""
    console.print(summary)
    if as_json:
        sys.stdout.write(json.dumps(plain(result)) + "\n")
