"""The documentation site: builds without a warning, and asks no network to be read."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("mkdocs")
pytest.importorskip("mkdocstrings_handlers.python")

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning of mkdocs is an error."""
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Scripts, styles, pictures and fonts are the site's own."""
    loaded = re.compile(
        r"<(?:script|link|img|iframe|source)\b[^>]*(?:src|href)=\"?(?:https?:)?//[^>]*"
    )
    for page in site.rglob("*.html"):
        found = loaded.search(page.read_text(encoding="utf-8"))
        assert found is None, f"{page.relative_to(site)}: {found and found[0]}"
    for sheet in site.rglob("*.css"):
        assert "url(http" not in sheet.read_text(encoding="utf-8"), sheet.name


def test_every_room_and_every_page_is_there(site: Path) -> None:
    """One API page a room with its functions; the pages of the repository's root; measurements."""
    for package in (ROOT / "physadv").glob("*/__init__.py"):
        page = site / "api" / f"{package.parent.name}.html"
        assert f"physadv.{package.parent.name}" in page.read_text(encoding="utf-8")
    assert 'id="physadv.attacks.gradient.pgd"' in (site / "api/attacks.html").read_text()
    for name in ("index", "CHANGELOG", "SECURITY", "benchmarks/robustness", "start"):
        assert (site / f"{name}.html").is_file(), name
