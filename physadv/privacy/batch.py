"""Cloaking of a folder of photos: resumable, tolerant of single bad files, originals never
changed."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from physadv.core.errors import (
    DataError,
    ImageError,
    JobEndedError,
    OptionError,
    PhysadvError,
    is_out_of_memory,
)
from physadv.core.files import refuse_unless_file, remove_file, sha256_of, write_bytes
from physadv.core.image_io import IMAGE_SUFFIXES, Array, list_files, list_images
from physadv.core.members import member_of
from physadv.core.rows import Row, append_rows, read_rows
from physadv.core.run_folder import UNASKED
from physadv.core.tables import convert_value, read_table
from physadv.privacy.photo_io.photo import encode_photo, output_name, read_photo

MANIFEST = "cloak-manifest.jsonl"
_RANK_MANIFESTS = "cloak-manifest.rank-*.jsonl"
"""What processes that divide a run write until their rows are joined in the manifest."""
SETTINGS = "cloak-settings.json"
"""Written beside cloaked photos: with which embedders they were made, so that a check knows the
held-out ones."""
_RAW = frozenset({".arw", ".cr2", ".cr3", ".dng", ".nef", ".orf", ".raf", ".rw2", ".srw"})
_DEVELOPED = {
    "raw photo": "Develop it to JPEG or TIFF first",
    "video": "MP4, M4V and MOV alone are cloaked, one at a time; convert it to MP4 (H.264)",
}
_VIDEO = frozenset({".3gp", ".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mts", ".webm"})
CLOAKED_VIDEO = frozenset({".m4v", ".mov", ".mp4"})
"""Suffixes of videos that are cloaked, one at a time."""
_WRITING = "writing"
"""Status of a row whose photo is about to be written."""
Status = Literal["cloaked", "no face", "failed", "already done", "would cloak"]


@dataclass(frozen=True)
class CloakedPhoto:
    """Result of cloaking one photo: new pixels (h, w, 3) uint8, one row a face, notes for the
    owner, and the boxes (x0, y0, x1, y1) of faces that were found and left bare."""

    rgb: Array
    faces: list[dict[str, Any]]
    notes: tuple[str, ...] = ()
    bare: tuple[tuple[int, int, int, int], ...] = ()


Cloaker = Callable[[Array, str], CloakedPhoto]
"""(h, w, 3) uint8 and the photo's name -> what was done; no faces means nothing to protect was
found. It may change the pixels that it is given."""

PixelReader = Callable[[], Array]
"""Reads the pixels (h, w, 3) uint8 of one photo."""

Recall = Callable[[PixelReader, PixelReader, list[dict[str, Any]]], None]
"""Readers of the original and of the cloaked photo, and its face rows: to remember its faces. They
read rather than hold pixels, so that one photo at a time is in memory."""


@dataclass(frozen=True)
class PhotoJob:
    """One photo to cloak: source file, target file, and its name in the manifest."""

    source: Path
    target: Path
    name: str


@dataclass(frozen=True)
class PhotoOutcome:
    """Outcome of one photo, and its position in the whole run."""

    job: PhotoJob
    status: Status
    index: int
    total: int
    faces: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    row: Row = field(default_factory=dict)


Source = str | Path | Sequence[str]
"""A folder with photos, a photo, or several photos."""


def plan_jobs(source: Source, out: str | Path | None = None) -> tuple[list[PhotoJob], Path]:
    """List the photos under ``source`` and the target file of each.

    ``out`` is the target folder; by default it lies beside ``source`` and has "-cloaked" added to
    its name. That of several photos is the one that a run over the folder of all has.

    Returns:
        The jobs and the target folder.

    Raises:
        OptionError: The output would lie among the originals, or one of several is no photo.
        ImageError: There is no photo, or ``source`` is a raw photo or a video.
    """
    if not isinstance(source, str | Path):
        return _plan_several(source, out)
    root, folder = Path(source), photo_folder(source)
    target = target_folder(root, out)
    paths = list_images(root)
    if root.is_file() and (kind := _kind_of(root.suffix.lower())) in _DEVELOPED:
        raise ImageError(f"{root}", f"a {kind}, which is not cloaked", _DEVELOPED[kind])
    return [
        PhotoJob(p, target / p.relative_to(folder), str(p.relative_to(folder))) for p in paths
    ], target


def photo_folder(source: Source) -> Path:
    """Return the folder that names of photos are relative to: ``source`` itself, that of the photo,
    or the one that holds several."""
    if isinstance(source, str | Path):
        root = Path(source)
        return root if root.is_dir() else root.parent
    return Path(os.path.commonpath([Path(each).parent.resolve() for each in source]))


def _plan_several(source: Sequence[str], out: str | Path | None) -> tuple[list[PhotoJob], Path]:
    """The jobs of several photos; their names are relative to the folder of all."""
    files = [Path(each) for each in source]
    for file in files:
        if file.is_dir() or is_video(file):
            raise OptionError(
                f"{file} among several names",
                "Where several are named, each must be a photo",
                "Name it alone",
            )
    folder = photo_folder(source)
    target = target_folder(folder, out)
    jobs: dict[str, PhotoJob] = {}
    for file in files:
        (job,), _ = plan_jobs(file, target)
        name = str(file.parent.resolve().relative_to(folder) / file.name)
        jobs[name] = PhotoJob(job.source, target / name, name)
    return list(jobs.values()), target


def target_folder(source: Path, out: str | Path | None) -> Path:
    """Return the folder for what ``source``, a folder or a file, becomes: ``out``, or one beside
    it.

    Raises OptionError where it would lie among the originals.
    """
    folder = source if source.is_dir() else source.parent
    target = (
        Path(out)
        if out is not None
        else source.with_name(
            f"{source.stem if source.is_file() else source.resolve().name}-cloaked"
        )
    )

    # A target inside of the source would be read as a photo to cloak by the next run.
    home, away = folder.resolve(), target.resolve()
    if away == home or (source.is_dir() and away.is_relative_to(home)):
        raise OptionError(
            f"--out {target}", "lies among the originals", "Name a folder outside of them"
        )
    return target


def is_video(source: Source) -> bool:
    """Return whether ``source`` is a file in a container of videos that are cloaked."""
    if not isinstance(source, str | Path):
        return False
    file = Path(source)
    return file.is_file() and file.suffix.lower() in CLOAKED_VIDEO


def list_unhandled(source: Source) -> list[tuple[str, str]]:
    """Return the files under ``source`` that are no photos which can be cloaked, by name and kind:
    "raw photo", "video" or "other file".

    They stay as they are, faces in them unprotected.
    """
    if not isinstance(source, str | Path) or not (root := Path(source)).is_dir():
        return []
    return [
        (str(file.relative_to(root)), _kind_of(file.suffix.lower()))
        for file in list_files(root)
        if file.suffix.lower() not in IMAGE_SUFFIXES
    ]


def _kind_of(suffix: str) -> str:
    return "raw photo" if suffix in _RAW else "video" if suffix in _VIDEO else "other file"


def run_folder(
    jobs: Sequence[PhotoJob],
    folder: Path,
    cloaker: Cloaker,
    *,
    settings: dict[str, Any],
    keep_metadata: bool = False,
    strip_dates: bool = False,
    mark: bool = True,
    recall: Recall | None = None,
    overwrite: bool = False,
    only: Container[str] | None = None,
    manifest: str = MANIFEST,
) -> Generator[PhotoOutcome]:
    """Cloak photo by photo and yield after each; the manifest grows by rows forced to disk.

    A cloaked photo has two rows: one before its file is written, with the file's sha256, and one
    after, so that a kill at any moment leaves no file that the manifest does not know. A photo
    whose original, settings and output are unchanged since an earlier run is skipped; a photo that
    cannot be read or cloaked is recorded with the reason, and the run continues. Where its result
    cannot be written, the run ends. Memory holds one photo at a time.

    Args:
        jobs: Photos to cloak, as :func:`plan_jobs` lists them.
        folder: Target folder, which holds the manifest.
        cloaker: Cloaks the pixels of one photo.
        settings: Everything the result depends on; another value redoes the photos.
        keep_metadata: Whether GPS, serial numbers and the like are kept.
        strip_dates: Whether dates and times are left out.
        mark: Whether a mark in each photo's metadata names the ``embedders`` of ``settings``.
        recall: Called for each cloaked photo, of this run or an earlier one, to remember its faces
            as they stand in the file: a resumed run goes on exactly as an undisturbed one.
        overwrite: Whether photos cloaked with other settings are replaced.
        only: Names of the photos that are done here, where processes divide the jobs; None for all.
        manifest: Name of the file for new rows, which :func:`gather_manifests` joins.

    Yields:
        One outcome a photo.

    Raises:
        OptionError: ``folder`` holds photos cloaked with other settings, and ``overwrite`` is off.
        OSError: A row or a photo cannot be written.
    """
    carry = Carried(keep_metadata, strip_dates, settings.get("embedders", ()) if mark else ())
    key = settings_key(settings, keep_metadata=keep_metadata, strip_dates=strip_dates, mark=mark)
    known, ours = _known(folder), _digests(folder)
    if not overwrite:
        refuse_other_settings(jobs, folder, settings, key)
    originals = {job.source.resolve() for job in jobs}
    targets = {job.target for job in jobs}

    for index, job in enumerate(jobs, 1):
        if only is not None and job.name not in only:
            continue
        started = time.perf_counter()
        data = None
        try:
            old = _finished(job, folder, known.get(job.name), key)
            if old is None:
                taken = _taken(job, folder, known, targets)
                row, data = _one(job, folder, cloaker, key, carry, originals, ours, taken)
                row["seconds"] = round(time.perf_counter() - started, 3)
        except JobEndedError:
            raise
        except Exception as error:
            if not isinstance(error, PhysadvError | OSError) and not is_out_of_memory(error):
                raise
            old, row = None, _failed(job, error, known.get(job.name, {}))

        if old is not None:
            if old["status"] == _WRITING:  # the file was in place when the run was killed
                old = {**old, "status": "cloaked"}
                append_rows(folder / manifest, [old])
            if recall is not None and old["faces"]:
                _recall(job, folder, old, recall)
            yield PhotoOutcome(job, "already done", index, len(jobs), len(old["faces"]), row=old)
            continue

        if data is not None:
            append_rows(folder / manifest, [{**row, "status": _WRITING}])
            ours.setdefault(row["output"], set()).add(row["output_sha256"])
            write_bytes(folder / row["output"], data)
            data = None
        append_rows(folder / manifest, [row])
        if row["status"] == "cloaked" and recall is not None:
            _recall(job, folder, row, recall)

        known[job.name] = row
        notes = (*row["notes"], *([row["reason"]] if "reason" in row else []))
        yield PhotoOutcome(
            job,
            row["status"],
            index,
            len(jobs),
            len(row["faces"]),
            time.perf_counter() - started,
            notes,
            row,
        )


@dataclass(frozen=True)
class Carried:
    """Metadata that cloaked files carry.

    Attributes:
        keep_metadata: Whether GPS, serial numbers and the like are kept.
        strip_dates: Whether dates and times are left out.
        embedders: Name and sha256 of the embedders that the mark names; none for no mark.
    """

    keep_metadata: bool = False
    strip_dates: bool = False
    embedders: Sequence[Mapping[str, str]] = ()


class CarriedOptions(TypedDict):
    """Options of what cloaked files carry, as :func:`run_folder` takes them."""

    keep_metadata: bool
    strip_dates: bool
    mark: bool


def settings_key(
    settings: Mapping[str, Any], *, keep_metadata: bool, strip_dates: bool, mark: bool
) -> str:
    """Return the key that a manifest keeps for each photo, of ``settings`` and of what its file
    carries: ``keep_metadata``, ``strip_dates``, ``mark``."""
    carried = {"keep": keep_metadata, "strip_dates": strip_dates, "mark": mark}
    text = json.dumps({**settings, **carried}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def refuse_other_settings(
    jobs: Sequence[PhotoJob], folder: Path, settings: Mapping[str, Any], key: str
) -> None:
    """Refuse to replace photos that were cloaked with other settings.

    Args:
        jobs: Photos to cloak now.
        folder: Target folder with the manifest of earlier runs, if any.
        settings: Settings of this run.
        key: Key of this run, as :func:`settings_key` makes it.

    Raises:
        OptionError: A photo among ``jobs`` stands there cloaked with other settings.
    """
    known = _known(folder)
    other = [
        job.name
        for job in jobs
        if (row := known.get(job.name)) is not None
        and row["status"] in ("cloaked", _WRITING)
        and row["settings"] != key
        and member_of(folder, row["output"]).is_file()
    ]
    if other:
        raise OptionError(
            f'"{folder}" holds {len(other)} of these photos cloaked with other settings'
            f"{_difference(folder, settings)}",
            UNASKED,
            "Name another folder with --out, or add --overwrite",
        )


@dataclass(frozen=True)
class _RecordedEmbedder:
    """An embedder that photos were cloaked with, as the settings file lists it."""

    name: str
    sha256: str


def recorded_embedders(file: Path) -> list[dict[str, str]]:
    """Return name and sha256 of the embedders that the settings file ``file`` lists.

    Raises DataError where it is no settings file of a cloak.
    """
    remedy = "Remove it, or run the cloak again"
    table = read_table(file, remedy=remedy)
    listed: list[_RecordedEmbedder] = convert_value(
        table.get("embedders"),
        list[_RecordedEmbedder],
        key="embedders",
        name=f"{file} is no settings file of a cloak",
        remedy=remedy,
    )
    return [asdict(embedder) for embedder in listed]


def _difference(folder: Path, settings: Mapping[str, Any]) -> str:
    """Names of the settings that differ from those recorded in the folder, in parentheses."""
    try:
        before = read_table(folder / SETTINGS)
    except DataError:
        return ""
    plain = json.loads(json.dumps(dict(settings)))
    names = [name for name, value in plain.items() if name in before and before[name] != value]
    return f" ({', '.join(names)})" if names else ""


def _one(
    job: PhotoJob,
    folder: Path,
    cloaker: Cloaker,
    key: str,
    carry: Carried,
    originals: set[Path],
    ours: Mapping[str, set[str]],
    taken: set[Path],
) -> tuple[Row, bytes | None]:
    """The manifest's row for one photo and the bytes to be written, if any."""
    photo = read_photo(job.source)
    target = job.target.with_name(output_name(job.source, photo.suffix))
    while target in taken:  # dup.gif becomes dup.gif.png, which may be a photo of its own
        target = target.with_name(f"{target.stem}_cloaked{photo.suffix}")
    _refuse_foreign(target, folder, ours, originals)
    row: Row = {"source": job.name, "source_sha256": sha256_of(job.source), "settings": key}

    # 16 bits are made from the change, for which the original is needed.
    work = cloaker(photo.rgb if photo.full is None else photo.rgb.copy(), job.name)
    row |= {"faces": work.faces, "notes": [*photo.notes, *work.notes]}
    if work.bare:
        row["bare"] = [list(box) for box in work.bare]
    if not work.faces:
        return {**row, "status": "no face"}, None

    if photo.full is None:  # the original's memory goes, where it is another
        photo = replace(photo, rgb=work.rgb)
    data = encode_photo(
        photo,
        work.rgb,
        keep_metadata=carry.keep_metadata,
        strip_dates=carry.strip_dates,
        made_with=carry.embedders,
    )
    row |= {
        "status": "cloaked",
        "output": str(target.relative_to(folder)),
        "lossless": photo.lossless,
    }
    return {**row, "output_sha256": hashlib.sha256(data).hexdigest()}, data


