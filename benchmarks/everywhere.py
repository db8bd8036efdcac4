"""Stickers in every place where they were measured, as one table: drawn held-out faces, photographed
signs, the twin and path-traced frames.

    python benchmarks/everywhere.py            # prints it
    python benchmarks/everywhere.py --write    # puts it into physical.md, between its two marks

Nothing is measured here. The figures are those of the bundles' cards and of the kept rows of
real_signs.py, path_traced.py and universal_in_twin.py, and only those of the run that each bundle
holds today: rows of a sticker that was since made anew do not count. What is missing is named so.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from physadv.core.rows import Row, read_rows
from physadv.evaluation.metrics.intervals import RateInterval, clustered_interval
from physadv.models.zoo import fastestdet_card, yolox_nano_card
from physadv.patches.bundle import PatchBundle, read_bundle

HERE = Path(__file__).parent
PAGE = HERE / "physical.md"
START, END = "<!-- table of everywhere.py -->", "<!-- end of it -->"
NAMES = (
    "stop-sticker-signs-v1",
    "stop-bars-signs-v1",
    "stop-band-fastestdet-v1",
    "stop-band-yolox-v1",
    "stop-sticker-fastestdet-v1",
    "stop-sticker-yolox-v1",
    "stop-sticker-three-v1",
    "person-fastestdet-v1",
    "toaster-universal-v1",
)
EQUAL_PASSES = {
    "ours-16": "our rectangle, 16 % of the sign",
    "art-16": "ART 1.20.1, 16 %, at the same place",
    "bars-8": "our bars, 8.3 % of the sign",
    "ours-8": "our rectangle, 8.3 %",
    "art-8": "ART 1.20.1, 8.3 %, where our rectangle lies",
}
"""Bundles of strength.py, seed 0, in equal_passes/: as many passes each, about 25,600."""
OWN_SCORES = {
    card.name: float(card.extra["score_threshold"])
    for card in (fastestdet_card(), yolox_nano_card())
}
"""Score from which a box of a detector counts, by its name."""
MISSING = "not measured"
PHOTOS = "real photos"
"""What a card calls the rates on all its held-out photos, beside those by drawn face."""
FROM_CARD = "†"


@dataclass(frozen=True)
class Rates:
    """Rates of one sticker in one place.

    Attributes:
        clean: Share of clean signs that the model reads; None where it was not asked.
        blank: Share of signs with a blank sticker on which the goal is met.
        patch: The same with the patch.
        unit: What the intervals take for trials, in the plural.
        mark: Footnote.
    """

    clean: RateInterval | None
    blank: RateInterval
    patch: RateInterval
    unit: str
    mark: str = ""

    @property
    def cells(self) -> list[str]:
        """Clean, blank and patch, and what was counted."""
        clean = in_percent(self.clean) if self.clean else MISSING
        counted = f"{self.patch.n}"
        if self.clean and self.clean.n != self.patch.n:
            counted += f" of {self.clean.n}"
        counted += f", {self.patch.clusters} {self.unit}{self.mark}"
        return [clean, in_percent(self.blank), f"**{in_percent(self.patch)}**", counted]


def in_percent(rate: RateInterval) -> str:
    """Return a rate in whole percent with its interval."""
    value, low, high = (round(100 * share) for share in (rate.rate, rate.low, rate.high))
    return f"{value} [{low}, {high}]"


def of_card(table: Mapping[str, Any], unit: str) -> Rates:
    """Return the rates in a table of a card."""
    clean, blank, patch = (
        RateInterval(**table[key]) for key in ("clean_recognised", "blank_success", "success")
    )
    return Rates(clean, blank, patch, unit)


def of_draws(rows: Sequence[Row], unit: str, mark: str = "") -> Rates:
    """Return the rates of raw draws, whose groups are trials, as a card counts them."""
    read = [row for row in rows if row["clean"]["recognised"]]
    clean = clustered_interval(
        [row["clean"]["recognised"] for row in rows], [row["group"] for row in rows]
    )
    blank, patch = (
        clustered_interval([row[block]["success"] for row in read], [row["group"] for row in read])
        for block in ("blank", "patch")
    )
    return Rates(clean, blank, patch, unit, mark)


def split_draws(bundle: PatchBundle) -> tuple[list[Row], list[Row]]:
    """Return the draws of a card on drawn faces, and those on photos."""
    faces = {face["name"] for face in bundle.card.heldout.get("by_face", ())} - {PHOTOS}
    rows = list(read_rows(bundle.folder / "rows.jsonl"))
    drawn = [row for row in rows if row["group"] in faces]
    return drawn, [row for row in rows if row["group"] not in faces]


def on_drawn_faces(bundle: PatchBundle, model: str) -> Rates | None:
    """Return the rates on held-out drawn faces, of the card's own model or of one of its ensemble."""
    card = bundle.card
    if "by_face" not in card.heldout:
        return None
    if model != card.victim.name:
        further = card.heldout.get("further_victims", {}).get(model)
        return of_card(further, "faces") if further else None
    if card.heldout["scenes"] == "drawn":
        return of_card(card.heldout, "faces")
    return of_draws(split_draws(bundle)[0], "faces")


