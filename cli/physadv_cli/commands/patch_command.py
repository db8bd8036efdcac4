"""``physadv patch``: optimize a patch or sticker into a bundle; verify and transfer bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from physadv.core import shared_fields as shared
from physadv.core.run_folder import locked_file
from physadv.core.shared_fields import MODEL_HELP, WEIGHTS_HELP
from physadv.core.wording import count_noun, format_percent
from physadv.patches.config import PatchConfig
from physadv.patches.measure_config import TransferConfig, VerifyConfig, VisibilityConfig
from physadv_cli import options
from physadv_cli.configured import Override, from_config
from physadv_cli.help import DEFAULT, DefaultCommand, DefaultGroup
from physadv_cli.ranks import agreed_folder, joined_processes
from physadv_cli.runs import (
    RunOptions,
    begin_report,
    code_typed,
    console,
    default_folder,
    open_run,
    print_entry,
    print_findings,
    print_unused,
    query_lines,
)

if TYPE_CHECKING:
    from physadv.core.process_group import ProcessGroup
    from physadv.patches.bundle import PatchBundle
    from physadv.patches.face_rates import FaceRates
    from physadv.patches.optimize import PatchMeasurement
    from physadv.patches.patch_run import PatchRun

app = typer.Typer(cls=DefaultGroup)
Models = Annotated[
    list[str], typer.Option("--model", help=MODEL_HELP, metavar="MODEL", rich_help_panel="Model")
]
WeightFiles = Annotated[
    list[str],
    typer.Option(
        "--weights",
        help=WEIGHTS_HELP,
        metavar="FILE",
        rich_help_panel="Model",
    ),
]
NO_WEIGHTS: list[str] = []


def register(root: typer.Typer, panel: str) -> None:
    """Attach the command group to ``root``, listed under ``panel``."""
    optimize = from_config(
        patch,
        PatchConfig,
        adapt=_join_models,
        overrides={
            "model": Override(Models, ["signs"]),
            "weights": Override(WeightFiles, NO_WEIGHTS),
        },
        switches=("force",),
        divided=True,
    )
    app.command(DEFAULT, cls=DefaultCommand)(optimize)
    app.command("verify", short_help="Measure a bundle again and compare it with its card.")(
        from_config(verify, VerifyConfig, out=None)
    )
    app.command("transfer", short_help="Measure bundles on other models.")(
        from_config(transfer, TransferConfig)
    )
    app.command(
        "visibility", short_help="Measure how far away a model still reads the clean sign."
    )(from_config(visibility, VisibilityConfig, out=None))
    app.command("list", short_help="List the ready-made bundles.")(list_bundles)
    app.command("show", short_help="Show the card of a bundle.")(show)
    app.command("preview", short_help="A short film of a bundle at work, as GIF or MP4.")(preview)
    root.add_typer(
        app,
        name="patch",
        rich_help_panel=panel,
        short_help="Optimize a patch or sticker into a bundle; verify bundles. Resumable.",
    )


def patch(config: PatchConfig, run: RunOptions) -> None:
    """Optimize a universal patch or sticker under expectation over transformation; write a bundle.

    Ctrl-C keeps the best patch so far; the same command with the same --out resumes. A finished
    bundle of another configuration is not replaced unless --overwrite is given. The clean and the
    blank control are measured first; where one is not valid, nothing is made unless --force is
    given. Distances are drawn down to where the model still reads the clean sign, unless
    --eot-ranges states them.

    See also: `physadv patch verify -h` measures a bundle again; `physadv patch transfer -h` tries
    bundles on other models; `physadv patch visibility -h` measures how far a model sees.

    Example: physadv patch --model signs --goal untargeted --size 190x150 --center 0,40 --out
    my-sticker

    Example: physadv patch --model fastestdet --weights fastestdet.pth --goal vanish --signs
    photos/ --search proportions

    Example: physadv patch --model fastestdet --object person --photos photos/ --goal vanish --size
    190x190

    Example: physadv patch --model efficientnet-lite0 --object anywhere --photos photos/ --goal
    targeted --target toaster --mask circle --size 180x180
    """
    with joined_processes() as group:
        folder = agreed_folder(group, lambda: _taken_folder(config, run))
        result, summary = run_patch(
            config, folder, overwrite=run.overwrite, force=run.force, processes=group
        )
        if group.is_first:
            run.finish(result, summary)


def _taken_folder(config: PatchConfig, run: RunOptions) -> Path:
    folder = run.take_folder(run.out or default_folder("patch"))
    run.make_room(folder, config, compares_settings=False)  # PatchRun compares the bundle
    return folder


def _join_models(values: dict[str, Any]) -> dict[str, Any]:
    """The values with several --model and NAME=WEIGHTS sorted into model, weights and ensemble."""
    first, own_weights, further = parse_models(values["model"], values["weights"])
    ensemble = tuple(dict.fromkeys([*further, *(values.get("ensemble") or ())]))
    return {**values, "model": first, "weights": own_weights, "ensemble": ensemble}


def run_patch(
    config: PatchConfig,
    folder: Path,
    *,
    overwrite: bool = False,
    force: bool = False,
    processes: ProcessGroup | None = None,
) -> tuple[dict[str, Any], str]:
    """Run or resume an optimization with progress.

    Args:
        config: what to optimize.
        folder: the run's folder.
        overwrite: whether a finished bundle of another configuration may be replaced.
        force: whether to go on where the controls are not valid.
        processes: processes that make the run together; the first one writes.

    Returns:
        What ``--json`` prints, and the summary for people.
    """
    from physadv.core.process_group import ALONE
    from physadv.patches.by_distance import BY_ANGLE, BY_DISTANCE, rate_lines
    from physadv.patches.face_rates import rates_by_face
    from physadv.patches.patch_run import PatchRun, black_boxes
    from physadv.patches.visibility import limit_lines
    from physadv.report.patch_report import write_patch_report
    from physadv_cli.progress import status_line

    # What is refused is one line in a log: the spinner is for a terminal alone.
    doing = "measuring how far the model sees, and both controls"
    with status_line(doing) if console.is_terminal else nullcontext():
        group = processes or ALONE
        run = PatchRun(config, folder, overwrite=overwrite, force=force, processes=group)
        controls = run.check_controls()
    if group.is_first:
        open_run("patch", folder, config.as_table())
    for note in run.task.scene_sources.notes:
        console.print(note, style="dim")
    for line in limit_lines(run.task, run.curves):
        console.print(line, style="dim")
    print_unused(config.unused_with_models(run.task.model_tasks))
    print_findings([finding.as_dict() for finding in controls])
    _print_plan(run)
    stopped = _race(run) or _optimize(run)
    if words := run.memory.in_words():
        console.print(words.replace("images", "draws"))
    if run.resumed_at:
        console.print(f"resumed at step {run.resumed_at}")
    if stopped:
        console.print("stopped; measuring and keeping the best patch so far")

    bundle, measured = _measure(run)
    result: dict[str, Any] = {
        "bundle": str(bundle.folder),
        "preview": str(bundle.folder / "preview.png"),
        "report": str(bundle.folder / "report.html"),
        "success": measured.success.as_dict(),
        "blank_success": measured.blank_success.as_dict(),
        "clean_recognised": measured.clean_recognised.as_dict(),
        "blank_recognised": measured.blank_recognised.as_dict(),
        "patch_recognised": measured.patch_recognised.as_dict(),
        "doubts": bundle.card.heldout["doubts"],
        "light": bundle.card.heldout["light"],
        "area_share": bundle.card.placement.area_share,
        "stopped": stopped,
    }
    faces = run.task.scene_sources.held_out_faces
    by_face = rates_by_face(measured.rows, faces) if faces else []
    if by_face:
        result["by_face"] = [each.as_dict() for each in by_face]
    if measured.detection:
        result["detection"] = {
            block: rates.as_dict() for block, rates in measured.detection.items()
        }
    boxes = black_boxes(run.task)
    if boxes:
        result["queries"] = sum(box.sent for box in boxes)
        result["query_budget"] = boxes[0].budget
    card = bundle.card
    page = write_patch_report(bundle.folder) if group.is_first else None
    tables = {name: card.heldout[name] for name in (BY_DISTANCE, BY_ANGLE) if name in card.heldout}
    result |= {**tables, **({"visibility": card.visibility} if card.visibility else {})}
    print_findings(result["doubts"])
    columns = "".join(f"{line}\n" for line in rate_lines(card.heldout))
    queries = "".join(f"{line}\n" for line in query_lines(result))
    summary = (
        f"held-out draws (simulated): sticker succeeds in {measured.success}; blank sticker "
        f"{measured.blank_success}; clean control recognized {measured.clean_recognised}\n"
        f"{_detector_lines(measured.detection)}{columns}"
        f"{_face_lines(by_face) if by_face else ''}{queries}"
        f"bundle: {bundle.folder}\nreport: {page}\nnext: physadv print {bundle.folder}"
    )
    return result, summary


def _print_plan(run: PatchRun) -> None:
    """Print how many queries a run on a model that only answers takes."""
    from physadv.patches.patch_run import black_boxes, planned_queries

    boxes = black_boxes(run.task)
    if boxes and run.method != "gradient":
        budget = boxes[0].budget
        limit = f"budget {budget:,}" if budget else "no budget"
        needed = planned_queries(run.config, run.method)
        console.print(f"{run.method} search by answers: about {needed:,} queries, {limit}")


def _race(run: PatchRun) -> bool:
    """Race the starts with a bar; whether Ctrl-C ended it."""
    if run.config.number_of_starts < 2:
        return False
    from physadv_cli.progress import bar

    with bar() as progress:
        work = progress.add_task(
            f"racing {run.config.number_of_starts} starts", total=None, note=""
        )
        try:
            for state in run.race():
                progress.update(work, total=state.total, completed=state.steps)
        except KeyboardInterrupt:
            return _kept(run)
    width, height = run.config.width_mm, run.config.height_mm
    x, y = run.config.place_mm
    console.print(f"start: {width:g} x {height:g} mm at {x:g}, {y:g}")
    return False


def _optimize(run: PatchRun) -> bool:
    """Take the remaining steps with a bar; whether Ctrl-C ended them."""
    from physadv_cli.progress import bar

    success = "-"
    with bar() as progress:
        work = progress.add_task("optimizing", total=run.config.steps, note="")
        try:
            for step in run.steps():
                if step.best_rate is not None:
                    rate = format_percent(step.best_rate.rate, 0)
                    success = f"{rate} of {count_noun(step.best_rate.n, 'valid draw')}"
                note = f"loss {step.loss:.3f}  held-out success {success}"
                progress.update(work, completed=step.step, note=note)
        except KeyboardInterrupt:
            return _kept(run)
    return False


def _kept(run: PatchRun) -> bool:
    """True: what there is after Ctrl-C is kept. Raises KeyboardInterrupt again in one of several
    processes, which cannot go on without the others: the last checkpoint is kept."""
    if run.task.processes.count > 1:
        raise KeyboardInterrupt
    return True


def _measure(run: PatchRun) -> tuple[PatchBundle, PatchMeasurement]:
    """Measure the best patch with a bar and write its bundle."""
    from physadv_cli.progress import bar

    with bar() as progress:
        total = run.config.test_draws
        work = progress.add_task("measuring on held-out draws", total=total, note="")
        return run.finish(lambda done: progress.update(work, completed=done))


def _face_lines(rates: Sequence[FaceRates]) -> str:
    """The table of rates by face, and the worst of them."""
    from physadv.patches.face_rates import face_table, worst_face

    worst = worst_face(rates)
    last = "" if worst is None else f"worst: {worst.name}, {worst.success}\n"
    return f"{face_table(rates)}\n{last}"


def _detector_lines(blocks: Mapping[str, Any]) -> str:
    """Misses, AP and extra boxes of a detector, a line a block; nothing for a classifier."""
    return "".join(
        f"  {block:5}  misses {rates.fnr}; AP50 {rates.ap}; extra boxes a picture {rates.extra}\n"
        for block, rates in blocks.items()
    )


def verify(config: VerifyConfig, run: RunOptions) -> None:
    """Measure a bundle's held-out success again and compare it with its card.

    Ends with exit code 1 where they differ. A model or a pipeline of your own that the card names
    is run only where you name it with --model or --eot.

    Example: physadv patch verify runs/my-sticker --fresh
    """
    from physadv.core.errors import BundleError
    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle
    from physadv.patches.by_distance import rate_lines
    from physadv.patches.reverify import config_from_bundle, verify_bundle
    from physadv_cli.progress import bar

    bundle = read_bundle(bundle_folder(Path(config.bundle)))
    recorded = config_from_bundle(bundle, eot=config.eot)
    print_unused(config.unused_on(recorded))
    with bar() as progress:
        total = config.test_draws or recorded.test_draws
        task = progress.add_task("measuring", total=total)
        outcome = verify_bundle(
            bundle,
            given=config.replacements,
            data=_path(config.data_folder),
            fresh=config.fresh,
            draws=config.test_draws,
            report=lambda done: progress.update(task, completed=done),
        )

    success = outcome.measured.success
    result = {
        "bundle": config.bundle,
        "agrees": outcome.agrees,
        "claimed": outcome.claimed.as_dict(),
        "success": success.as_dict(),
        "differing_bins": list(outcome.differing),
        **outcome.bins,
    }
    if outcome.by_face:
        result["by_face"] = [each.as_dict() for each in outcome.by_face]
    word = "agrees" if outcome.agrees else "differs"
    lines = [f"{word}: card {outcome.claimed}; measured now {success}"]
    lines += rate_lines(outcome.bins)
    lines += [f"differs in one bin: {line}" for line in outcome.differing]
    if outcome.by_face:
        lines.append(_face_lines(outcome.by_face).rstrip("\n"))
    run.finish(result, "\n".join(lines))
    if not outcome.agrees:
        raise BundleError(
            f"{config.bundle}",
            f"success {success} does not agree with the card's {outcome.claimed}, in all or in "
            "the bins named above",
            "Make the patch anew",
        )


def transfer(config: TransferConfig, run: RunOptions) -> None:
    """Measure bundles on other models, on the same held-out scenes.

    Writes a matrix of success with intervals and controls. With --record the rates go on the card
    of each bundle, beside the controls; with --verify those on the cards are measured again.

    Example: physadv patch transfer runs/a runs/b --model signs --model fastestdet --weights
    fastestdet=f.pth --record

    Example: physadv patch transfer runs/a --verify
    """
    from physadv.core.errors import BundleError, OptionError
    from physadv.core.files import remove_file, write_text
    from physadv.core.package_data import bundle_folder
    from physadv.core.rows import append_rows
    from physadv.patches.bundle import read_bundle
    from physadv.patches.transfer import (
        compare_transfer,
        record_transfer,
        recorded_models,
        transfer_matrix,
        transfer_table,
    )
    from physadv_cli.progress import bar

    bundles = [read_bundle(bundle_folder(Path(bundle))) for bundle in config.bundles]
    models: Sequence[str] = config.model
    if config.verify and not models:
        models = [name for bundle in bundles for name in recorded_models(bundle)]
    if not models:
        raise OptionError(
            "No --model", "a transfer is measured on one or more", "Name them with --model"
        )
    if config.faces is not None and (config.record or config.verify):
        raise OptionError(
            f"--faces {config.faces}",
            "a card holds the transfer in its own scenes",
            "Leave it out, or --record and --verify",
        )
    first, own_weights, further = parse_models(models, config.weights)
    names = [first if own_weights is None else f"{first}={own_weights}", *further]
    folder = run.open_folder(config)

    remove_file(folder / "transfer.jsonl")
    cells = []
    with bar() as progress:
        task = progress.add_task("measuring", total=len(bundles) * len(names))
        for cell in transfer_matrix(
            bundles,
            names,
            data=_path(config.data_folder),
            draws=config.test_draws,
            as_recorded=config.verify,
            scenes=None if config.faces is None else {"faces": config.faces},
            report=lambda note: progress.update(task, note=note),
        ):
            append_rows(folder / "transfer.jsonl", [cell.as_row()])
            cells.append(cell)
            progress.update(task, completed=len(cells))

    table = transfer_table(cells)
    write_text(folder / "transfer.md", f"{table}\n")
    lines = [table, *(f"{c.bundle} on {c.model}: {c.reason}" for c in cells if c.reason)]
    compared = [c for bundle in bundles for c in compare_transfer(bundle, cells)]
    compared = compared if config.verify else []
    for pair in compared:
        word = "agrees" if pair.agrees else "differs"
        claim = f"card {pair.claimed}; measured now {pair.measured}"
        lines.append(f"{pair.bundle} on {pair.model} {word}: {claim}")
    if config.record:
        lines += [f"recorded: {record_transfer(bundle, cells).folder}" for bundle in bundles]

    differing = [pair for pair in compared if not pair.agrees]
    result = {
        "out": str(folder),
        "cells": [cell.as_row() for cell in cells],
        "compared": [{"bundle": c.bundle, "model": c.model, "agrees": c.agrees} for c in compared],
    }
    run.finish(result, "\n".join([*lines, f"rows: {folder / 'transfer.jsonl'}"]))
    if differing:
        raise BundleError(
            f"{differing[0].bundle} on {differing[0].model}",
            f"success {differing[0].measured} does not agree with the card's "
            f"{differing[0].claimed}",
            "Record it anew with --record",
        )


def list_bundles(
    json: options.Json = False, quiet: options.Quiet = False, verbose: options.Verbose = False
) -> None:
    """List the ready-made bundles: what each does, on which model, how large, how well.

    Example: physadv patch list
    """
    from physadv.core.package_data import bundle_folder, ready_made_bundles
    from physadv.patches.bundle import read_bundle
    from physadv.patches.card import card_row

    run = begin_report("patch list", json=json, quiet=quiet, verbose=verbose)
    rows = [card_row(read_bundle(bundle_folder(Path(name))).card) for name in ready_made_bundles()]
    for row in rows:
        size = f"{row['width_mm']:g} x {row['height_mm']:g} mm"
        success = f"held-out success {row['success']}"
        print_entry(row["name"], f"{row['effect']}, made on {row['model']}, {size}; {success}")
    run.finish(
        {"bundles": rows},
        f"{count_noun(len(rows), 'bundle')}: physadv patch show NAME, print NAME.",
    )


def show(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle folder, or a name in patches/.", metavar="BUNDLE")
    ],
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Show the card of a bundle: what the patch is, its success with controls, its transfer.

    Example: physadv patch show stop-sticker-signs-v1
    """
    from dataclasses import asdict

    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle
    from physadv.patches.card import card_lines

    run = begin_report("patch show", json=json, quiet=quiet, verbose=verbose)
    found = read_bundle(bundle_folder(bundle))
    run.finish({"bundle": found.folder, **asdict(found.card)}, "\n".join(card_lines(found.card)))