def _taken(job: PhotoJob, folder: Path, known: Mapping[str, Row], targets: set[Path]) -> set[Path]:
    """Names that belong to other photos: their targets, and what the manifest says they became."""
    outputs = {str(row.get("output", "")) for name, row in known.items() if name != job.name}
    return (targets - {job.target}) | {folder / name for name in outputs if name}


def _failed(job: PhotoJob, error: Exception, before: Row) -> Row:
    """The row of a photo that could not be done; what an earlier run wrote stays known as ours."""
    mine: Row = {k: before[k] for k in ("output", "output_sha256") if k in before}

    reason = "memory ran out" if is_out_of_memory(error) else str(error) or type(error).__name__
    return {
        "source": job.name,
        "status": "failed",
        "reason": reason,
        "faces": [],
        "notes": [],
        **mine,
    }


def _refuse_foreign(
    target: Path, folder: Path, ours: Mapping[str, set[str]], originals: set[Path]
) -> None:
    """Nothing is overwritten that this tool did not write itself."""
    if target.resolve() in originals:
        raise ImageError(f"{target}", "is an original", "Name another folder with --out")

    if refuse_unless_file(target) is None:
        return
    if sha256_of(target) not in ours.get(str(target.relative_to(folder)), set()):
        raise ImageError(
            f"{target}",
            "exists and was not written by this tool",
            "Move it, or name another folder",
        )


