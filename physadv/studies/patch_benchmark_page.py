"""Page of the benchmark of patches, computed from its rows."""

from __future__ import annotations

import re
from collections.abc import Sequence

from physadv.core.rows import Row
from physadv.core.wording import format_ends, format_percent
from physadv.evaluation.detector_evaluation import objects_found, precision_intervals
from physadv.evaluation.metrics.detection import IntervalEstimate
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval
from physadv.studies.attack_studies_config import PatchBenchmarkConfig
from physadv.studies.page import Matrix, PageSections, Paper, Picture, Pictures, StudyPage, Table
from physadv.studies.study import PartRows

CLEAN, GRAY, NOISE = "clean", "gray", "noise"
GRADIENT, ADAPTIVE, SQUARE = "gradient", "adaptive", "square"
ATTACKS = (CLEAN, GRAY, NOISE, GRADIENT, SQUARE, ADAPTIVE)
"""Attacks in the order of the table."""
NO_DEFENSE = "none"
WORDS = {
    CLEAN: "no patch",
    GRAY: "gray patch",
    NOISE: "noise patch",
    GRADIENT: "optimized, detector alone",
    SQUARE: "optimized by scores",
    ADAPTIVE: "optimized through the defense",
}
"""Attacks in words."""

SHORT = {
    CLEAN: "no patch",
    GRAY: "gray",
    NOISE: "noise",
    GRADIENT: "by gradient",
    SQUARE: "by scores",
    ADAPTIVE: "knows defense",
}
"""Attacks beside a figure."""

BROWN = Paper("Brown et al.", 2017, "Adversarial patch", "arXiv:1712.09665")
THYS = Paper(
    "Thys et al.",
    2019,
    "Fooling automated surveillance cameras: adversarial patches to attack person detection",
    "CVPRW 2019, arXiv:1904.08653",
)


def benchmark_page(config: PatchBenchmarkConfig, parts: PartRows) -> StudyPage:
    """Compute the page of the study.

    Args:
        config: Configuration of the study.
        parts: Its rows by part.
    """
    cells = {
        (part, attack): _cell([row for row in rows if row["attack"] == attack])
        for part, rows in parts.items()
        for attack in ATTACKS
        if any(row["attack"] == attack for row in rows)
    }
    sections = PageSections()
    columns = tuple(parts)
    attacks = tuple(a for a in ATTACKS if any((part, a) in cells for part in columns))
    for text in config.detector:
        name = text.partition("=")[0]
        own = tuple(part for part in columns if part.startswith(f"{name}+"))
        sections.add(
            name,
            [
                _matrix("ap50", f"AP50 of {config.object_class}", cells, attacks, own, name),
                _matrix(
                    "found", f"Share of {config.object_class} found", cells, attacks, own, name
                ),
            ],
        )
    sections.add("All rows", [_table(cells, attacks, columns)])
    sections.add("Patches", [_pictures(config)])
    return StudyPage(
        answer=_answer(cells, columns, config),
        sections=tuple(sections.sections),
        limits=(
            "Patches are pasted into photos, flat and in the middle of an object: neither print "
            "nor camera lies between. `physadv patch` makes patches that survive both.",
            "An attack through a defense takes gradients of a stand-in where the defense has none; "
            "a stronger attacker can only do better.",
            "Intervals are over photos; patches are of one run each.",
        ),
        terms=(
            ("AP50", "Average precision of the class at overlap 0.5, by the rules of COCO."),
            ("found", "Share of the objects that are found at the detector's own threshold."),
            ("adaptive", "An attack that knows the defense and optimizes through it."),
        ),
    )


Cell = tuple[IntervalEstimate, RateInterval, int]


def _cell(rows: Sequence[Row]) -> Cell:
    """AP50, share of objects found, and number of photos of one attack on one detector."""
    found, objects = [row["found"] for row in rows], [row["objects"] for row in rows]
    _, ap50 = precision_intervals(found, objects)
    hits = [objects_found(row["found"], row) for row in rows]
    owners = [str(i) for i, own in enumerate(hits) for _ in own]
    return ap50, clustered_interval([h for own in hits for h in own], owners), len(rows)


