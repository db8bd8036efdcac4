"""Report of a cloak check: the verdict in plain words, the rates behind it, and the faces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from physadv.core.files import write_text
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.privacy.check.channels import CHANNELS
from physadv.privacy.check.protection_verdict import LOST
from physadv.report.design import (
    BLOCK_COLORS,
    MUTED,
    format_interval,
    member_uri,
    render_page,
)
from physadv.report.svg import WIDTH, block_marker, percent_axis, svg_chart, svg_line, svg_text

_SHAPES = {"original": "clean", "noise": "blank", "cloaked": "patch"}
COLORS = {variant: BLOCK_COLORS[shape] for variant, shape in _SHAPES.items()}
ROLES = {
    "held-out": "held out: the cloak was not made with it",
    "surrogate": "the cloak was made with it",
    "unknown": "it is not known whether the cloak was made with it",
    "suspect": "as blind to these photos as only a recognizer is that the cloak was made with",
    "untested": "not tested for a part in the cloak: photos of too few people",
    "weak": "matches too few uncloaked photos to judge cloaked ones",
    "copy": "the net of another recognizer here, or made from it",
}
KINDS = {
    "cross photo": "with another photo of the same person",
    "same photo": "with its own original",
    "cloaked pair": "with another cloaked photo of the person",
}


def write_cloak_report(folder: str | Path, result: Mapping[str, Any]) -> Path:
    """Write ``folder``/report.html from ``result``, the content of check.json; the faces lie in
    ``folder``/faces."""
    root = Path(folder)
    pictures = [
        {
            **row,
            "uris": {
                k: member_uri(root, f"{row['stem']}-{k}.png") for k in ("before", "after", "change")
            },
        }
        for row in result["pictures"]
    ]

    return write_text(root / "report.html", render_cloak_report(result, pictures))


def render_cloak_report(
    result: Mapping[str, Any], pictures: Sequence[Mapping[str, Any]] = ()
) -> str:
    """Render the page of ``result``, the content of check.json, and return it as HTML.

    ``pictures`` carry their faces as data URIs under ``uris``.
    """
    headline, _, detail = result["verdict"]["words"].partition(":")
    return render_page(
        "cloak.html.j2",
        title="Are these photos protected?",
        result=result,
        verdict=result["verdict"],
        headline=headline,
        detail=detail.strip() or headline,
        recognizers=[_recognizer(table) for table in result["recognisers"]],
        pictures=pictures,
        quality=result["quality"],
        settings=_settings(result["settings"]),
        cell=_rate_cell,
    )


def _settings(kept: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings with the names that people know the channels by."""
    settings = dict(kept)
    if isinstance(channels := settings.get("channels"), list | tuple):
        titles = {name: channel.title for name, channel in CHANNELS.items()}
        settings["channels"] = [titles.get(name, name) for name in channels]
    return settings


def _rate_cell(rate: Mapping[str, Any] | None) -> Markup:
    """A rate for a table, with its interval beneath."""
    if rate is None or not rate["n"]:
        return Markup("–")
    if rate["low"] <= 0 and rate["high"] >= 1:
        few = '<span class="num">{}<small>no interval</small></span>'
        return Markup(few).format(format_percent(rate["rate"], 0))
    return Markup('<span class="num">{}<small>{}</small></span>').format(
        format_percent(rate["rate"], 0), format_interval(rate["low"], rate["high"], 0)
    )


def _recognizer(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return one recognizer's section: chart, tables by kind, and the attacks with a gallery."""
    crossed = table["pairs"].get("cross photo", {})
    return {
        **table,
        "role_text": ROLES[table["role"]],
        "chart": channel_chart(crossed) if crossed else None,
        "tables": [
            (KINDS[kind], _rows(table["pairs"][kind], kind))
            for kind in KINDS
            if kind in table["pairs"]
        ],
        "attacks": _attacks(table),
    }


def _rows(channels: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return a row a channel: before, after, the baselines, and the stricter threshold."""
    rows = []
    for name, variants in channels.items():
        rows.append(
            {
                "channel": CHANNELS[name].title if name in CHANNELS else name,
                "before": _at(variants, "original", "0.01") if kind == "cross photo" else None,
                "after": _at(variants, "cloaked", "0.01"),
                "strict": _at(variants, "cloaked", "0.001"),
                "noise": _at(variants, "noise", "0.01"),
                "blur": _at(variants, "blur", "0.01"),
            }
        )
    return rows


def _attacks(table: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return each attack with its rate on uncloaked photos and on cloaked ones."""
    rows = []
    for kind, channels in table["gallery"].items():
        for name, variants in channels.items():
            if kind == "rank-1" and name not in ("png", "jpeg75", "half"):
                continue
            title = (
                f"{_QUESTIONS[kind]}, {CHANNELS[name].title}"
                if kind == "rank-1"
                else _QUESTIONS[kind]
            )
            rows.append(
                (title, _at(variants, "original", "0.01"), _at(variants, "cloaked", "0.01"))
            )

    for variants in [c["png"] for k, c in table["adaptive"].items() if k == "cross photo"]:
        before, after = _at(variants, "original", "0.01"), _at(variants, "cloaked", "0.01")
        failed = before["rate"] < LOST
        rows.append(
            (
                _QUESTIONS["adaptive"] + (_FAILED if failed else ""),
                before,
                None if failed else after,
            )
        )
    return rows


_QUESTIONS = {
    "rank-1": "Identification: the person ranks first among all people in the gallery",
    "poisoned 1-NN": "Collection of cloaked photos under the name; a new, uncloaked photo is "
    "identified by its nearest neighbor",
    "poisoned linear probe": "The same, identified by a classifier trained on the collection",
    "adaptive": "A recognizer trained on cloaked photos of other people (at FAR 1 %)",
}

_FAILED = (
    ". The training failed: it no longer matches uncloaked photos, so no rate for cloaked ones "
    "is reported"
)


def _at(variants: Mapping[str, Any], variant: str, far: str) -> Any:
    return variants.get(variant, {}).get(far)


def channel_chart(channels: Mapping[str, Any]) -> Markup:
    """Draw the match rates at FAR 1 % of ``channels``: uncloaked, noise of the same DSSIM,
    cloaked, with intervals."""
    left, step, top = 150.0, 34.0, 8.0
    right, parts = WIDTH - 22.0, list[str]()
    bottom = top + step * len(channels)

    parts += percent_axis(left, right, top, bottom)

    for row, (name, variants) in enumerate(channels.items()):
        y = top + step * (row + 0.5)
        title = CHANNELS[name].title if name in CHANNELS else name
        parts.append(svg_text(left - 10, y + 4, title, at="end", size=12))

        for shift, variant in ((-9.0, "original"), (0.0, "noise"), (9.0, "cloaked")):
            values = _at(variants, variant, "0.01")
            if values is None or not values["n"]:
                continue
            rate = RateInterval(values["rate"], values["low"], values["high"], int(values["n"]))
            low, middle, high = (
                left + v * (right - left) for v in (rate.low, rate.rate, rate.high)
            )
            parts.append(svg_line(low, y + shift, high, y + shift, stroke=COLORS[variant], width=2))
            parts.append(
                block_marker(
                    middle,
                    y + shift,
                    _SHAPES[variant],
                    COLORS[variant],
                    f"{variant}, {title}: {rate}",
                )
            )
    parts.append(
        svg_text(
            (left + right) / 2,
            bottom + 34,
            "matched with another photo of the person, FAR 1 %",
            at="middle",
            fill=MUTED,
            size=12,
        )
    )
    return svg_chart(bottom + 42, parts, "Match rates by channel, before and after")