def _known(folder: Path) -> dict[str, Row]:
    """The newest row of each photo, of an earlier run."""
    return {row["source"]: row for row in _rows(folder)}


def recorded_outputs(folder: str | Path) -> dict[str, str]:
    """Return what each photo became, by its name among the originals, as the manifest in ``folder``
    lists it; nothing without a manifest.

    Raises DataError where the manifest is not one of a cloak.
    """
    return {name: row["output"] for name, row in _known(Path(folder)).items() if row["output"]}


def written_digests(folder: str | Path) -> frozenset[str]:
    """Return the sha256 of every file that runs into ``folder`` wrote, as its manifest lists them.

    Raises DataError where the manifest is not one of a cloak.
    """
    return frozenset(digest for each in _digests(Path(folder)).values() for digest in each)


def _digests(folder: Path) -> dict[str, set[str]]:
    """The sha256 of everything that was ever written, or was to be, by the output's name."""
    digests: dict[str, set[str]] = {}
    for row in _rows(folder):
        if row["output"]:
            digests.setdefault(row["output"], set()).add(row["output_sha256"])
    return digests


@dataclass(frozen=True)
class _ManifestRow:
    """Keys of a row that later runs rely on."""

    source: str
    status: str
    settings: str = ""
    source_sha256: str = ""
    output: str = ""
    output_sha256: str = ""
    faces: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def rank_manifest(rank: int) -> str:
    """Return the name of the manifest of the process ``rank`` among those that divide a run."""
    return _RANK_MANIFESTS.replace("*", str(rank))


