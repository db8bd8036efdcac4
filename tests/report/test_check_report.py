"""The check report agrees with the rows, needs no network, and can be rebuilt from the folder
alone."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageSequence

from physadv.core.errors import DataError
from physadv.core.image_io import save_png
from physadv.core.page_script import PAGE_SCRIPT
from physadv.core.rows import append_rows
from physadv.evaluation.metrics.intervals import clustered_interval
from physadv.report.check_report import render_check_report, summarize_check, write_check_report

SETTINGS: dict[str, Any] = {
    "started": "2026-01-01T00:00:00Z",
    "status": "complete",
    "simulation": False,
    "goal": "targeted",
    "true_class": "stop",
    "target_class": "limit <80>",
    "victim": {"name": "signs", "task": "classify", "sha256": "ab12"},
    "bundle": {"name": "stop-v1", "sha256": "cd34", "victim_sha256": "ab12"},
    "margin": 0.08,
    "sources": [
        {
            "name": "walk.mp4",
            "kind": "video",
            "block": "patch",
            "settings": {"width": 640, "height": 480, "fps": 30},
        }
    ],
    "located_by": {"patch": {"fiducials": 26}},
    "left_out": {"patch: sign not found": 4},
    "warnings": ["walk.mp4 ended early"],
}
VOID = {"meta", "img", "br", "link", "input", "hr"}


def rows_of(block: str, clips: list[str], **more: Any) -> list[dict[str, Any]]:
    """One row a letter: "s" the target, "t" the true class, "o" another; distance and yaw run over
    the clip."""
    verdicts = {"s": "limit <80>", "t": "stop", "o": "yield"}
    return [
        {
            "clip": f"{block}-{c}",
            "block": block,
            "frame": i,
            "time_s": i / 10,
            "verdict": verdicts[letter],
            "confidence": 0.8,
            "true_score": 0.9 if letter == "t" else 0.1,
            "true": letter == "t",
            "success": letter == "s",
            "distance_m": 3.0 + i,
            "yaw_deg": -20.0 + 10 * c,
            "crop_px": 80 - i,
            "located_by": "fiducials",
            **more,
        }
        for c, letters in enumerate(clips)
        for i, letter in enumerate(letters)
    ]


ROWS = [
    *rows_of("clean", ["tttt"] * 5),
    *rows_of("blank", ["tttt"] * 5),
    *rows_of("patch", ["ssss", "ssts", "sos", "ssst", "s"]),
]


class Strict(HTMLParser):
    """Collects text and attributes, and fails on tags that do not close in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.links: list[str] = []
        self.words: list[str] = []
        self.tags: list[str] = []
        self.feed(html)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [
            v or ""
            for k, v in attrs
            if k in {"src", "href", "action", "data", "poster", "srcset", "xlink:href"}
        ]
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def run_folder(tmp_path: Path, rows: list[dict[str, Any]] = ROWS, **settings: Any) -> Path:
    append_rows(tmp_path / "rows.jsonl", rows)
    (tmp_path / "check.json").write_text(json.dumps({**SETTINGS, **settings}))
    return tmp_path


def test_json_has_rates_and_intervals_of_the_rows(tmp_path: Path) -> None:
    """Each block's numbers are those of the clip bootstrap over its rows."""
    report = write_check_report(run_folder(tmp_path))
    written = json.loads((tmp_path / "report.json").read_text())
    assert written == json.loads(json.dumps(report.summary, default=str))
    patch = [r for r in ROWS if r["block"] == "patch"]
    expected = clustered_interval([r["success"] for r in patch], [r["clip"] for r in patch])
    block = written["blocks"]["patch"]
    assert (block["attack_success_rate"], block["low"], block["high"]) == (
        expected.rate,
        expected.low,
        expected.high,
    )
    assert (block["frames"], block["clips"]) == (16, 5)
    assert block["attack_success_rate"] == 13 / 16
    assert block["true_class_rate"] == 2 / 16
    assert written["verdicts"]["patch"][0] == {
        "verdict": "limit <80>",
        "frames": 13,
        "share": 13 / 16,
    }
    assert written["valid"] is True


