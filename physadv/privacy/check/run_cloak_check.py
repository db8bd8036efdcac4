"""Check of cloaked photos of any tool: recognizers compare them, through channels, before and
after, with intervals.

The folder of a check holds rows.jsonl (a row a comparison), check.json (rates, verdict, settings)
and pictures of face pairs; the report is made from these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from physadv.core.errors import OptionError
from physadv.core.files import remove_file, write_json
from physadv.core.image_io import Array, save_png, to_tensor
from physadv.core.rows import Row, append_rows
from physadv.core.tables import read_table
from physadv.core.wording import format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import FaceFinder
from physadv.privacy.batch import SETTINGS as SETTINGS
from physadv.privacy.check.adaptive_recognizer import adaptive_rows
from physadv.privacy.check.channels import CHANNELS
from physadv.privacy.check.embeddings import EmbeddingBank, EmbeddingPlan, fill_bank
from physadv.privacy.check.independence import independent_roles
from physadv.privacy.check.match_rates import (
    FARS,
    MatchThreshold,
    gallery_rows,
    match_thresholds,
    pair_rows,
    rate_of,
)
from physadv.privacy.check.pairs import PhotoPair, PortraitPair, find_portraits, match_files
from physadv.privacy.check.protection_verdict import (
    LOST,
    ProtectionVerdict,
    judge_protection,
    role_of_judge,
)
from physadv.privacy.check.provenance import Provenance, Role, provenance_of
from physadv.privacy.feature_distance import FeatureDistance, load_feature_distance
from physadv.privacy.visibility import (
    ImageChange,
    measure_change,
    reduced_ms_ssim,
    seen_color_change,
)

Progress = Callable[[int, int, str], None]
"""Called with photos done, photos in all, and what is being done."""
_SHOWN = 8
RESULT = "check.json"
"""Written last but for the report: a check without it is not finished."""


@dataclass
class CloakCheckResult:
    """Result of a check, complete for its report; ``as_dict`` is check.json."""

    people: int
    photos: int
    cloaked: int
    verdict: ProtectionVerdict
    recognizers: list[dict[str, Any]]
    quality: dict[str, Any]
    left_out: list[str]
    settings: dict[str, Any]
    pictures: list[dict[str, Any]] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for check.json, under the keys that its files have always had."""
        table = asdict(self) | {"verdict": self.verdict.as_dict()}
        return {"recognisers" if key == "recognizers" else key: table[key] for key in table}


