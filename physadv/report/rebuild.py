"""The report of any run, made again from what its folder holds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from physadv.core.config import COMMAND_KEY
from physadv.core.errors import DataError
from physadv.core.members import member_of
from physadv.core.reading import foreign_errors
from physadv.core.rows import read_rows
from physadv.core.run_folder import CONFIG
from physadv.core.tables import read_table
from physadv.evaluation.adversarial_examples import strongest_example
from physadv.patches.bundle import CARD
from physadv.report.booklet import write_booklet
from physadv.report.certify_report import write_certify_report
from physadv.report.check_report import write_check_report
from physadv.report.cloak_report import write_cloak_report
from physadv.report.detector_report import write_detector_report
from physadv.report.evaluate_report import write_evaluate_report
from physadv.report.kept_results import read_result
from physadv.report.masked_report import write_masked_report
from physadv.report.patch_report import write_patch_report
from physadv.report.run_report import OTHER_RUNS, write_run_report
from physadv.report.study_report import StudyChapter, study_chapter, write_study_report
from physadv.report.verification_report import write_verification_report
from physadv.studies.config import BookletConfig, PhotographedConfig
from physadv.studies.gradient_masking.study import masking_table, study_result
from physadv.studies.photographed_page import ABOUT, photographed_page
from physadv.studies.registry import ENTRIES, plan_booklet


def rebuild_report(folder: str | Path) -> Path:
    """Write the report of the run or bundle in ``folder`` again, and return its page.

    Nothing is attacked, filmed or trained: pages are made of rows and records.

    Args:
        folder: Folder of a run of any command that has one, or of a patch.

    Raises:
        DataError: It holds neither, the run has no result yet, or its files are damaged.
        OSError: The page cannot be written.
    """
    root = Path(folder)
    if not root.is_dir():
        remedy = "Check the path; `physadv runs` lists the runs below runs/"
        raise DataError(f'"{root}"', "There is no such folder", remedy)
    if (root / CARD).is_file():
        return write_patch_report(root)
    command = command_of(root)
    write = _WRITERS.get(command)
    if write is None and command.startswith("study-"):
        write = _study
    if write is None:
        known = ", ".join(sorted(name.replace("-", " ") for name in _WRITERS))
        raise DataError(
            f'"{root}" holds {f"a run of {command}" if command else "no run"}',
            f"There are reports of patches, studies, {known}",
            "Name the folder of one of these",
        )
    with foreign_errors(str(root), DataError, "holds a run that cannot be shown", "Run it again"):
        return write(root)


def command_of(root: Path) -> str:
    """Return the activity whose run is in the folder ``root``; empty where none is recorded."""
    config = member_of(root, CONFIG)
    if config.is_file():
        return str(read_table(config).get(COMMAND_KEY, "cloak"))  # a cloak's record names none
    return "check" if member_of(root, "check.json").is_file() else ""


def _evaluation(root: Path) -> Path:
    kept = read_result(root)
    result, facts, data = kept["result"], kept["facts"], kept["data"]
    if kept["kind"] == "detector":
        return write_detector_report(root, result, facts, data)
    return write_evaluate_report(
        root, result, facts, strongest_example(member_of(root, "examples")), data
    )


def _certification(root: Path) -> Path:
    kept = read_result(root)
    rows = list(read_rows(member_of(root, "rows.jsonl")))
    if kept["kind"] == "verification":
        return write_verification_report(root, kept["result"], rows)
    return write_certify_report(root, kept["result"], kept["facts"], rows, kept["data"])


def _check(root: Path) -> Path:
    return write_check_report(root).html


def _cloak_check(root: Path) -> Path:
    return write_cloak_report(root, read_table(member_of(root, "check.json"), finite=False))


def _study(root: Path) -> Path:
    name = command_of(root).removeprefix("study-")
    entry = next((entry for entry in ENTRIES if entry.name == name), None)
    if entry is None:
        raise DataError(f'"{root}" holds a study "{name}"', "It is not known", "Run another one")
    config = entry.config.from_toml(member_of(root, CONFIG))
    return write_study_report(study_chapter(entry.load(), config, root))


def _booklet(root: Path) -> Path:
    left_out = read_result(root)["result"]["left_out"]
    plan = plan_booklet(BookletConfig.from_toml(member_of(root, CONFIG)))
    chapters = [
        study_chapter(entry.load(), config, root / entry.name)
        for entry, config in plan.chosen
        if entry.name not in left_out
    ]
    return write_booklet(chapters, left_out, root)[0]


def _masked(root: Path) -> Path:
    complete = study_result(root)
    rows = [r for r in read_rows(member_of(root, "rows.jsonl")) if r["defence"] in complete]
    kept = read_result(root)
    return write_masked_report(root, masking_table(rows), kept["facts"], kept["data"])


def _photographed(root: Path) -> Path:
    config = PhotographedConfig.from_toml(member_of(root, CONFIG))
    settings = {key: value for key, value in config.as_table().items() if key != "command"}
    page = photographed_page(config, list(read_rows(member_of(root, "rows.jsonl"))))
    return write_study_report(StudyChapter(ABOUT, page, settings, root, 0.0))


_WRITERS: dict[str, Callable[[Path], Path]] = {
    "attack": _evaluation,
    "evaluate": _evaluation,
    "certify": _certification,
    "check": _check,
    "cloak-check": _cloak_check,
    "study-all": _booklet,
    "study-masked": _masked,
    "study-photographed": _photographed,
    **dict.fromkeys(OTHER_RUNS, write_run_report),
}
"""How the page of a run is made, by its command."""