def _matrix(
    name: str,
    caption: str,
    cells: dict[tuple[str, str], Cell],
    attacks: Sequence[str],
    columns: Sequence[str],
    detector: str,
) -> Matrix:
    values, notes = [], []
    for attack in attacks:
        line, below = [], []
        for part in columns:
            cell = cells.get((part, attack))
            shown = None if cell is None else cell[0] if name == "ap50" else cell[1]
            value = None
            if shown is not None:
                value = shown.value if isinstance(shown, IntervalEstimate) else shown.rate
            line.append(value)
            span = (
                ""
                if shown is None or shown.low is None or shown.high is None
                else format_ends(shown.low, shown.high)
            )
            below.append(span)
        values.append(tuple(line))
        notes.append(tuple(below))
    return Matrix(
        f"{name}-{stem_of(detector)}",
        f"{caption}, {detector}, by patch and defense, each above its 95 % interval over photos",
        tuple(SHORT[a] for a in attacks),
        tuple(part.partition("+")[2].partition(":")[0] for part in columns),
        tuple(values),
        "patch",
        "defense",
        notes=tuple(notes),
    )


def _table(
    cells: dict[tuple[str, str], Cell], attacks: Sequence[str], columns: Sequence[str]
) -> Table:
    rows = []
    for part in columns:
        for attack in attacks:
            if (part, attack) not in cells:
                continue
            ap50, found, photos = cells[part, attack]
            span = (
                ""
                if ap50.low is None or ap50.high is None
                else f" [{format_percent(ap50.low)}, {format_percent(ap50.high)}]"
            )
            precision = f"{format_percent(ap50.value)}{span}"
            rows.append((part, WORDS[attack], precision, str(found), str(photos)))
    return Table(
        "rows",
        "The same with intervals over photos",
        ("detector + defense", "attack", "AP50", "objects found", "photos"),
        tuple(rows),
        (2, 3, 4),
    )


def _pictures(config: PatchBenchmarkConfig) -> Pictures:
    names = [text.partition("=")[0] for text in config.detector]
    return Pictures(
        "examples",
        "One test photo under each attack on the detector alone",
        tuple(
            tuple(
                Picture(f"pictures/{stem_of(name)}-{attack}.png", WORDS[attack], name)
                for attack in (CLEAN, GRAY, NOISE, GRADIENT, SQUARE)
            )
            for name in names
        ),
    )


def stem_of(name: str) -> str:
    """Return a name with nothing in it that a file name may not have."""
    return re.sub(r"[^\w.-]+", "-", name)


def _answer(
    cells: dict[tuple[str, str], Cell], columns: Sequence[str], config: PatchBenchmarkConfig
) -> str:
    """What the patch costs each detector, and what the best defense leaves of it."""
    sentences = []
    for text in config.detector:
        name = text.partition("=")[0]
        plain = f"{name}+{NO_DEFENSE}"
        clean, patched = cells[plain, CLEAN][0], cells[plain, GRADIENT][0]
        words = (
            f"{name}'s AP50 of {config.object_class} is {format_percent(patched.value)} with the "
            f"patch, {format_percent(cells[plain, GRAY][0].value)} with a gray one and "
            f"{format_percent(clean.value)} with none"
        )
        behind = [c for c in columns if c.startswith(f"{name}+") and c != plain]
        if behind:
            best = max(behind, key=lambda part: cells[part, ADAPTIVE][0].value)
            words += (
                f"; of the defenses {best.partition('+')[2]} keeps most when the patch is made "
                f"through it: {format_percent(cells[best, ADAPTIVE][0].value)}, against "
                f"{format_percent(cells[best, GRADIENT][0].value)} for the patch that does not "
                "know it"
            )
        sentences.append(words)
    text = "; ".join(sentences)
    return text[0].upper() + text[1:] + "."