def run_cloak_check(
    cloaked: str | Path,
    originals: str | Path,
    recognizers: Sequence[FaceEmbedder],
    finders: Sequence[FaceFinder],
    *,
    folder: str | Path,
    gallery: str | Path | None = None,
    plan: EmbeddingPlan | None = None,
    adaptive: bool = True,
    adaptive_steps: int = 60,
    surrogates: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> CloakCheckResult:
    """Check cloaked photos against their originals and write rows, result and pictures into a
    folder.

    Args:
        cloaked: Folder or file of cloaked photos.
        originals: Folder or file of the originals; folders in it are people.
        recognizers: Recognizers to compare by, at least one.
        finders: Face detectors.
        folder: Folder of the check.
        gallery: Photos of other people (a folder a person): impostors for the thresholds, company
            for rank-1.
        plan: Channels and baselines; all of them by default.
        adaptive: Whether to train a recognizer on half of the people's cloaks and test it on the
            others (8 people or more).
        adaptive_steps: Training steps of that recognizer.
        surrogates: sha256 of the embedders the cloak was made with; by default as the settings
            beside the photos and the marks in them tell.
        progress: Called with photos done, photos in all, and the current activity.

    Returns:
        The result, as written to check.json.

    Raises:
        OptionError: There is no recognizer, ``folder`` holds a finished check, or no pair has a
            face.
        ImageError: No cloaked photo belongs to an original.

    Example:
        >>> from physadv.models.faces.embedders import load_embedder
        >>> from physadv.models.faces.face_detection import default_finders
        >>> def check(cloaked, originals):  # folders of photos; needs the extra `faces`
        ...     recognizers = [load_embedder("dlib")]
        ...     return run_cloak_check(
        ...         cloaked, originals, recognizers, default_finders(), folder="cloak-check"
        ...     )
    """
    plan = plan or EmbeddingPlan()
    target = Path(folder)
    if not recognizers:
        raise OptionError("no recognizer", "at least one is needed", "See `physadv models list`")
    refuse_other_check(target)
    _remove_unfinished(target)

    pairs, foreign = match_files(originals, cloaked)
    others = [] if gallery is None else match_files(gallery)[0]
    bank, left_out, changes, compressed, pictures = _fill(
        pairs + others, recognizers, finders, plan, adaptive, target, progress
    )
    if not changes:
        raise OptionError(
            f"{cloaked}",
            "; ".join(
                ["no pair in which a face is found", *(note.rstrip(".") for note in left_out[:3])]
            ),
            "Check the folders",
        )

    provenance = (
        provenance_of(cloaked, [p.cloaked for p in pairs if p.cloaked is not None])
        if surrogates is None
        else Provenance(tuple(("", digest) for digest in surrogates))
    )
    stated = {r.card.name: provenance.role_of(r.card) for r in recognizers}
    roles = independent_roles(recognizers, bank, stated)
    people, tables = _protected(bank, recognizers[0].card.name), []
    for recognizer in recognizers:
        if progress is not None:
            progress(
                len(pairs) + len(others),
                len(pairs) + len(others),
                f"comparing by {recognizer.card.name}",
            )
        tables.append(
            _ask(
                recognizer,
                bank,
                plan,
                target,
                roles[recognizer.card.name],
                adaptive_steps if adaptive else 0,
            )
        )

    result = CloakCheckResult(
        people=len(people),
        photos=len(bank.people),
        cloaked=len(changes),
        verdict=_judge(tables, one_person=len(people) == 1),
        recognizers=[_plain(table) for table in tables],
        quality={**_quality(changes, bank), "features_jpeg75_mean": compressed},
        left_out=[*left_out, *(f"{p.name}: no original of this name" for p in foreign)],
        settings={
            "cloaked": str(cloaked),
            "originals": str(originals),
            "gallery": str(gallery or ""),
            **asdict(plan),
        },
        pictures=pictures,
    )

    write_json(target / RESULT, result.as_dict())
    return result


def finished_check(folder: str | Path) -> dict[str, Any] | None:
    """Return the result of the finished check in ``folder``, as check.json has it; None without
    one.

    Raises:
        DataError: There is a check.json that cannot be read.
    """
    file = Path(folder) / RESULT
    return read_table(file, remedy="Name another --out") if file.is_file() else None


def _remove_unfinished(folder: Path) -> None:
    """Remove the rows and faces that a killed check left in ``folder``."""
    for file in (folder / "rows.jsonl", *folder.glob("faces/*.png")):
        remove_file(file)


def refuse_other_check(folder: str | Path) -> None:
    """Raise OptionError where ``folder`` holds a finished check."""
    if finished_check(folder) is not None:
        raise OptionError(
            f"{folder}",
            "already holds a check",
            "Name another folder with --out, or add --overwrite",
        )


def _protected(bank: EmbeddingBank, recognizer: str) -> set[str]:
    """The people with cloaked photos."""
    column = bank.rows[recognizer, "cloaked", "png"]
    return {person for person, row in zip(bank.people, column, strict=False) if row is not None}


def _fill(
    pairs: Sequence[PhotoPair],
    recognizers: Sequence[FaceEmbedder],
    finders: Sequence[FaceFinder],
    plan: EmbeddingPlan,
    adaptive: bool,
    folder: Path,
    progress: Progress | None,
) -> tuple[EmbeddingBank, list[str], list[ImageChange], float | None, list[dict[str, Any]]]:
    """Embed all photos, and measure every change, that of JPEG quality 75 beside it."""
    bank, left_out, distance = EmbeddingBank(), list[str](), load_feature_distance()
    changes: list[ImageChange] = []
    compressed: list[float | None] = []
    pictures: list[dict[str, Any]] = []

    def usable() -> Any:
        for done, item in enumerate(find_portraits(pairs, finders), 1):
            if progress is not None:
                progress(done, len(pairs), "looking at photos")
            if isinstance(item, PortraitPair):
                yield item
            else:
                left_out.append(item[1])

    for portrait in fill_bank(bank, usable(), recognizers, finders, plan, keep_crops=adaptive):
        if portrait.after is None:
            continue
        x0, y0, x1, y1 = portrait.box()
        before, after = portrait.before[y0:y1, x0:x1], portrait.after[y0:y1, x0:x1]
        changes.append(_change(before, after, distance))
        if distance is not None:
            jpeg = CHANNELS["jpeg75"].send(before, portrait.side)
            compressed.append(distance(to_tensor(before), to_tensor(jpeg)))
        if len(pictures) < _SHOWN and (
            not pictures or pictures[-1]["person"] != portrait.pair.person
        ):
            pictures.append(_picture(folder, portrait, before, after, changes[-1]))
    return bank, left_out, changes, _mean(compressed, 4), pictures


def _change(before: Array, after: Array, distance: FeatureDistance | None) -> ImageChange:
    """How far a face box was changed, by every measure at hand."""
    pair = to_tensor(before), to_tensor(after)
    return replace(
        measure_change(*pair),
        color=seen_color_change(*pair),
        ms_ssim=reduced_ms_ssim(*pair),
        features=None if distance is None else distance(*pair),
    )


def _picture(
    folder: Path, portrait: PortraitPair, before: Array, after: Array, measured: ImageChange
) -> dict[str, Any]:
    """Save a face before, after and the change between, ten times as strong around gray."""
    stem = f"{len(list(folder.glob('faces/*-before.png'))):02}"
    apart = ((after.astype(int) - before) * 10 + 128).clip(0, 255).astype(np.uint8)

    for name, picture in (("before", before), ("after", after), ("change", apart)):
        save_png(folder / "faces" / f"{stem}-{name}.png", picture)
    return {
        "person": portrait.pair.person,
        "photo": portrait.pair.name,
        "stem": f"faces/{stem}",
        **asdict(measured),
        "psnr": measured.psnr if np.isfinite(measured.psnr) else None,  # infinite where unchanged
    }


def _ask(
    recognizer: FaceEmbedder,
    bank: EmbeddingBank,
    plan: EmbeddingPlan,
    folder: Path,
    role: Role,
    steps: int,
) -> dict[str, Any]:
    """All rows of one recognizer, written down, and the rates from them."""
    limits = match_thresholds(recognizer, bank)
    pairs = list(pair_rows(recognizer, bank, limits, plan.channels))
    told = list(gallery_rows(recognizer, bank, plan.channels))
    adapted = list(adaptive_rows(recognizer, bank, steps=steps, seed=plan.seed)) if steps else []
    append_rows(folder / "rows.jsonl", [*pairs, *told, *adapted])

    table = {"judged": _judged(pairs), "pairs": _tables(pairs)}
    return {
        "name": recognizer.card.name,
        "role": role_of_judge(role, _uncloaked(table)),
        "card": recognizer.card.as_dict(),
        "thresholds": [_threshold(limit) for limit in limits],
        **table,
        "gallery": _tables(told),
        "adaptive": _tables(adapted),
    }


def _uncloaked(table: Mapping[str, Any]) -> RateInterval:
    """The rate at which a recognizer matches uncloaked photos of a person, as saved."""
    cells = table["pairs"].get("cross photo", {})
    rate: RateInterval = (
        cells["png"]["original"]["0.01"] if "png" in cells else wilson_interval(0, 0)
    )
    return rate


def _judged(rows: Sequence[Row]) -> dict[str, RateInterval]:
    """Rates of cloaked cross pairs by channel, of those pairs alone that match uncloaked.

    A pair that a recognizer never matched tells nothing of a cloak: photos of two people in one
    folder would pass for protected.
    """
    crossed = [row for row in rows if row["kind"] == "cross photo"]
    matched = {
        (row["photo"], row["other"])
        for row in crossed
        if row["variant"] == "original" and row["channel"] == "png" and row["matched_0.01"]
    }
    groups: dict[str, list[Row]] = {}
    for row in crossed:
        if row["variant"] == "cloaked":
            group = groups.setdefault(row["channel"], [])
            if (row["photo"], row["other"]) in matched:
                group.append(row)
    return {
        channel: rate_of(group) if group else wilson_interval(0, 0)
        for channel, group in groups.items()
    }


def _threshold(limit: MatchThreshold) -> dict[str, Any]:
    return {**asdict(limit), "value": round(limit.value, 4)}


def _tables(rows: Sequence[Row]) -> dict[str, dict[str, dict[str, dict[str, RateInterval]]]]:
    """Rates by kind, channel, variant and share of false accepts."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["kind"], row["channel"], row["variant"]), []).append(row)

    tables: dict[str, dict[str, dict[str, dict[str, RateInterval]]]] = {}
    for (kind, channel, variant), group in groups.items():
        cell = {
            f"{far:g}": rate_of(group, key)
            for far in FARS
            if (key := f"matched_{far:g}") in group[0]
        }
        tables.setdefault(kind, {}).setdefault(channel, {})[variant] = cell
    return tables


def _judge(tables: Sequence[Mapping[str, Any]], *, one_person: bool = False) -> ProtectionVerdict:
    crossed, before, beside, failed = {}, {}, list[tuple[str, str, RateInterval]](), list[str]()
    for table in tables:
        name = table["name"]
        crossed[name] = table["judged"]
        before[name] = _uncloaked(table)

        for kind, question in _BESIDE.items():
            source = table["adaptive"] if kind == "cross photo" else table["gallery"]
            if kind not in source:
                continue
            rates = source[kind]["png"]
            # A trained recognizer that no longer matches uncloaked photos says nothing about
            # cloaked ones.
            if rates["original"]["0.01"].rate >= LOST:
                beside.append((question, name, rates["cloaked"]["0.01"]))
            elif kind == "cross photo":
                matched = format_percent(rates["original"]["0.01"].rate, 0)
                failed.append(f"{name} {_FAILED.format(matched)}")

    roles = {table["name"]: table["role"] for table in tables}
    titles = {c.name: c.title for c in CHANNELS.values()}
    judged = judge_protection(crossed, before, roles, titles, beside, one_person=one_person)
    return replace(judged, reasons=(*judged.reasons, *failed))


_FAILED = (
    "could not be trained on cloaked photos: afterwards it matched only {} of the uncloaked "
    "ones, so what it "
    "says about cloaked ones means nothing."
)


_BESIDE = {
    "cross photo": "a recognizer trained on cloaked photos of other people",
    "poisoned 1-NN": "your cloaked photos collected under your name, then an uncloaked photo "
    "(nearest neighbor)",
    "poisoned linear probe": "your cloaked photos collected under your name, then an uncloaked "
    "photo (classifier)",
}


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """Rates as plain values."""

    def flat(value: Any) -> Any:
        if isinstance(value, RateInterval):
            return value.as_dict()
        return {k: flat(v) for k, v in value.items()} if isinstance(value, dict) else value

    return {key: flat(value) for key, value in table.items()}


def _quality(changes: Sequence[ImageChange], bank: EmbeddingBank) -> dict[str, Any]:
    """What it costs: change of the face boxes, and in how many cloaked photos a face is still
    found."""
    dssims, peaks = [c.dssim for c in changes], [c.psnr for c in changes if np.isfinite(c.psnr)]
    return {
        "dssim_mean": round(float(np.mean(dssims)), 5),
        "dssim_max": round(max(dssims), 5),
        "linf_max": max(c.linf for c in changes),
        "ms_ssim_mean": _mean([c.ms_ssim for c in changes], 4),
        "color_mean": _mean([c.color for c in changes], 3),
        "features_mean": _mean([c.features for c in changes], 4),
        "psnr_mean": round(float(np.mean(peaks)), 2) if peaks else None,
        "unchanged": sum(c.linf == 0 for c in changes),
        "faces_still_found": int(sum(bank.found)),
        "n": len(changes),
    }


def _mean(values: Sequence[float | None], digits: int) -> float | None:
    """The mean of what was measured; None where nothing was."""
    measured = [value for value in values if value is not None]
    return round(float(np.mean(measured)), digits) if measured else None
