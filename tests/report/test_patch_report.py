"""The page of a patch bundle: every bin of its card is on it, an old card has one too, and nothing
on it comes from elsewhere."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from physadv.core.errors import BundleError
from physadv.core.package_data import bundle_folder
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.patches.bundle import PatchCard, read_bundle
from physadv.report.patch_report import render_patch_report, write_patch_report


def a_bin(low: float, high: float, hits: int, n: int, **more: float) -> dict[str, Any]:
    """A bin of a card with ``hits`` of ``n`` draws that met the goal."""
    rate = wilson_interval(hits, n).as_dict()
    clean = wilson_interval(n, n + 5).as_dict()
    return {
        **{"from": low, "to": high, "success": rate, "clean_recognised": clean, **more},
        "blank_success": wilson_interval(0, n).as_dict(),
    }


@pytest.fixture
def card() -> PatchCard:
    """A card with a gap between its bins of distance."""
    old = read_bundle("stop-sticker-signs-v1").card
    bins = [
        a_bin(0.15, 0.22, 7, 31, near_m=2.92, far_m=4.28),
        a_bin(0.33, 0.47, 29, 32, near_m=1.37, far_m=1.95),
    ]
    camera = {"field_of_view_deg": 65.0, "sensor_px": 1920.0}
    curve = {"model": "<b>signs", "unit": "share", "draws": 64, "limit": 0.1534, "yaws": []}
    curve["sizes"] = [{"from": 0.15, "to": 0.22, **wilson_interval(20, 32).as_dict()}]
    heldout = {
        **old.heldout,
        "by_distance": {"unit": "share", "camera": camera, "bins": bins},
        "by_angle": {"bins": [a_bin(0, 15, 11, 41)]},
    }
    return replace(old, heldout=heldout, visibility={"rule": "limit: half", "curves": [curve]})


def test_every_bin_and_limit_is_on_the_page(card: PatchCard) -> None:
    """Rates, n and meters of each bin; the limit of each victim, whose name is no markup."""
    page = render_patch_report(card)
    words = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    for part in ("0.33 to 0.47 1.4 to 1.9 m 91 %", "0.15 to 0.22 2.9 to 4.3 m 23 %", "of 31"):
        assert part in words
    assert "0 to 15° 27 %" in words
    assert "limit 0.153 of the frame&#39;s height" in words
    assert "&lt;b&gt;signs" in page
    assert page.count("<svg") == 3
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_a_gap_between_bins_stays_empty(card: PatchCard) -> None:
    """The chart by distance has three places and marks in two: six marks with their hints."""
    chart = render_patch_report(card).split("<svg")[1].split("</svg>")[0]
    assert chart.count("<title>") == 6


def test_a_card_from_before_has_a_page(card: PatchCard) -> None:
    """Without bins and curves there are the totals."""
    totals = {key: value for key, value in card.heldout.items() if not key.startswith("by_")}
    page = render_patch_report(replace(card, heldout=totals, visibility={}))
    assert f"{100 * totals['success']['rate']:.1f} %" in page
    assert "By distance" not in page
    assert "<svg" not in page


def test_the_page_stands_in_the_folder_of_its_bundle(tmp_path: Path) -> None:
    """With its preview in the page itself; what is no bundle is refused."""
    shutil.copytree(bundle_folder(Path("stop-sticker-signs-v1")), tmp_path / "bundle")
    page = write_patch_report(tmp_path / "bundle")
    assert page == tmp_path / "bundle" / "report.html"
    assert "data:image/png;base64," in page.read_text(encoding="utf-8")
    with pytest.raises(BundleError):
        write_patch_report(tmp_path)