def test_html_is_whole_and_self_contained(tmp_path: Path) -> None:
    """The page parses, tags close in order, nothing is fetched from anywhere, and text is
    escaped."""
    html = write_check_report(run_folder(tmp_path)).html.read_text()
    parsed = Strict(html)
    assert not re.search(r"https?:|//cdn|@import|url\((?!#)", html)
    assert all(link.startswith("data:") for link in parsed.links)
    assert parsed.tags.count("script") == html.count(f"<script>{PAGE_SCRIPT}</script>") == 1
    assert not {"iframe", "object", "embed"} & set(parsed.tags)
    assert "limit <80>" not in html
    assert "limit &lt;80&gt;" in html


def test_html_shows_the_numbers(tmp_path: Path) -> None:
    """Rate, interval, n, model, warnings, what was left out and the limits stand on the page."""
    report = write_check_report(run_folder(tmp_path))
    block = report.summary["blocks"]["patch"]
    said = " ".join(" ".join(Strict(report.html.read_text()).words).split())
    for words in (
        "81.2 %",
        f"{100 * block['low']:.1f} to {100 * block['high']:.1f} %",
        "ab12",
        "walk.mp4 ended early",
        "4 frames left out (patch: sign not found)",
        "Nothing was measured outside 3.0 to 6.0 m and yaw -20.0 to 20.0°",
        "Limits of this measurement",
        "controls passed",
        "by the markers of the page (26 frames)",
    ):
        assert words in said, words


def test_simulation_and_failed_controls_come_first(tmp_path: Path) -> None:
    """A twin's report calls itself a simulation; failed controls turn the claim down on top."""
    rows = [*rows_of("clean", ["ttoo"] * 5), *[r for r in ROWS if r["block"] != "clean"]]
    html = write_check_report(run_folder(tmp_path, rows, simulation=True)).html.read_text()
    said = " ".join(Strict(html).words)
    assert "no valid claim" in said
    assert "Not valid for a claim" in said
    assert "This is a simulation" in said
    assert said.index("Not valid for a claim") < said.index("Results by block")


def test_transfer_is_named() -> None:
    """Another model than the bundle's is called a test of transfer."""
    other = {**SETTINGS, "victim": {"name": "other", "task": "classify", "sha256": "ff"}}
    assert any("transfer" in n for n in summarize_check(ROWS, other)["notes"])
    assert not any("transfer" in n for n in summarize_check(ROWS, SETTINGS)["notes"])


def test_a_defense_before_the_model_is_named() -> None:
    """The same net behind a defense that the patch was not made against is called that, and the
    bundle's own is not."""
    bundle = {**SETTINGS["bundle"], "victim": SETTINGS["victim"]["name"]}
    alike = {**SETTINGS, "bundle": bundle}
    guarded = {**alike, "victim": {**SETTINGS["victim"], "name": f"{bundle['victim']}+jpeg"}}
    assert any("(jpeg)" in n for n in summarize_check(ROWS, guarded)["notes"])
    assert not any("defence" in n for n in summarize_check(ROWS, alike)["notes"])


def test_heat_map_cells_hold_rate_and_n(tmp_path: Path) -> None:
    """Every patch row falls into one cell; cells without rows are marked as not measured."""
    grid = summarize_check(ROWS, SETTINGS)["patch_by_distance_and_yaw"]
    cells = [c for line in grid["cells"] for c in line]
    assert sum(c["n"] for c in cells if c) == 16
    assert sum(round(c["rate"] * c["n"]) for c in cells if c) == 13
    html = render_check_report(ROWS, SETTINGS, [], rows_path="rows.jsonl")
    assert html.count("not measured</title>") == sum(c is None for c in cells)


