"""``physadv study``: classic experiments, each one command and one report."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from physadv.studies.config import (
    BookletConfig,
    MaskingConfig,
    PhotographedConfig,
    StudyConfig,
)
from physadv.studies.registry import ENTRIES, StudyEntry, plan_booklet
from physadv_cli.configured import from_config
from physadv_cli.runs import RunOptions, console, earlier_record_faults, print_data

if TYPE_CHECKING:
    from physadv.datasets import DatasetSummary
    from physadv.report.study_report import StudyChapter
    from physadv.studies.study import Study


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command group to ``app``, listed under ``panel``."""
    group = typer.Typer(no_args_is_help=True)
    group.callback()(study)
    group.command("masked", short_help="Nine defenses that mask gradients. Resumable.")(
        from_config(masked, MaskingConfig)
    )
    group.command(
        "photographed", short_help="Adversarial pictures after print and photo. Resumable."
    )(from_config(photographed, PhotographedConfig))
    for entry in ENTRIES:
        group.command(entry.name, short_help=entry.short)(
            from_config(_study_action(entry), entry.config)
        )
    group.command("all", short_help="All of them in a row, and a booklet as HTML and PDF.")(
        from_config(all_studies, BookletConfig)
    )
    app.add_typer(
        group,
        name="study",
        rich_help_panel=panel,
        short_help="The field's experiments, each one command and one page.",
    )


def _study_action(entry: StudyEntry) -> Callable[[StudyConfig, RunOptions], None]:
    """Return the command of one of the lecture's studies."""

    def action(config: StudyConfig, run: RunOptions) -> None:
        run_one_study(entry, config, run)

    example = " ".join(f"physadv study {entry.name} {entry.example}".split())
    action.__doc__ = (
        f"{entry.help}\n\nWrites rows, one page, and each figure as SVG, PNG and CSV. Ctrl-C keeps "
        f"the parts that are complete; the same command with the same --out resumes.\n\n"
        f"Example: {example} --out runs/{entry.name}"
    )
    action.__name__ = entry.name
    return action


def run_one_study(entry: StudyEntry, config: StudyConfig, run: RunOptions) -> None:
    """Run a study with a bar and write its report.

    Args:
        entry: The study.
        config: Its configuration.
        run: Options of the run.

    Raises:
        SystemExit: Ctrl-C ended it, with code 130.
    """
    from physadv.report.study_report import study_summary

    folder, written = _run_in_folder(entry, config, run)
    if written is None:
        run.finish({"study": entry.name, "complete": False, "out": str(folder)}, _STOPPED)
        raise SystemExit(130)

    chapter, page = written
    result = study_summary(chapter)
    result |= {"complete": True, "report": str(page), "out": str(folder)}
    run.finish(result, _study_lines(result))


def all_studies(config: BookletConfig, run: RunOptions) -> None:
    """Run all studies whose data are given, and bind their pages into a booklet.

    Each study has a folder of its own in --out, as if it had run alone. One whose data or model
    cannot be used is left out with the reason, unless --study names it. Ctrl-C keeps what is done;
    the same command with the same --out resumes.

    Example: physadv study all --mnist-data mnist/ --cifar10-data cifar10.zip
    --gtsrb-data gtsrb.zip --out runs/all
    """
    from physadv.core.errors import DataError, ModelError, OptionError
    from physadv.core.members import member_of
    from physadv.report.booklet import write_booklet
    from physadv.report.kept_results import keep_result
    from physadv.report.study_report import study_summary

    plan = plan_booklet(config)
    left_out = dict(plan.left_out)
    for name, reason in left_out.items():
        console.print(f"left out: {name}, which {reason}")
    folder = run.open_folder(config)
    chapters: list[StudyChapter] = []
    for entry, own in plan.chosen:
        try:
            # A folder from elsewhere leads nowhere else, by links either.
            out = member_of(folder, entry.name, error=OptionError)
            within = replace(run, command=f"study-{entry.name}", out=out)
            _, written = _run_in_folder(entry, own, within)
        except (DataError, ModelError) as error:
            if entry.name in config.study or (not chapters and entry is plan.chosen[-1][0]):
                raise
            left_out[entry.name] = str(error)
            console.print(f"left out: {entry.name}. {error}")
            continue
        if written is None:
            run.finish({"complete": False, "out": str(folder)}, _STOPPED)
            raise SystemExit(130)
        chapters.append(written[0])
        console.print(f"{entry.name}: {chapters[-1].page.answer}")

    page, document = write_booklet(chapters, left_out, folder)
    keep_result(folder, "booklet", {"left_out": left_out})
    result = {
        "studies": [study_summary(chapter) for chapter in chapters],
        "left_out": left_out,
        "complete": True,
        "booklet": str(page),
        "pdf": str(document),
        "out": str(folder),
    }
    run.finish(result, f"booklet {page}\nand {document}")


