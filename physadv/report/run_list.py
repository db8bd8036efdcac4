"""The runs in a folder: what each was of, when, how far it came, and its result in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from physadv.core.config import COMMAND_KEY
from physadv.core.errors import DataError, PhysadvError
from physadv.core.members import member_of
from physadv.core.reading import foreign_errors
from physadv.core.rows import read_rows
from physadv.core.run_folder import CONFIG
from physadv.core.tables import read_table
from physadv.core.wording import count_noun, format_percent
from physadv.evaluation.metrics.intervals import RateInterval, wilson_interval
from physadv.evaluation.progress_log import IDENTITY
from physadv.privacy.batch import MANIFEST
from physadv.report.run_comparison import read_figures
from physadv.report.run_report import OTHER_RUNS

_SUBJECTS = ("model", "bundle", "patch", "photos", "cloaked", "study", "data", "name")
"""Settings of which the first that a run has names what it was of."""
_FOLDERS = 10_000


@dataclass(frozen=True)
class ListedRun:
    """A run's folder in a list.

    Attributes:
        folder: The folder.
        command: Its activity, as typed after ``physadv``.
        when: Start of the run, from the record of its settings.
        subject: What it was of: the model, the patch or the photos.
        result: Its result in one line, or how far it came.
    """

    folder: Path
    command: str
    when: datetime
    subject: str
    result: str


def list_runs(root: str | Path) -> list[ListedRun]:
    """Return the runs in the folders directly below ``root``, the newest first.

    A folder that cannot be read is listed with the reason. Links are not followed.

    Args:
        root: Folder of runs, such as ``runs``.
    """
    found = [_run_in(folder) for folder in _folders(Path(root))]
    return sorted(found, key=lambda run: (run.when, str(run.folder)), reverse=True)


def _folders(root: Path) -> Iterator[Path]:
    if not root.is_dir():
        return
    below = sorted(path for path in root.iterdir() if path.is_dir() and not path.is_symlink())
    yield from (path for path in below[:_FOLDERS] if (path / CONFIG).is_file())


def _run_in(folder: Path) -> ListedRun:
    when = datetime.fromtimestamp((folder / CONFIG).lstat().st_mtime, UTC)
    try:
        with foreign_errors(f'"{folder}"', DataError, "holds a run that cannot be read", ""):
            return _read_run(folder, when)
    except PhysadvError as error:
        return ListedRun(folder, "?", when, "", f"cannot be read: {error}")


def _read_run(folder: Path, when: datetime) -> ListedRun:
    table = read_table(member_of(folder, CONFIG))
    command = str(table.get(COMMAND_KEY, "cloak"))  # the record of a cloak names none
    subject = next((_subject(table[key]) for key in _SUBJECTS if table.get(key)), "")
    read = _of_study if command.startswith("study") else _RESULTS.get(command)
    result = "" if read is None else read(folder)
    return ListedRun(folder, command.replace("-", " "), when, subject, result)


def _subject(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _of_figures(folder: Path) -> str:
    """The figures of an evaluation or a certification, and how far it came."""
    identity = member_of(folder, IDENTITY)
    settings = read_table(identity, finite=False) if identity.is_file() else {}
    if "properties" in settings:
        return _of_properties(folder, int(settings["properties"]))
    if settings.get("task") == "detect":
        return _of_detector(folder, settings)
    run = read_figures(folder)
    done = next(iter(run.rates.values())).n
    total = run.settings.get("images")
    part = (
        f"{done} of {count_noun(total, 'image')}: "
        if isinstance(total, int) and done < total
        else ""
    )
    threat = f"  at {run.settings['threat']}" if "threat" in run.settings else ""
    return part + ", ".join(f"{name} {rate}" for name, rate in run.rates.items()) + threat


def _of_properties(folder: Path, total: int) -> str:
    """The verdicts on a list of properties."""
    rows = list(read_rows(member_of(folder, "rows.jsonl")))
    counts = Counter(str(row.get("verdict")) for row in rows)
    words = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return f"{len(rows)} of {count_noun(total, 'property')}: {words}"


def _of_detector(folder: Path, settings: Mapping[str, Any]) -> str:
    """How often each goal was met on a detector; its average precision stands in the report."""
    file = member_of(folder, "rows.jsonl")
    rows = list(read_rows(file))
    parts = []
    with foreign_errors(str(file), DataError, "no rows of a detector's evaluation"):
        for goal in str(settings["goal"]).split(", "):
            possible = [row[goal] for row in rows if row[goal]["possible"]]
            met = wilson_interval(sum(bool(each["success"]) for each in possible), len(possible))
            parts.append(f"{goal} {met}")
    return f"{len(rows)} of {count_noun(settings['images'], 'image')}: {', '.join(parts)}"


def _of_record(name: str, *keys: str) -> Callable[[Path], str]:
    """Return a function that reads the text at ``keys`` of the record ``name`` in a folder."""

    def read(folder: Path) -> str:
        file = member_of(folder, name)
        value: Any = read_table(file, finite=False) if file.is_file() else {}
        for key in keys:
            value = value.get(key, "") if isinstance(value, Mapping) else ""
        return str(value) or "unfinished"

    return read


def _of_patch(folder: Path) -> str:
    """How often a patch met its goal in the held-out draws of its card, beside the blank one."""
    file = member_of(folder, "card.toml")
    if not file.is_file():
        return "unfinished"
    heldout = read_table(file, finite=False).get("heldout")
    if heldout is None:
        return "not measured"
    success, blank = (RateInterval(**heldout[key]) for key in ("success", "blank_success"))
    return f"goal met in {success}; with a blank one in {format_percent(blank.rate)}"


def _of_page(command: str, record: str) -> Callable[[Path], str]:
    """Return a function that reads the headline of a page once the run's ``record`` is there."""

    def read(folder: Path) -> str:
        if not member_of(folder, record).is_file():
            return "unfinished"
        return OTHER_RUNS[command](folder, {}).headline

    return read


def _of_study(folder: Path) -> str:
    return "finished" if (folder / "report.html").is_file() else "unfinished"


_RESULTS: dict[str, Callable[[Path], str]] = {
    **dict.fromkeys(("attack", "evaluate", "certify"), _of_figures),
    "check": _of_record("report.json", "headline"),
    "cloak-check": _of_record("check.json", "verdict", "words"),
    "patch": _of_patch,
    "train": _of_record("model.safetensors.toml", "accuracy"),
    "train-signs": _of_page("train-signs", "signs.toml"),
    "twin": _of_page("twin", "twin.json"),
    "patch-transfer": _of_page("patch-transfer", "transfer.jsonl"),
    "cloak": _of_page("cloak", MANIFEST),
}
"""How the result of an activity's run is read; of others only its folder and subject are listed."""