def test_without_geometry_there_is_no_heat_map() -> None:
    """Rows that know only the sign's size are drawn by size; rows that know nothing still make a
    page."""
    plain = [{**r, "distance_m": None, "yaw_deg": None} for r in ROWS]
    html = render_check_report(plain, SETTINGS, [], rows_path="rows.jsonl")
    assert "Distance and angle.<" not in html
    assert "size of the sign (px)" in html
    bare = [{**r, "crop_px": None} for r in plain]
    assert "Frame by frame" in render_check_report(bare, SETTINGS, [], rows_path="rows.jsonl")
    assert "No frame with the patch was measured" in render_check_report(
        [], SETTINGS, [], rows_path="rows.jsonl"
    )


def test_examples_are_carried_in_the_page(tmp_path: Path) -> None:
    """Pictures of the run's examples stand in the page as data, with verdict, clip and distance."""
    folder = run_folder(tmp_path)
    save_png(folder / "examples" / "patch-met-0.png", np.full((8, 8, 3), 200, np.uint8))
    (folder / "examples" / "index.json").write_text(
        json.dumps([{"file": "patch-met-0.png", **ROWS[40]}])
    )
    parsed = Strict(write_check_report(folder).html.read_text())
    pictures = [link[:22] for link in parsed.links if link != "data:,"]  # but its icon
    assert set(pictures) == {"data:image/png;base64,"}
    assert "patch: goal met" in parsed.words


def test_frames_of_each_block_come_first_and_move(tmp_path: Path) -> None:
    """Before any table: clean, blank, patch, each an animation of its frames of the outcome that
    most of its frames have, and a still picture for those who want no motion."""
    folder, listed = run_folder(tmp_path), []
    for number, row in enumerate(ROWS):
        name = f"{number}.png"
        save_png(folder / "examples" / name, np.full((8, 8, 3), 37 * number % 256, np.uint8))
        listed.append({"file": name, **row})
    (folder / "examples" / "index.json").write_text(json.dumps(listed))
    page = write_check_report(folder).html.read_text()
    first = page[: page.index("Results by block")]

    shown = re.findall(r'src="data:image/webp;base64,([^"]+)" alt="(\w+) frames', first)
    assert [block for _, block in shown] == ["clean", "blank", "patch"]
    assert first.count('media="(prefers-reduced-motion: reduce), print"') == 3
    for data, block in shown:
        own = [row["success"] for row in ROWS if row["block"] == block]
        usual = own.count(True) * 2 > len(own)
        expected = [
            37 * number % 256
            for number, row in enumerate(ROWS)
            if (row["block"], row["success"]) == (block, usual)
        ]
        with Image.open(io.BytesIO(base64.b64decode(data))) as film:
            found = [
                float(np.asarray(f.convert("RGB")).mean()) for f in ImageSequence.Iterator(film)
            ]
        np.testing.assert_allclose(found, expected, atol=3)


def test_same_rows_same_page(tmp_path: Path) -> None:
    """Rebuilding changes nothing but the time it was made."""
    folder = run_folder(tmp_path)
    first, second = (write_check_report(folder).html.read_text() for _ in range(2))
    assert re.sub(r"Made by physadv, [^.]*\.", "", first) == re.sub(
        r"Made by physadv, [^.]*\.", "", second
    )


def test_a_killed_run_can_still_be_reported(tmp_path: Path) -> None:
    """A half-written last row is left out, a record without its end says so; other damage names its
    line."""
    folder = run_folder(tmp_path, status="running")
    with (folder / "rows.jsonl").open("a") as stream:
        stream.write('{"clip": "patch-9", "blo')
    report = write_check_report(folder)
    assert report.summary["blocks"]["patch"]["frames"] == 16
    assert any("stopped before its end" in n for n in report.summary["notes"])
    (folder / "rows.jsonl").write_text('{"clip": "a", "block": "patch"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1.*success"):
        write_check_report(folder)


def test_a_folder_without_a_check_is_named(tmp_path: Path) -> None:
    """What is no run says so."""
    with pytest.raises(DataError, match=r"holds no check\.json"):
        write_check_report(tmp_path)