_STOPPED = "stopped; the same command with the same --out resumes"


def _run_in_folder(
    entry: StudyEntry, config: StudyConfig, run: RunOptions
) -> tuple[Path, tuple[StudyChapter, Path] | None]:
    """Run a study with a bar, or go on with it; return its folder, and what it found with its page:
    None where Ctrl-C ended it."""
    from physadv.report.study_report import study_chapter, write_study_report
    from physadv.studies.study import ROWS, claim_study

    study = entry.load()
    if config.full:
        console.print(f"{entry.name}: {entry.full_time}")
    folder = run.open_folder(config, lambda folder: claim_study(study, config, folder))
    earlier = earlier_record_faults(folder / ROWS)
    if not _watch_study(study, config, folder):
        return folder, None
    with earlier:
        chapter = study_chapter(study, config, folder)
        return folder, (chapter, write_study_report(chapter))


def _watch_study(study: Study[Any], config: StudyConfig, folder: Path) -> bool:
    """Run with a bar; return whether it came to its end."""
    from physadv.studies.study import run_study
    from physadv_cli.progress import bar

    with bar() as progress:
        line = progress.add_task(study.name, total=1, note="")

        def tell(note: str) -> None:
            progress.update(line, note=note)

        try:
            for step in run_study(study, config, folder, tell):
                progress.update(line, completed=step.done, total=step.total, note=step.note)
        except KeyboardInterrupt:
            return False
    return True


def _study_lines(result: dict[str, Any]) -> str:
    """For people: the answer, and each published figure beside that of the run."""
    lines = [result["answer"], ""]
    for row in result["comparisons"]:
        lines.append(
            f"{row['claim']}: {row['measured']} (published {row['published']}, {row['paper']})"
        )
    return "\n".join([*lines, f"page {result['report']}"])


def study() -> None:
    """Classic experiments, each one command and one report.

    Example: physadv study masked --data mnist/ --out runs/masked
    """


def masked(config: MaskingConfig, run: RunOptions) -> None:
    """Compare the apparent and the real robustness of nine defenses that mask gradients.

    Apparent is the robustness under a plain attack, real what is left under adaptive attacks. Small
    nets are trained here, one for each defense, and kept with --out: the same command resumes where
    it stopped. The threat is in l_inf.

    Example: physadv study masked --data mnist/ --threat linf:0.2 --out runs/masked
    """
    from physadv.core.files import write_text
    from physadv.core.rows import read_rows
    from physadv.report.masked_report import write_masked_report
    from physadv.studies.gradient_masking.study import (
        ROWS,
        claim_masking,
        masking_markdown,
        masking_table,
        study_result,
    )

    folder = run.open_folder(config, lambda folder: claim_masking(folder, config))
    earlier = earlier_record_faults(folder / ROWS)
    stopped, data = _watch_masked(config, folder)
    with earlier:
        complete = study_result(folder)
        rows = list(read_rows(folder / ROWS)) if (folder / ROWS).is_file() else []
        lines = masking_table([row for row in rows if row["defence"] in complete])

    result = {"table": lines, "complete": not stopped, "out": str(folder), **config.facts()}
    result["data_summary"] = {} if data is None else data.as_dict()
    if lines:
        result["report"] = str(write_masked_report(folder, lines, config.facts(), data))
        write_text(folder / "table.md", masking_markdown(rows))
    run.finish(result, _masked_summary(lines, folder, stopped=stopped))
    if stopped:
        raise SystemExit(130)