def gather_manifests(folder: Path, order: Sequence[str]) -> None:
    """Join what processes of a divided run recorded in ``folder`` in its manifest.

    A kill meanwhile loses no row; some may then stand there twice.

    Args:
        folder: Target folder.
        order: Names of the photos, in whose order the rows are joined.
    """
    files = sorted(folder.glob(_RANK_MANIFESTS))
    place = {name: number for number, name in enumerate(order)}
    rows = [row for file in files for row in read_rows(member_of(folder, file.name))]
    rows.sort(key=lambda row: place.get(row.get("source", ""), len(place)))
    if rows:
        append_rows(folder / MANIFEST, rows)
    for file in files:
        remove_file(file)


def finished_rows(
    jobs: Sequence[PhotoJob],
    folder: Path,
    settings: Mapping[str, Any],
    *,
    keep_metadata: bool,
    strip_dates: bool,
    mark: bool,
) -> dict[str, Row]:
    """Return the rows of the photos that a run need not do again, by name.

    Args:
        jobs: Photos to cloak.
        folder: Target folder with the manifest of earlier runs, if any.
        settings: Settings of this run.
        keep_metadata: Whether GPS, serial numbers and the like are kept.
        strip_dates: Whether dates and times are left out.
        mark: Whether a mark in each photo's metadata names the embedders.
    """
    key = settings_key(settings, keep_metadata=keep_metadata, strip_dates=strip_dates, mark=mark)
    known = _known(folder)
    finished = {}
    for job in jobs:
        try:
            row = _finished(job, folder, known.get(job.name), key)
        except (PhysadvError, OSError):
            continue  # the run meets it again, and records it
        if row is not None:
            finished[job.name] = row
    return finished


