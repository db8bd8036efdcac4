"""The forms of ``physadv ui`` and the cloak's page in a real browser."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.main
from browsers import axe_faults, chromium, sideways_px, wait_until, watched_page
from commandline import environment
from PIL import Image
from small_commands import write_inputs
from tinyface import KnownFinder, drawn_photo, tiny_embedder

from physadv.privacy import cloak_page
from physadv.privacy.cloak_faces import MODES, mode_of_budget
from physadv.privacy.cloak_page import CloakPage
from physadv.privacy.cloak_page_html import page_html
from physadv.privacy.photo_cloaker import PhotoCloaker
from physadv_cli.main import app
from physadv_cli.ui.forms import JOURNEYS
from physadv_cli.ui.server import JourneyPage


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with chromium() as started:
        yield started


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1280, "light")])
def test_every_form_is_without_serious_faults(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, scheme: str
) -> None:
    """For axe-core, the console and the network, with all settings unfolded."""
    monkeypatch.chdir(tmp_path)
    served = JourneyPage(0, typer.main.get_command(app))
    page, faults = watched_page(
        browser, viewport={"width": width, "height": 844}, color_scheme=scheme
    )
    page.goto(served.address)
    for journey in JOURNEYS:
        page.get_by_role("tab", name=journey.title).click()
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        assert axe_faults(page) == []
        assert sideways_px(page) <= 0
    assert faults == []
    page.close()
    served.close()


def test_a_form_is_filled_in_and_run(
    browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A choice is taken from its list; the run ends, and its report opens with sorted tables
    under the server's policy."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    served = JourneyPage(0, typer.main.get_command(app))
    page, faults = watched_page(browser)
    page.goto(served.address)
    page.get_by_role("tab", name="Evaluate a model").click()
    form = page.locator("form#evaluate")
    for field, value in (("model", "own:make"), ("data", "data.npz"), ("threat", "linf:8/255")):
        form.locator(f"[name={field}]").fill(value)
    form.locator("[name=limit]").fill("4")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    form.locator("select[name=speed]").select_option("plain")
    form.get_by_role("button", name="Start").click()
    page.get_by_text("Evaluate a model: finished").wait_for(timeout=240_000)
    assert "--speed=plain" in page.locator(".run").text_content()
    with page.expect_popup() as opened:
        page.get_by_role("link", name="Result").click()
    report = opened.value
    report.get_by_text("Robust accuracy of own:make").first.wait_for()
    assert report.locator("svg[tabindex='0'], button.sort").count()
    assert faults == []
    served.close()


def test_the_page_of_the_cloak_is_without_serious_faults(browser: Any, tmp_path: Path) -> None:
    """As it stands before photos are dropped."""
    file = tmp_path / "page.html"
    script = page_html().partition("<script>")[0]  # its requests need its server
    file.write_text(script, encoding="utf-8")
    page, faults = watched_page(browser)
    page.goto(file.as_uri())
    assert axe_faults(page) == []
    assert sideways_px(page) <= 0
    assert faults == []
    page.close()


def test_the_strength_on_the_page_is_a_budget(
    browser: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page begins at --budget, moves in tenths by the keyboard, knows the modes as points of
    the same scale, cloaks at what is chosen, and keeps what was cloaked at each."""
    chosen: list[float] = []

    def quick(text: str) -> Any:
        mode = read_mode(text)
        chosen.append(mode.patches)
        return replace(mode, steps=2, draws=1, every=2)

    read_mode = cloak_page.read_mode
    monkeypatch.setattr(cloak_page, "read_mode", quick)
    face = KnownFinder()(np.zeros((120, 160, 3)))[0]
    data = io.BytesIO()
    Image.fromarray(drawn_photo(120, 160, face)).save(data, "PNG")
    cloaker = PhotoCloaker([KnownFinder()], [tiny_embedder()], mode_of_budget(1.55))
    with CloakPage(0, cloaker) as served:
        page, faults = watched_page(browser)
        page.goto(served.address)
        slider, shown = page.locator("#strength"), page.locator("#mode")
        assert (slider.input_value(), shown.text_content()) == ("1.55", "budget 1.55")
        assert (slider.get_attribute("min"), slider.get_attribute("max")) == ("0.5", "5")

        page.locator("#files").set_input_files(
            {"name": "a.png", "mimeType": "image/png", "buffer": data.getvalue()}
        )
        page.get_by_role("button", name="face 1").wait_for()
        slider.focus()
        for _ in range(4):
            page.keyboard.press("ArrowLeft")
        assert (slider.input_value(), shown.text_content()) == ("1.2", "low")
        page.get_by_role("button", name="high", exact=True).click()
        assert (slider.input_value(), shown.text_content()) == ("3.2", "high")
        slider.focus()
        page.keyboard.press("ArrowLeft")
        assert slider.get_attribute("aria-valuetext") == shown.text_content() == "budget 3.1"

        page.get_by_role("button", name="Cloak", exact=True).click()
        wait_until(page, "document.getElementById('zip').href.includes('/3.1/')")
        said = page.locator("figcaption span").text_content()
        assert said == "cloaked, 3.1; no other photo of this person is here"
        page.get_by_role("button", name="mid", exact=True).click()
        assert page.locator("figcaption span").text_content() == "1 face to cloak; done at 3.1"
        page.get_by_role("button", name="Cloak", exact=True).click()
        wait_until(page, "document.getElementById('zip').href.includes('/mid/')")
        assert set(chosen) == {3.1, MODES["mid"].patches}
        assert axe_faults(page) == []
        assert sideways_px(page) <= 0
        assert faults == []
        page.close()