def on_photos(bundle: PatchBundle, model: str) -> Rates | None:
    """Return the rates on photos that the sticker was not made on: those of real_signs.py, else those
    of its card."""
    card = bundle.card
    for row in rows_of("real_signs.jsonl", bundle, model):
        rates = (RateInterval(**row[block]) for block in ("clean", "blank", "patch"))
        return Rates(*rates, "photos")
    if card.heldout["scenes"] != "photos" or model != card.victim.name:
        return None
    return of_draws(split_draws(bundle)[1], "photos", FROM_CARD)


def in_twin(bundle: PatchBundle, model: str) -> Rates | None:
    """Return the rates in a film of the twin by all its cameras."""
    for record in bundle.card.twin:
        if record.victim.name == model:
            every = next(one for one in record.cameras if one.camera == "all")
            return Rates(every.clean_recognised, every.blank_success, every.success, "clips")

    rows = [
        row
        for row in rows_of("universal_in_twin.jsonl", bundle, model)
        if row["camera"] != "on disk"
    ]
    if not rows:
        return None
    clean, blank, patch = (
        clustered_interval([row[block] for row in rows], [row["photo"] for row in rows])
        for block in ("clean", "blank", "patch")
    )
    return Rates(clean, blank, patch, "photos")


def in_traced_frames(bundle: PatchBundle, model: str) -> Rates | None:
    """Return the rates in path-traced frames, each detection judged at the model's own score."""
    rows = [row for row in rows_of("path_traced.jsonl", bundle, model) if row["arm"] == "tracer"]
    if not rows:
        return None
    clean, blank, patch = (
        clustered_interval([_met(row, block) for row in rows], [row["pose"] for row in rows])
        for block in ("clean", "blank", "patch")
    )
    read = RateInterval(1 - clean.rate, 1 - clean.high, 1 - clean.low, clean.n, clean.clusters)
    return Rates(read, blank, patch, "poses")


def _met(row: Row, block: str) -> bool:
    """Whether the goal is met in a block of a path-traced row; a detector's is to hide the sign."""
    score = OWN_SCORES.get(row["model"])
    return bool(row[block]["success"] if score is None else row[block]["true_score"] < score)


def rows_of(file: str, bundle: PatchBundle, model: str) -> Iterable[Row]:
    """Return the rows of a file that are of this run of the bundle, and of a model."""
    run = bundle.card.patch.run_id
    return (
        row for row in _kept_rows(file) if row.get("run_id") == run and row.get("model") == model
    )


@cache
def _kept_rows(file: str) -> tuple[Row, ...]:
    return tuple(read_rows(HERE / file))


PLACES: dict[str, Callable[[PatchBundle, str], Rates | None]] = {
    "drawn faces": on_drawn_faces,
    "real photos": on_photos,
    "twin": in_twin,
    "path tracer": in_traced_frames,
}


def models_of(bundle: PatchBundle) -> list[str]:
    """Return the models that a sticker was made on."""
    further = bundle.card.optimisation.get("ensemble", ())
    return [bundle.card.victim.name, *(str(text).partition("=")[0] for text in further)]


def stickers() -> Iterator[tuple[str, PatchBundle]]:
    """Yield every sticker of the table, as it is called there: the ready-made ones, then those of
    equal passes."""
    for name in NAMES:
        yield f"`{name}`", read_bundle(name)
    for name, title in EQUAL_PASSES.items():
        yield title, read_bundle(HERE / "equal_passes" / name)


def table() -> str:
    """Return the table in Markdown: for each bundle and model a line for each place."""
    lines = ["| sticker, judged by | seen in | clean | blank | patch | n |", "|---" * 6 + "|"]
    for title, bundle in stickers():
        for model in models_of(bundle):
            head = f"{title}, {model}"
            for place, rates_in in PLACES.items():
                rates = rates_in(bundle, model)
                cells = rates.cells if rates else [MISSING] * 3 + ["none"]
                lines.append("| " + " | ".join([head, place, *cells]) + " |")
                head = ""
    return "\n".join(lines)


def table_on_page(page: str) -> str:
    """Return what stands between the two marks of a page."""
    return page.partition(START)[2].partition(END)[0].strip()


def main() -> None:
    """Print the table, or write it into the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", action="store_true", help="put the table into physical.md")
    if not parser.parse_args().write:
        print(table())
        return
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    PAGE.write_text(f"{before}{START}\n\n{table()}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