def ordered_by_content(jobs: Sequence[PhotoJob], finished: Container[str]) -> list[PhotoJob]:
    """Return ``jobs`` in the order in which they are cloaked, which names have no part in.

    A cloak knows those made before it. So the photos named in ``finished``, which an earlier run
    made, come first; then all are in the order of their files' sha256, those that cannot be read
    before others.
    """

    return sorted(jobs, key=lambda j: (j.name not in finished, content_digest(j.source), j.name))


def content_digest(file: Path) -> str:
    """Return the sha256 of ``file``; an empty text where it cannot be read."""
    try:
        return sha256_of(file)
    except (PhysadvError, OSError):
        return ""


def output_of(row: Row, folder: Path) -> Path:
    """Return the file that the photo of a manifest's ``row`` became, in ``folder``."""
    return member_of(folder, row["output"])


def _rows(folder: Path) -> list[Row]:
    """All rows of the manifests, those of processes that divide a run last."""
    names = [MANIFEST, *sorted(file.name for file in folder.glob(_RANK_MANIFESTS))]
    return [row for name in names for row in manifest_rows(folder, name)]


def manifest_rows(folder: Path, name: str = MANIFEST) -> list[Row]:
    """Return all rows of a manifest in their order; keys that a row lacks are empty.

    Args:
        folder: Target folder.
        name: Name of the manifest there.

    Raises:
        DataError: The file is not the manifest of a cloak.
    """
    file = member_of(folder, name)
    if not file.is_file():
        return []
    rows: list[Row] = []
    for number, row in enumerate(read_rows(file), 1):
        where, remedy = f"{file}:{number}", "Remove the line"
        known: _ManifestRow = convert_value(row, _ManifestRow, name=where, remedy=remedy)
        written = known.status in ("cloaked", _WRITING) or bool(known.output)
        if written and not (known.output and known.output_sha256):
            raise DataError(f"'{where}' names no output", "A cloaked photo has one", remedy)
        rows.append({**asdict(known), **row})
    return rows


def _finished(job: PhotoJob, folder: Path, row: Row | None, key: str) -> Row | None:
    """The earlier row, if it still holds: same original, same settings, same output."""
    if row is None or row["status"] == "failed" or row["settings"] != key:
        return None
    if sha256_of(job.source) != row["source_sha256"]:
        return None
    if row["status"] in ("cloaked", _WRITING):
        output = member_of(folder, row["output"])
        if not output.is_file() or sha256_of(output) != row["output_sha256"]:
            return None
    return row


def _recall(job: PhotoJob, folder: Path, row: Row, recall: Recall) -> None:
    output = output_of(row, folder)
    recall(lambda: read_photo(job.source).rgb, lambda: read_photo(output).rgb, row["faces"])