def preview(
    bundle: Annotated[
        Path, typer.Argument(help="A bundle folder, or a name in patches/.", metavar="BUNDLE")
    ],
    video: Annotated[
        Path,
        typer.Option(help="Film to write, .gif or .mp4.", metavar="FILE", rich_help_panel="Output"),
    ] = Path("preview.gif"),
    model: Annotated[str | None, options.option_of(shared.ModelOfBundle, "--model")] = None,
    weights: options.Weights = None,
    frames: Annotated[int, options.option_of(shared.FrameCount, "--frames")] = 24,
    seed: Annotated[int, options.option_of(shared.Seed, "--seed")] = 0,
    trust: options.Trust = False,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Film a bundle in simulation, clean sign and patch side by side, with the model's answers.

    One approach of one camera: a picture to look at, and no measurement. `physadv twin` and `check`
    measure.

    Example: physadv patch preview stop-sticker-signs-v1 --video sticker.gif

    Example: physadv patch preview my-sticker --video sticker.mp4 --frames 60
    """
    from physadv.core.errors import OptionError
    from physadv.core.package_data import bundle_folder
    from physadv.patches.bundle import read_bundle
    from physadv.report.patch_film import assert_film_name, film_patch, write_film

    run = begin_report("patch preview", json=json, quiet=quiet, verbose=verbose)
    assert_film_name(video)
    if video.exists() and not overwrite:
        raise OptionError(
            f'"{video}" stands there already',
            "A file is not replaced without being asked",
            "Name another --video, or add --overwrite",
        )
    found = read_bundle(bundle_folder(bundle))
    run.held.enter_context(locked_file(video))
    with run.held, code_typed([model] if model else [], trust=trust):
        film = film_patch(
            found,
            model=model,
            weights=None if weights is None else str(weights),
            frames=frames,
            seed=seed,
            report=lambda note: console.print(note, style="dim"),
        )
        write_film(film, video)
    result = {
        "simulation": True,
        "video": str(video),
        "met": film.met,
        "judged": film.judged,
        "frames": len(film.frames),
    }
    run.finish(result, f"{film}\n{video}")


def visibility(config: VisibilityConfig, run: RunOptions) -> None:
    """Measure how small, and so how far away, a model still reads the clean sign.

    Some 300 clean signs of many sizes, turned as the ranges turn them and under their light, blur
    and noise, are shown to it. `physadv patch` does so too, and draws no distance beyond.

    Example: physadv patch visibility --model fastestdet --weights fastestdet.pth --eot camera
    """
    from physadv.patches.task import PatchTask
    from physadv.patches.visibility import (
        curve_lines,
        limit_lines,
        measure_visibility,
        visibility_table,
    )
    from physadv_cli.progress import status_line

    task = PatchTask.from_config(config.patch_config)
    print_unused(config.unused_with_models(task.model_tasks))
    with status_line("measuring how far the model sees"):
        curves = measure_visibility(task)
    lines = [*limit_lines(task, curves), *(line for c in curves for line in curve_lines(task, c))]
    run.finish(visibility_table(curves), "\n".join(lines))


def parse_models(
    models: Sequence[str], weights: Sequence[str]
) -> tuple[str, str | None, tuple[str, ...]]:
    """Return the first model, its weights, and the further ones as NAME or NAME=WEIGHTS.

    ``weights`` are FILE or NAME=FILE; one without a name belongs to the first of ``models``. Raises
    OptionError for one whose model is not named.
    """
    from physadv.core.errors import OptionError

    names, files = list(dict.fromkeys(models)), {}
    for text in weights:
        name, sign, file = text.partition("=")
        owner = name if sign else names[0]
        if owner not in names or owner in files:
            limit = "has weights already" if owner in files else "is no --model"
            raise OptionError(
                f"--weights {text}",
                f"{owner} {limit}",
                "Write --weights NAME=FILE, once for each model",
            )
        files[owner] = file if sign else text
    further = tuple(f"{n}={files[n]}" if n in files else n for n in names[1:])
    return names[0], files.get(names[0]), further


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)
