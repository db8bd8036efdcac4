"""Every page follows the reader's scheme, writes no raw key, and its charts are whole SVG files."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import resvg_py
from markupsafe import Markup
from test_evaluate_report import FACTS, result

import physadv.report
from physadv.check.rates import tabulate_rates
from physadv.core.page_colors import color_values
from physadv.evaluation.metrics.intervals import wilson_interval
from physadv.report.bins import rate_grid
from physadv.report.charts import block_chart, heat_map, score_strips
from physadv.report.design import format_value, time_in_words
from physadv.report.evaluate_report import curve_chart, render_evaluate_report
from physadv.report.plots import standalone_svg

REPORT = Path(physadv.report.__file__).parent
OWN_COLORS = {"plots.py", "booklet_pdf.py"}
"""Series of studies, in both schemes, and a booklet on paper."""
SOURCES = sorted(p for p in REPORT.rglob("*.[jp]*") if p.name not in OWN_COLORS)
POINTS = [{"eps": e, **wilson_interval(9 - k, 12).as_dict()} for k, e in enumerate((0.0, 0.1))]


DARK = {name: dark for name, (_, dark) in color_values().items()}
"""Values of the dark scheme by name."""


def rows() -> list[dict[str, object]]:
    """Frames of three blocks in two clips with distance and yaw."""
    return [
        {
            **{"block": block, "clip": f"{block}-{n % 2}", "true": block != "patch"},
            **{"success": block == "patch", "distance_m": 1.0 + n, "yaw_deg": 10.0 * n},
            "true_score": n / 4,
        }
        for block in ("clean", "blank", "patch")
        for n in range(4)
    ]


def charts() -> list[Markup]:
    """One chart of each kind of mark."""
    by_block = {b: [r for r in rows() if r["block"] == b] for b in ("clean", "blank", "patch")}
    grid = rate_grid(by_block["patch"])
    assert grid is not None
    strips = score_strips(by_block, 0.5)
    return [block_chart(tabulate_rates(rows())), heat_map(grid), strips, curve_chart(POINTS, "l2")]


@pytest.mark.parametrize("number", range(4))
def test_a_chart_is_a_file_of_its_own(number: int) -> None:
    """A chart parses as SVG of its own; with its colors resolved a renderer without variables
    draws it, in either scheme, otherwise in each."""
    chart = charts()[number]
    files = [standalone_svg(chart, colors=colors) for colors in (None, DARK)]
    assert ElementTree.fromstring(files[0]).tag == "{http://www.w3.org/2000/svg}svg"
    assert "var(" not in files[0]
    light, dark = (resvg_py.svg_to_bytes(svg_string=file) for file in files)
    assert bytes(light[:4]) == bytes(dark[:4]) == b"\x89PNG"
    assert bytes(light) != bytes(dark)


def test_a_page_defines_every_color_it_names() -> None:
    """Each variable of page and charts is defined, in light and in dark, and no other color is
    used."""
    page = render_evaluate_report(result(curve=POINTS), {**FACTS, "attacks": "ensemble"}, [])
    assert '<meta name="color-scheme" content="light dark">' in page
    assert set(re.findall(r"var\(--([a-z0-9-]+)", page)) <= color_values().keys()

    plain = re.sub(r"var\(--[a-z0-9-]+, #[0-9a-f]{6}\)|--[a-z0-9-]+:#[0-9a-f]{6}", "", page)
    assert not re.search(r"#[0-9a-fA-F]{3,8}\b", plain)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.name)
def test_sources_of_reports_hold_no_color_of_their_own(path: Path) -> None:
    """Colors are written in one place, which knows both schemes."""
    assert not re.search(r"#[0-9a-fA-F]{3}(?:[0-9a-fA-F]{3})?\b", path.read_text(encoding="utf-8"))


def test_settings_are_named_in_words() -> None:
    """A key of the record appears as words; a single image is not several."""
    facts = {**FACTS, "attacks": "ensemble", "weights_sha256": "ab", "eot_draws": 4, "radii": [1.5]}
    one = wilson_interval(1, 1).as_dict()
    page = render_evaluate_report(
        result(clean_accuracy=one, robust_accuracy=one, broken_by={"apgd-ce": 0}), facts, []
    )
    for words in ("<th>Weights sha256</th>", "<th>EOT draws</th>", "1 image</p>", "<td>1.5</td>"):
        assert words in page
    assert not re.search(r"<th>[a-z0-9]+_[a-z0-9_]+</th>", page)


def test_values_and_times_are_written_for_people() -> None:
    """No negative zero, no list in brackets, times in UTC; what is no time stays."""
    assert [format_value(v) for v in (-0.0, [1, 2], [], True)] == ["0", "1, 2", "–", "yes"]
    assert time_in_words("2026-11-28T08:57:54Z") == "2026-11-28 08:57:54 UTC"
    assert time_in_words("yesterday") == "yesterday"
