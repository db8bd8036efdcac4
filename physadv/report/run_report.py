"""Reports of runs that have no page of their own kind: trainings, simulated films, transfers and
cloaked photos."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from physadv.core.config import COMMAND_KEY
from physadv.core.errors import DataError
from physadv.core.files import write_text
from physadv.core.members import member_of
from physadv.core.rows import Row, read_rows
from physadv.core.run_folder import CONFIG
from physadv.core.tables import read_table
from physadv.core.wording import count_noun, format_percent, format_range
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.privacy.batch import MANIFEST
from physadv.report.cloak_pictures import MOST_SHOWN, CloakedPicture, cloaked_pictures
from physadv.report.design import format_interval, member_uri, render_page

Cells = Sequence[Any]
_SHOWN = 500
"""Most rows of a table on the page."""


@dataclass(frozen=True)
class RunPage:
    """Content of a page.

    Attributes:
        title: Heading.
        headline: The result in one sentence.
        tags: Short remarks above the heading.
        detail: Second sentence.
        findings: Findings as their records hold them.
        picture: Name of the picture of what the run was of; none where empty.
        words: What the picture shows.
        photos: Cloaked photos, shown first.
        photos_words: What they show.
        tables: Tables, each with a heading, names of columns, and rows.
        links: Names of files of the run's folder to open.
    """

    title: str
    headline: str
    tags: Sequence[str] = ()
    detail: str = ""
    findings: Sequence[Mapping[str, Any]] = ()
    picture: str = ""
    words: str = ""
    photos: Sequence[CloakedPicture] = ()
    photos_words: str = ""
    tables: Sequence[tuple[str, Cells, Sequence[Cells]]] = field(default=())
    links: Sequence[str] = ()


def write_run_report(folder: str | Path) -> Path:
    """Write report.html of the run in ``folder``, from its rows and records.

    Args:
        folder: Folder of a run of :data:`OTHER_RUNS`.

    Returns:
        Path of the page.

    Raises:
        DataError: The run has no result yet.
    """
    root = Path(folder)
    config = read_table(member_of(root, CONFIG))
    command = str(config.pop(COMMAND_KEY, "cloak"))
    return write_text(
        member_of(root, "report.html"), _html(root, config, OTHER_RUNS[command](root, config))
    )


def write_before_after(folder: str | Path, originals: str | Path) -> Path:
    """Write the page of a run of cloaked photos with the bare faces beside the cloaked ones.

    It lies beside the folder, whose photos are to be passed on, and not in it.

    Args:
        folder: Folder of the run.
        originals: Folder of the photos it was made from, or that photo; those that changed since
            are not shown.

    Returns:
        Path of the page.

    Raises:
        DataError: The folder holds no cloaked photos.
    """
    root, source = Path(folder).resolve(), Path(originals)
    recorded = member_of(root, CONFIG)
    config = read_table(recorded) if recorded.is_file() else {COMMAND_KEY: ""}
    if str(config.pop(COMMAND_KEY, "cloak")) != "cloak":
        raise DataError(f'"{root}"', "holds no cloaked photos", "Leave out --before")
    page = _cloaking(root, config, source if source.is_dir() else source.parent)
    return write_text(root.with_name(f"{root.name}-before-after.html"), _html(root, config, page))


def _html(root: Path, config: Mapping[str, Any], page: RunPage) -> str:
    links = [name for name in page.links if member_of(root, name).is_file()]
    shown = [(heading, columns, rows[:_SHOWN], len(rows)) for heading, columns, rows in page.tables]
    return render_page(
        "run.html.j2",
        page=page,
        title=page.title,
        picture=member_uri(root, page.picture) if page.picture else "",
        links=links,
        tables=shown,
        settings=config,
    )


def _rate(table: Mapping[str, Any]) -> list[str]:
    """Three cells of a rate: share, interval, n."""
    rate = RateInterval(**table)
    return [format_percent(rate.rate), format_interval(rate.low, rate.high), str(rate.n)]


def _needed(file: Path) -> Path:
    if not file.is_file():
        raise DataError(f'"{file.parent}"', "the run has no result yet", "Let it go on")
    return file


def _training(root: Path, config: Mapping[str, Any]) -> RunPage:
    """A trained classifier, from its card."""
    card = read_table(_needed(member_of(root, "model.safetensors.toml")), finite=False)
    measured = card["measured"]
    own = next(
        (name for name in ("certified", "robust", "masked", "noisy") if name in measured), "clean"
    )
    rows = [[name, *_rate(rate)] for name, rate in measured.items()]
    epochs = count_noun(int(card["epochs_done"]), "epoch")
    rate = RateInterval(**measured[own])
    return RunPage(
        title=f"{card['name']}, trained",
        headline=f"{format_percent(rate.rate)} {own} accuracy",
        detail=f"On {rate.n} held-out training images, 95 % interval "
        f"{format_interval(rate.low, rate.high)}, at {card['threat']}; {epochs}. The robust "
        "figure is of PGD-10 alone; physadv evaluate measures it with the whole ensemble.",
        findings=card["doubts"],
        tables=[("Held-out training images", ("Accuracy", "Rate", "95 % interval", "n"), rows)],
        links=("model.safetensors", "model.safetensors.toml"),
    )


def _sign_training(root: Path, config: Mapping[str, Any]) -> RunPage:
    """A trained sign classifier, from its card."""
    card = read_table(_needed(member_of(root, "signs.toml")), finite=False)
    parts = card["measured"]
    rows = [[name, *_rate(part["right"]), part["groups"]] for name, part in parts.items()]
    first = RateInterval(**next(iter(parts.values()))["right"])
    return RunPage(
        title="Sign classifier, trained",
        headline=f"{format_percent(first.rate)} of frames read correctly",
        detail=f"{next(iter(parts))}: n = {first.n}, 95 % interval "
        f"{format_interval(first.low, first.high)}. Frames of one track are alike; the card holds "
        "the intervals by track.",
        findings=card.get("doubts", []),
        tables=[("Held-out parts", ("Part", "Right", "95 % interval", "n", "Groups"), rows)],
        links=("signs.safetensors", "signs.toml", "rows.jsonl"),
    )


def _film(root: Path, config: Mapping[str, Any]) -> RunPage:
    """Simulated films of a print, from their settings and truth."""
    film = read_table(_needed(member_of(root, "twin.json")), finite=False)
    truth = list(read_rows(member_of(root, "truth.jsonl")))
    clips: dict[str, list[Row]] = {}
    for row in truth:
        clips.setdefault(str(row["clip"]), []).append(row)
    rows = [
        [
            name,
            frames[0]["camera"],
            len(frames),
            _range(frames, "distance_m", " m"),
            _range(frames, "yaw_deg", "°", 0),
        ]
        for name, frames in clips.items()
    ]
    return RunPage(
        title=f"{Path(str(film['bundle'])).name}, printed and filmed in simulation",
        headline=f"{count_noun(len(clips), 'clip')}, {count_noun(len(truth), 'frame')}",
        tags=("simulation", *(() if film.get("complete") else ("incomplete",))),
        detail="How often the patch met its goal was not measured here: `physadv check` of this "
        "folder does that.",
        picture="contact.png",
        words="One frame of each clip; a row a block: clean, blank, patch.",
        tables=[("Clips", ("Clip", "Camera", "Frames", "Distance", "Yaw"), rows)],
        links=("sheet.pdf", *_clip_files(root), "truth.jsonl", "twin.json"),
    )


def _clip_files(root: Path) -> list[str]:
    """Names of the clips of a film, as links on its page."""
    folder = member_of(root, "clips")
    return (
        [f"clips/{file.name}" for file in sorted(folder.glob("*.*"))[:_SHOWN]]
        if folder.is_dir()
        else []
    )


def _range(rows: Sequence[Row], key: str, unit: str, digits: int = 1) -> str:
    """The least and the largest value of ``key``, in a cell that does not break at the unit."""
    values = (float(row[key]) for row in rows if row.get(key) is not None)
    return format_range(values, unit.replace(" ", "\N{NO-BREAK SPACE}"), digits) or "–"


def _transfer(root: Path, config: Mapping[str, Any]) -> RunPage:
    """Patches on models that they were not made on."""
    rows = list(read_rows(_needed(member_of(root, "transfer.jsonl"))))
    cells = [
        [
            f"{row['bundle']} on {row['victim']}" + " (made on it)" * bool(row["in_training"]),
            *_rate(row["success"]),
            format_percent(RateInterval(**row["blank_success"]).rate),
            format_percent(RateInterval(**row["clean_recognised"]).rate),
        ]
        for row in rows
        if "success" in row
    ]
    columns = ("Patch on model", "Success", "95 % interval", "n", "Blank", "Clean recognized")
    return RunPage(
        title="Patches on other models",
        headline=f"{count_noun(len(cells), 'pair')} of patch and model",
        tags=("simulated",),
        detail="Success counts draws whose clean control is recognized.",
        tables=[("Success", columns, cells)],
        links=("transfer.jsonl", "transfer.md"),
    )


def _cloaking(root: Path, config: Mapping[str, Any], originals: Path | None = None) -> RunPage:
    """Cloaked photos, from their manifest and files; bare faces only where ``originals`` are."""
    last = {row["source"]: row for row in read_rows(_needed(member_of(root, MANIFEST)))}
    counts = Counter(str(row["status"]) for row in last.values())
    rows = [row for _, row in sorted(last.items())]
    cells = []
    for row in rows:
        faces, notes = row.get("faces", []), "; ".join(map(str, row.get("notes", [])))
        measures = (("dssim", 3), ("ms_ssim", 3), ("color", 1))
        changes = [_range(faces, key, "", digits) for key, digits in measures]
        remarks = row.get("reason", "") or notes
        cells.append([row["source"], row["status"], len(faces), *changes, remarks])
    others = ", ".join(
        f"{n} {status}" for status, n in sorted(counts.items()) if status != "cloaked"
    )
    photos = list(cloaked_pictures(root, rows, originals))
    shown = (
        f"The first {MOST_SHOWN} of {counts['cloaked']}: the"
        if (len(photos) == MOST_SHOWN < counts["cloaked"])
        else "The"
    )
    return RunPage(
        title="Cloaked photos" if originals is None else "Photos before and after",
        headline=f"{counts['cloaked']} of {count_noun(len(last), 'photo')} cloaked",
        tags=() if originals is None else ("shows bare faces: keep this page to yourself",),
        detail=f"{others.capitalize() + '. ' if others else ''}Whether it protects was not "
        "measured here: `physadv cloak check` does that.",
        photos=photos,
        photos_words=f"{shown} cloaked photo, and its largest face at 100 %"
        + (
            ". `physadv report RUN --before PHOTOS` makes a page with the faces as they were."
            if originals is None
            else ", cloaked and as it was."
        ),
        tables=[("Photos", _CLOAK_COLUMNS, cells)],
        links=(MANIFEST,) if originals is None else (),
    )


_CLOAK_COLUMNS = ("Photo", "Status", "Faces", "DSSIM", "MS-SSIM", "Mean CIEDE2000", "Notes")


OTHER_RUNS: dict[str, Callable[[Path, Mapping[str, Any]], RunPage]] = {
    "train": _training,
    "train-signs": _sign_training,
    "twin": _film,
    "patch-transfer": _transfer,
    "cloak": _cloaking,
}
"""What a page of these commands shows."""
