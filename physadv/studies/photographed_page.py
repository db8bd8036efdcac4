"""Page of `physadv study photographed`, computed from its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from physadv.core.rows import Row
from physadv.core.wording import format_percent
from physadv.studies.config import PhotographedConfig
from physadv.studies.page import (
    AboutStudy,
    Axis,
    Chart,
    Comparison,
    Formula,
    Matrix,
    PageSections,
    Paper,
    Point,
    Series,
    StudyPage,
    Table,
    cell_ends,
)
from physadv.studies.photographed_examples import ATTACKS, photographed_table

KURAKIN = Paper(
    "Kurakin, Goodfellow and Bengio",
    2016,
    "Adversarial examples in the physical world",
    "arXiv:1607.02533",
)
ABOUT = AboutStudy(
    name="photographed",
    title="Printed and photographed",
    question="How many adversarial pictures still fool a classifier once they are printed and "
    "photographed?",
    papers=(KURAKIN,),
)
ALONE = " alone"
"""End of the name of a way to photograph with one effect of the simulation."""
Line = dict[str, Any]


def photographed_page(config: PhotographedConfig, rows: Sequence[Row]) -> StudyPage:
    """Return the page of a study.

    Args:
        config: Its configuration.
        rows: Its rows, at least those of one picture.

    Example:
        >>> row = {"way": "phone", "eps": 8, "clean_photo": True, "fooled": True}
        >>> rows = [row | {"attack": attack, "photo_fooled": False} for attack in ATTACKS]
        >>> page = photographed_page(PhotographedConfig(pictures="photos/"), rows)
        >>> page.answer[-22:]
        '1 of 1 (least-likely).'
    """
    lines = photographed_table(rows)
    ways = list(dict.fromkeys(str(line["way"]) for line in lines))
    cameras = [way for way in ways if not way.endswith(ALONE)]

    sections = PageSections()
    sections.add(
        "Destroyed by print and camera",
        [
            "An adversarial picture that fools the model from its file may no longer do so in a "
            "photo of its print. The destruction rate is the share that print and camera undo.",
            _matrix(lines, ways),
            Formula(
                r"d = \frac{|\{k : f(x_k^{adv}) \ne y_k, \; f(T(x_k^{adv})) = y_k\}|}"
                r"{|\{k : f(x_k^{adv}) \ne y_k\}|}",
                "The destruction rate is the number of pictures that fool the model from the file "
                "and are read correctly in the photo, over the number that fool it from the file.",
            ),
            "Fast takes one step of eps along the sign of the gradient. Iterative takes small "
            "steps within eps, and least-likely takes such steps towards the class that the model "
            "holds least likely: finer patterns, which print and camera undo more easily.",
        ],
    )
    published = [line for line in lines if line["published"] and line["destroyed"]["n"]]
    if published:
        sections.add("Beside the paper", [_scatter(published, cameras)])
    sections.add("All figures", [_table(lines)])
    return StudyPage(
        answer=_answer(lines, cameras or ways),
        sections=tuple(sections.sections),
        comparisons=_comparisons(published, cameras or ways),
        limits=(
            "Printer and camera are simulated; the paper's photos are real.",
            "The class of a photo is the one that the model reads from its file, right or wrong; "
            "the paper counts pictures that it reads correctly.",
            f"The pictures are {config.picture_size} px squares of one folder, attacked at "
            f"{config.model}; the paper attacks Inception v3 at 299 px.",
        ),
        terms=(
            (
                "destruction rate",
                "share of the pictures that fool the model from their file and no "
                "longer do in the photo.",
            ),
            ("alone", "photographed by the last camera with this effect and no other."),
            ("eps", "largest change of any pixel, in 255ths of the range of values."),
        ),
    )


def _columns(lines: Sequence[Line]) -> list[tuple[str, int]]:
    """Return attacks and radii, the largest radius first."""
    radii = sorted({int(line["eps"]) for line in lines}, reverse=True)
    return [(attack, eps) for eps in radii for attack in ATTACKS]


def _matrix(lines: Sequence[Line], ways: Sequence[str]) -> Matrix:
    """Return destruction rates by way, attack and radius, the paper's first."""
    settings = _columns(lines)
    by_setting = {(line["way"], line["attack"], line["eps"]): line for line in lines}
    values: list[tuple[float | None, ...]] = []
    notes: list[tuple[str, ...]] = []
    for setting in settings:
        own = [by_setting[way, *setting] for way in ways]
        rates = [line["destroyed"] for line in own]
        values.append(
            (own[0]["published"], *(rate["rate"] if rate["n"] else None for rate in rates))
        )
        notes.append(
            (
                "",
                *(cell_ends(r["low"], r["high"]) if r["n"] else "" for r in rates),
            )
        )
    return Matrix(
        "destroyed",
        "Destruction rate; below, its 95 % Wilson interval. First column: the paper's photos of "
        "102 pictures, Inception v3.",
        tuple(f"{attack}, {eps}/255" for attack, eps in settings),
        ("Kurakin 2016", *ways),
        tuple(values),
        "attack and eps",
        "photographed by",
        notes=tuple(notes),
    )


