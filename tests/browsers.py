"""A headless Chromium, where there is one, and what its pages complained about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of Playwright that runs the Chromium on this machine's path, or the one that
    PHYSADV_CHROMIUM names. Skips where Playwright or Chromium is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = os.environ.get("PHYSADV_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("needs Chromium (set PHYSADV_CHROMIUM)")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=["--no-sandbox"])
        try:
            yield browser
        finally:
            browser.close()


def watched_page(browser: Any, **context: Any) -> tuple[Any, list[str]]:
    """A page of 390 x 844 px or as ``context`` says, and a list that grows by every error on its
    console and every request that leaves this machine."""
    page = browser.new_page(**{"viewport": {"width": 390, "height": 844}, **context})
    faults: list[str] = []

    def said(message: Any) -> None:
        if message.type in ("error", "warning"):
            faults.append(f"console: {message.text}")

    def asked(request: Any) -> None:
        if not request.url.startswith(("http://127.0.0.1:", "file:", "data:", "blob:", "about:")):
            faults.append(f"request: {request.url}")

    page.on("console", said)
    page.on("pageerror", lambda error: faults.append(f"error: {error}"))
    page.on("request", asked)
    return page, faults


def sideways_px(page: Any) -> int:
    """By how many px the page scrolls sideways."""
    return int(page.evaluate("document.documentElement.scrollWidth - innerWidth"))


def wait_until(page: Any, expression: str, seconds: float = 20) -> None:
    """Wait until the JavaScript ``expression`` is true; Playwright's own way needs ``eval``, which
    the local pages forbid."""
    for _ in range(round(seconds / 0.1)):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"not so: {expression}")


def axe_faults(page: Any) -> list[str]:
    """What axe-core calls serious or critical on ``page``; skips where it is not installed."""
    axe = pytest.importorskip("axe_playwright_python.base", reason="needs axe-playwright-python")
    page.evaluate(axe.AXE_FILE_PATH.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [
        f"{fault['impact']} {fault['id']}: {fault['help']}: {node['html'][:160]} "
        f"{node['any'][0]['message'][:160] if node['any'] else ''}"
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
        for node in fault["nodes"][:3]
    ]