def photographed(config: PhotographedConfig, run: RunOptions) -> None:
    """Measure how many printed and photographed adversarial pictures still fool a model.

    In simulation, after Kurakin et al. (2016). The class of a photo is the one that the model reads
    from its file. Ctrl-C keeps what is done; the same command resumes.

    Example: physadv study photographed --pictures photos/ --camera phone --printer office-laser
    --out runs/photographed
    """
    from physadv.core.files import write_text
    from physadv.core.rows import read_rows
    from physadv.defenses.load_model import load_model
    from physadv.studies import photographed_examples as examples

    model = load_model(config.model, weights=config.weights, device=config.device)
    examples.photograph_ways(config)
    folder = run.open_folder(config, lambda folder: examples.claim_study(folder, config, model))
    earlier = earlier_record_faults(folder / examples.ROWS)
    stopped = _watch_photographed(config, model, folder)

    with earlier:
        rows = list(read_rows(folder / examples.ROWS)) if (folder / examples.ROWS).is_file() else []
        lines = examples.photographed_table(rows)
    table = examples.photographed_markdown(lines)
    write_text(folder / "table.md", table)
    result = {"simulation": True, "table": lines, "complete": not stopped, "out": str(folder)}
    if rows:
        result["report"] = str(_photographed_report(config, rows, folder))
    run.finish(result, f"simulation\n{table}rows and table in {folder}")
    if stopped:
        console.print("stopped; the same command with the same --out resumes")
        raise SystemExit(130)


def _photographed_report(config: PhotographedConfig, rows: list[Any], folder: Path) -> Path:
    """Write the page of what is done so far."""
    from physadv.report.study_report import StudyChapter, write_study_report
    from physadv.studies.photographed_page import ABOUT, photographed_page

    settings = {k: v for k, v in config.as_table().items() if k != "command"}
    page = photographed_page(config, rows)
    return write_study_report(StudyChapter(ABOUT, page, settings, folder, 0.0))


def _watch_masked(config: MaskingConfig, folder: Path) -> tuple[bool, DatasetSummary | None]:
    """Run with a bar; return whether Ctrl-C ended it, and what the data were taken for."""
    from physadv.studies.gradient_masking.study import TOTAL, run_masking_study
    from physadv_cli.progress import bar

    with bar() as progress:
        line = progress.add_task("defenses", total=TOTAL, note="reading data")
        data = None

        def tell(note: str) -> None:
            progress.update(line, note=note)

        try:
            for step in run_masking_study(config, folder, tell):
                if step.data is not None:
                    data = step.data
                    print_data(data)
                progress.update(line, completed=step.done, total=step.total, note=step.note)
        except KeyboardInterrupt:
            return True, data
    return False, data


def _watch_photographed(config: PhotographedConfig, model: Any, folder: Path) -> bool:
    """Run with a bar; True where Ctrl-C ended it."""
    from physadv.studies.photographed_examples import run_photographed
    from physadv_cli.progress import bar

    with bar() as progress:
        line = progress.add_task("photos (simulation)", total=config.picture_count)
        try:
            for done, total in run_photographed(config, model, folder):
                progress.update(line, completed=done, total=total)
        except KeyboardInterrupt:
            return True
    return False


def _masked_summary(lines: list[dict[str, Any]], folder: Path, *, stopped: bool) -> str:
    """For people: a line for each defense with its clean, apparent and real accuracy."""
    text = ["stopped; the same command with the same --out resumes"] if stopped else []
    if lines:
        text.append(f"{'':32} clean      plain  real   (n = {lines[0]['n']})")
    for line in lines:
        clean, plain, real = (line[column]["rate"] for column in ("clean", "plain", "real"))
        name = line["defence"].replace("defence", "defense")
        text.append(f"{name:32}{clean:6.1%}  {plain:8.1%} {real:6.1%}   {line['remedy']}")
    return "\n".join([*text, f"rows, table and report in {folder}"])