def _scatter(published: Sequence[Line], cameras: Sequence[str]) -> Chart:
    """Return the chart of destruction rates over those of the paper."""
    series = [
        Series(
            camera,
            tuple(
                Point(
                    line["published"],
                    line["destroyed"]["rate"],
                    line["destroyed"]["low"],
                    line["destroyed"]["high"],
                    f"{line['attack']}, {line['eps']}/255",
                )
                for line in published
                if line["way"] == camera
            ),
            "points",
        )
        for camera in cameras[:7]
    ]
    equal = Series("as published", (Point(0, 0), Point(1, 1)), "curve", "theory")
    return Chart(
        "beside-the-paper",
        "Destruction rate of each attack and radius over that of the paper's photos. On the "
        "dashed line both are equal; below it the simulation destroys less.",
        Axis("published", low=0, high=1, percent=True),
        Axis("this run", low=0, high=1, percent=True),
        (*series, equal),
    )


def _table(lines: Sequence[Line]) -> Table:
    def rate(value: dict[str, float]) -> str:
        if not value["n"]:
            return "-"
        return _with_ends(value)

    return Table(
        "rates",
        "Shares with 95 % Wilson intervals.",
        (
            *("photographed by", "attack", "eps", "clean photo right", "fooled from the file"),
            *("fooled in the photo", "destroyed", "n"),
        ),
        tuple(
            (
                str(line["way"]),
                str(line["attack"]),
                f"{line['eps']}/255",
                rate(line["clean_photo_right"]),
                rate(line["fooled"]),
                rate(line["photo_fooled"]),
                rate(line["destroyed"]),
                str(line["n"]),
            )
            for line in lines
        ),
        (7,),
    )


def _pooled(lines: Sequence[Line], way: str, attack: str) -> tuple[int, int]:
    """Return how many pictures were destroyed, and of how many, over all radii."""
    own = [line["destroyed"] for line in lines if (line["way"], line["attack"]) == (way, attack)]
    return (
        sum(round(each["rate"] * each["n"]) for each in own if each["n"]),
        sum(each["n"] for each in own),
    )


def _answer(lines: Sequence[Line], cameras: Sequence[str]) -> str:
    """Return the result in a sentence."""
    parts = []
    for camera in cameras:
        shares = [
            f"{destroyed} of {n} ({attack})"
            for attack in ATTACKS
            for destroyed, n in [_pooled(lines, camera, attack)]
            if n
        ]
        if shares:
            parts.append(f"the {camera} {', '.join(shares)}")
    if not parts:
        return "No picture fools the model from its file, so print and photo have nothing to undo."
    return (
        "Of the adversarial pictures that fool the model from their file, print and photo undo, by "
        f"camera and attack: {'; '.join(parts)}."
    )


def _with_ends(rate: Mapping[str, float]) -> str:
    value, low, high = (format_percent(rate[key]) for key in ("rate", "low", "high"))
    return f"{value} [{low}, {high}]"


def _comparisons(published: Sequence[Line], cameras: Sequence[str]) -> tuple[Comparison, ...]:
    """Return each published rate beside that of every whole camera."""
    settings = list(dict.fromkeys((line["attack"], line["eps"]) for line in published))
    made = []
    for attack, eps in settings:
        own = {
            line["way"]: line
            for line in published
            if (line["attack"], line["eps"]) == (attack, eps) and line["way"] in cameras
        }
        words = "; ".join(
            f"{way} {_with_ends(d)}, n = {d['n']}"
            for way, line in own.items()
            for d in [line["destroyed"]]
        )
        rate = next(
            line["published"]
            for line in published
            if (line["attack"], line["eps"]) == (attack, eps)
        )
        made.append(
            Comparison(
                f"Destroyed by print and photo: {attack}, eps {eps}/255",
                KURAKIN.cited,
                f"{format_percent(rate)} (table 1, top-1, 102 pictures)",
                words,
                "Simulated print and camera, another net, cut out by the true corners.",
            )
        )
    return tuple(made)
