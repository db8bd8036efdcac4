"""``physadv cloak PHOTOS`` and ``physadv cloak check``: protect photos, and measure how well."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import typer

from physadv.core.visible_text import visible_line
from physadv.core.wording import count_noun
from physadv.privacy.config import CloakCheckConfig, CloakConfig
from physadv_cli.configured import from_config
from physadv_cli.help import DEFAULT, DefaultCommand, DefaultGroup, ServeWithoutPort
from physadv_cli.runs import (
    RunOptions,
    console,
    earlier_record_faults,
    print_unused,
    record_config,
)

if TYPE_CHECKING:
    from physadv.privacy.batch import PhotoJob, PhotoOutcome
    from physadv.privacy.cloak_task import CloakTask
    from physadv.privacy.video.cloak_video import Progress
    from physadv.privacy.video.live_photos import LiveVideo
    from physadv_cli.gate import Gate

_NAMED = 5
"""Files that a summary names before it breaks off."""
_OFFER = (
    "dlib's detector alone misses faces of groups, small and turned ones: `physadv models fetch "
    "facedet-slim` (1.4 MB, MIT) finds them"
)
_CALM_THREADS = 1
"""Small networks gain little from more threads, and are ten times slower where cores are busy."""


class _Cloak(DefaultCommand, ServeWithoutPort):
    """The default command, whose ``--serve`` may stand alone."""


def register(app: typer.Typer, panel: str) -> None:
    """Attach both commands to ``app`` under one name, listed under ``panel``."""
    group = typer.Typer(cls=DefaultGroup)
    group.command(DEFAULT, cls=_Cloak)(
        from_config(
            cloak,
            CloakConfig,
            out="PHOTOS-cloaked",
            threads=_CALM_THREADS,
            switches=("dry_run", "preview"),
            divided=True,
        )
    )
    group.command("check")(
        from_config(cloak_check, CloakCheckConfig, threads=_CALM_THREADS, switches=("require",))
    )
    app.add_typer(
        group,
        name="cloak",
        rich_help_panel=panel,
        short_help="Photos that face recognition no longer matches; `cloak check` measures it.",
    )


def cloak(config: CloakConfig, run: RunOptions) -> None:
    """Cloak every face in photos; originals are never touched, nothing but face boxes changes.

    Cloaked photos are written into PHOTOS-cloaked (or --out) beside a manifest, so that a second
    run resumes and skips what is done. Works offline. Photos that were cloaked with other settings
    are replaced only with --overwrite.

    A video (MP4, M4V, MOV) is cloaked alone: faces are followed, its sound stays.

    --serve opens a page on this machine instead: drop photos, choose faces and strength, compare
    before and after, save a zip.

    `physadv cloak check` measures how well it works (see its own --help).

    Example: physadv cloak photos/ --mode low

    Example: physadv cloak photos/ --budget 2 --face-mode IMG_1.jpg:2=high

    Example: physadv cloak me-1.jpg me-2.jpg me-3.jpg

    Example: physadv cloak photos/ --preview

    Example: physadv cloak photos/ --mode mid --strip-dates --out cloaked
    """
    from physadv.core.run_folder import refuse_other_run
    from physadv.core.torch_threads import calm_threads
    from physadv.privacy.batch import is_video, photo_folder
    from physadv.privacy.cloak_faces import MODES
    from physadv.privacy.cloak_task import CloakTask
    from physadv_cli.torchrun import is_first, refuse_several

    if config.serve is not None or is_video(config.source) or run.dry_run or run.preview:
        refuse_several("cloak of a video, or with --serve, --dry-run or --preview")
    if config.serve is not None:
        _serve(config, run)
        return
    if is_video(config.source):
        _cloak_video(config, run)
        return
    with calm_threads(run.threads or 0):
        task = CloakTask.from_config(config, run.out)
        if not task.has_slim_finder:
            console.print(_OFFER)
        if run.dry_run or run.preview:
            _look(task, run)
            return
        task.prepare(overwrite=run.overwrite)
        if is_first():
            run.take_folder(task.folder)
            if not run.overwrite:
                refuse_other_run(task.folder, config, by_command_only=True)
            record_config(task.folder, config)
        done = _cloak_photos(task, overwrite=run.overwrite)
        if not is_first():
            return
        live = _cloak_live_videos(task, config, run)

    result = _counts(done) | {
        "out": task.folder,
        "mode": task.cloaker.mode.name,
        "embedders": [e.card.name for e in task.cloaker.embedders],
        "judge": task.judge,
        "live_photo_videos": {video.name: video.status for video in live},
        "left_as_they_are": _left_files(config, live),
    }
    originals = config.photos[0] if len(config.photos) == 1 else str(photo_folder(config.source))
    is_faint = task.cloaker.mode.patches <= MODES["low"].patches
    run.finish(result, _cloak_summary(result, task.folder, originals, is_faint=is_faint))
    if not result["cloaked"] and not result["already done"]:
        raise typer.Exit(1)


def cloak_check(config: CloakCheckConfig, run: RunOptions) -> None:
    """Measure whether recognizers still match cloaked photos, with a verdict and its reasons.

    The verdict can be "not protected". Give two photos or more of each person, a folder a person. A
    finished check in --out prints its result again; one that was killed begins anew. --require
    'matched <= 0.2' holds the worst recognizer's worst channel to a limit.

    Example: physadv cloak check photos-cloaked --originals photos --gallery other-people

    Example: physadv cloak check cloaked --originals photos --require 'matched <= 0.2'
    """
    from physadv.core.torch_threads import calm_threads
    from physadv.models.faces.embedders import load_embedders
    from physadv.models.faces.face_detection import default_finders
    from physadv.privacy.check.embeddings import EmbeddingPlan
    from physadv.privacy.check.run_cloak_check import RESULT, run_cloak_check
    from physadv_cli.gate import Gate
    from physadv_cli.progress import bar

    gate = Gate.of(run, ("matched",))
    if (done := _finished_check(config, run)) is not None:
        console.print("this check is finished; its result again (--overwrite measures anew)")
        earlier = earlier_record_faults(done[0] / RESULT, "Name another --out, or add --overwrite")
        _report_check(done[0], done[1], run, gate, earlier)
        return

    with calm_threads(run.threads or 0), bar(transient=True) as progress:
        recognizers = load_embedders(config.embedder, config.weights_files, device=config.device)
        finders = default_finders(config.detector_weights)
        folder = run.open_folder(config)
        line = progress.add_task("photos")

        def tell(done: int, total: int, activity: str) -> None:
            progress.update(line, completed=done, total=total, description=activity)

        result = run_cloak_check(
            config.cloaked,
            config.originals,
            recognizers,
            finders,
            folder=folder,
            gallery=config.gallery,
            plan=EmbeddingPlan(baselines=config.baselines, seed=config.seed),
            adaptive=config.adaptive,
            progress=tell,
        )

    _report_check(folder, result.as_dict(), run, gate)


def _serve(config: CloakConfig, run: RunOptions) -> None:
    """Show the page until its button or Ctrl-C ends it; nothing is left behind."""
    from contextlib import suppress

    from physadv.core.torch_threads import calm_threads
    from physadv.privacy.cloak_page import CloakPage
    from physadv.privacy.cloak_task import photo_cloaker

    carried = ("keep_metadata", "strip_dates", "mark")
    names = ("decoys", "album", "only_faces", "skip_faces", "face_mode", *carried)
    print_unused(config.unused_options(dict.fromkeys(names, "the page of --serve chooses")))
    with calm_threads(run.threads or 0):
        cloaker, judge = photo_cloaker(config)
        with CloakPage(config.serve or 0, cloaker) as page:
            console.print(f"drop photos at {page.address} (on this machine only; Ctrl-C ends it)")
            with suppress(KeyboardInterrupt):
                while not page.wait(1.0):
                    pass
    made = [e.card.name for e in cloaker.embedders]
    run.finish({"embedders": made, "judge": judge}, "the page has ended; its copies are removed")


def _cloak_video(config: CloakConfig, run: RunOptions) -> None:
    """Cloak one video into the folder that photos would go to."""
    from physadv.core.errors import OptionError
    from physadv.core.torch_threads import calm_threads
    from physadv.privacy.batch import SETTINGS, target_folder
    from physadv.privacy.cloak_task import photo_cloaker
    from physadv.privacy.photo_cloaker import cloaker_settings, write_settings
    from physadv.privacy.video.cloak_video import cloak_video
    from physadv_cli.progress import bar

    photo_options = ("decoys", "album", "only_faces", "skip_faces", "face_mode", "keep_metadata")
    why = "a video has all its faces cloaked, and keeps no metadata"
    print_unused(config.unused_options(dict.fromkeys((*photo_options, "strip_dates", "mark"), why)))
    source = Path(config.photos[0])
    folder = target_folder(source, run.out)
    target = folder / source.name
    if run.dry_run or run.preview:
        raise OptionError("--dry-run and --preview", "Photos have them, videos do not", "Leave out")
    if target.exists() and not run.overwrite:
        raise OptionError(f"{target}", "is there already", "Give --overwrite or another --out")
    with calm_threads(run.threads or 0), bar(transient=True) as progress:
        cloaker, judge = photo_cloaker(config)
        line = progress.add_task("video")

        def tell(done: int, total: int, activity: str) -> None:
            progress.update(line, completed=done, total=total, description=activity)

        run.take_folder(folder)
        done = cloak_video(source, target, cloaker, progress=tell)
        write_settings(folder / SETTINGS, cloaker_settings(cloaker))

    result = {
        "video": target,
        "frames": done.frames,
        "faces": done.tracks,
        "faces_left_bare": len(done.bare),
        "notes": done.notes,
        "mode": cloaker.mode.name,
        "embedders": [e.card.name for e in cloaker.embedders],
        "judge": judge,
        "seconds": round(done.seconds, 1),
    }
    length = count_noun(done.frames, "frame")
    words = [f"{count_noun(len(done.tracks), 'face')} cloaked in {length}: {target}"]
    if done.bare:
        words.append(
            f"left bare: {count_noun(len(done.bare), 'place')} where a second look found no face; "
            "watch the video"
        )
    run.finish(result, "\n".join([*words, *done.notes]))


def _cloak_live_videos(task: CloakTask, config: CloakConfig, run: RunOptions) -> list[LiveVideo]:
    """Cloak the videos of Live Photos beside their photos, and say what became of each."""
    from physadv.privacy.video.live_photos import cloak_live_videos
    from physadv_cli.progress import bar

    videos = []
    with bar(transient=True) as progress:

        def follow(name: str) -> Progress:
            line = progress.add_task(visible_line(name))
            return lambda done, total, activity: progress.update(
                line, completed=done, total=total, description=activity
            )

        for video in cloak_live_videos(
            config.source, task.folder, task.cloaker, overwrite=run.overwrite, progress=follow
        ):
            words = f"{video.name}, the video of the Live Photo {video.photo}: {video.status}"
            console.print(visible_line(words + (f": {video.reason}" if video.reason else "")))
            videos.append(video)
    return videos


def _finished_check(
    config: CloakCheckConfig, run: RunOptions
) -> tuple[Path, dict[str, Any]] | None:
    """The folder of --out and the result there, where it holds this very check, finished.

    Raises OptionError where it holds another run.
    """
    from physadv.core.run_folder import refuse_other_run
    from physadv.privacy.check.run_cloak_check import finished_check

    if run.out is None or run.overwrite or not run.out.is_dir():
        return None
    run.take_folder(run.out)
    refuse_other_run(run.out, config)
    table = finished_check(run.out)
    return None if table is None else (run.out, table)


def _report_check(
    folder: Path,
    table: Mapping[str, Any],
    run: RunOptions,
    gate: Gate,
    earlier: contextlib.AbstractContextManager[None] | None = None,
) -> None:
    """Write the report of the check in ``folder``, print its result, the content of check.json,
    and judge the requirements; within ``earlier`` where that is an earlier run's."""
    from physadv.privacy.check.protection_verdict import too_few_judges, worst_rate
    from physadv.report.cloak_report import write_cloak_report
    from physadv_cli.gate import end_by, outcomes_table

    with earlier or contextlib.nullcontext():
        report = write_cloak_report(folder, table)
        verdict = table["verdict"]
        words = [
            f"{verdict['light']}: {verdict['words']}.",
            *verdict["reasons"],
            *_figures(table),
            f"report: {report}",
        ]
        rates = {"matched": worst_rate(verdict["findings"])}
        void = too_few_judges(table["recognisers"], verdict["findings"])
    outcomes = gate.judge(folder, table["settings"]["cloaked"], rates, void)
    run.finish({**table, "report": report, **outcomes_table(outcomes)}, "\n".join(words))
    end_by(outcomes)


def _figures(table: Mapping[str, Any]) -> list[str]:
    """The figures behind a verdict, a line a recognizer: its worst channel with the interval."""
    worst = table["verdict"].get("worst")
    lines = [f"in figures, {worst}:"] if worst else []
    for recognizer in table["recognisers"]:
        findings = [
            f for f in table["verdict"]["findings"] if f["recogniser"] == recognizer["name"]
        ]
        if not findings:
            continue
        least = max(findings, key=lambda f: (f["rate"]["rate"], f["rate"]["high"]))
        low, high = (f"{100 * least['rate'][end]:.0f}" for end in ("low", "high"))
        lines.append(
            f"  {recognizer['name']} ({recognizer['role']}), {least['question']}: "
            f"{least['words']} ({low} to {high} %)"
        )
    return lines


def _cloak_photos(task: CloakTask, *, overwrite: bool) -> list[PhotoOutcome]:
    """Cloak the photos, alone or divided among the processes that torchrun started, of which each
    is given the outcomes of all."""
    from physadv_cli.ranks import joined_processes

    with joined_processes() as group:
        if group.count == 1:

            def begin(surveyed: Callable[[int], None]) -> Generator[PhotoOutcome]:
                return task.run(overwrite=overwrite, surveyed=surveyed)

            return _follow(begin, len(task.jobs))[0]
        division = task.divided(group)
        own, is_over = _follow(lambda surveyed: division.run(overwrite=overwrite), len(task.jobs))
        if not is_over:
            raise SystemExit(130)
        done = division.gathered(own)
    mine = {outcome.job.name for outcome in own}
    for outcome in done:
        if outcome.job.name not in mine:
            _print_notes(outcome)
    return done


def _look(task: CloakTask, run: RunOptions) -> None:
    """Report photo by photo what would be cloaked; draw it where a preview is asked for, and write
    nothing else."""
    from physadv.core.errors import PhysadvError
    from physadv.privacy.face_choice import Reason
    from physadv.privacy.video.live_photos import live_videos

    carried = ("keep_metadata", "strip_dates", "seed")
    settings = ("mode", "budget", "face_mode", "decoys", "album", *carried)
    why = f"{'--dry-run' if run.dry_run else '--preview'} cloaks nothing"
    print_unused(task.config.unused_options(dict.fromkeys(settings, why)))
    print_unused([f"--overwrite is not used: {why}"] if run.overwrite else [])
    folder = _preview_folder(task, run) if run.preview and not run.dry_run else None
    rows: list[dict[str, Any]] = []
    for job in task.jobs:
        try:
            row = _faces_of(task, job, folder)
            words = count_noun(row["faces"], "face")
            bare = [f"{row[reason]} {reason}" for reason in get_args(Reason) if row[reason]]
            words += f"; left bare: {', '.join(bare)}" if bare else ""
        except PhysadvError as error:
            row, words = {"faces": 0, "failed": str(error)}, f"cannot be done: {error}"
        rows.append({"photo": job.name, **row})
        console.print(visible_line(f"{job.name}: {words}"))

    live = live_videos(task.config.source)
    for video in live:
        words = f"{video.name}: the video of the Live Photo {video.photo}, would be cloaked too"
        console.print(visible_line(words))
    faces = sum(row["faces"] for row in rows)
    result = {
        "dry_run": True,
        "photos": rows,
        "faces": faces,
        "live_photo_videos": [video.name for video in live],
        "left_as_they_are": _left_files(task.config, live),
    }
    if result["left_as_they_are"]:
        console.print(visible_line(_left_line(result["left_as_they_are"])))
    words = f"{count_noun(faces, 'face')} in {count_noun(len(rows), 'photo')} would be cloaked; "
    if folder is None:
        run.finish(result, words + "nothing was written.")
        return
    words += (
        f"drawn in {folder}: green boxes are cloaked, orange ones stay bare. Nothing was cloaked."
    )
    run.finish({**result, "out": folder}, words)


def _preview_folder(task: CloakTask, run: RunOptions) -> Path:
    """The folder of the preview: --out, or one beside the photos with "-preview" in its name."""
    if run.out is not None:
        return run.out
    return task.folder.with_name(task.folder.name.removesuffix("-cloaked") + "-preview")


def _faces_of(task: CloakTask, job: PhotoJob, folder: Path | None) -> dict[str, Any]:
    """Find the faces of one photo, and draw them into ``folder`` where there is one."""
    from physadv.core.image_io import save_png
    from physadv.privacy.face_choice import Reason
    from physadv.privacy.photo_io.photo import read_photo
    from physadv.privacy.preview import draw_faces

    photo = read_photo(job.source)
    faces = task.cloaker.faces(photo.rgb, job.name)
    boxes, bare = faces.boxes(*photo.rgb.shape[:2])
    reasons = list(faces.reasons.values())
    row = {
        "faces": len(boxes),
        **{reason: reasons.count(reason) for reason in get_args(Reason)},
        "boxes": list(boxes.values()),
        "bare": list(bare.values()),
        "numbers": [*boxes, *bare],
        "notes": list(photo.notes),
    }
    if folder is not None:
        target = folder / f"{job.name}-preview.png"
        save_png(target, draw_faces(photo.rgb, boxes, bare))
        row["preview"] = target
    return row


def _follow(
    begin: Callable[[Callable[[int], None]], Generator[PhotoOutcome]], total: int
) -> tuple[list[PhotoOutcome], bool]:
    """Show progress with faces done and time left; return the outcomes, and whether they are all.

    Ctrl-C ends it, and what is done stays done.

    Args:
        begin: Begins the run; called with what shows how many photos' faces are known.
        total: Number of photos.
    """
    from physadv_cli.progress import bar

    done: list[PhotoOutcome] = []
    is_over = True
    with bar(transient=True) as progress:
        line = progress.add_task("photos", total=total)
        survey = progress.add_task("photos searched for faces", total=total) if total > 1 else None

        def surveyed(photos: int) -> None:
            if survey is not None:
                progress.update(survey, completed=photos)

        try:
            with closing(begin(surveyed)) as outcomes:
                for outcome in outcomes:
                    done.append(outcome)
                    faces = sum(each.faces for each in done if each.status == "cloaked")
                    progress.update(
                        line, completed=outcome.index, note=f"{count_noun(faces, 'face')} cloaked"
                    )
                    _print_notes(outcome)
        except KeyboardInterrupt:
            is_over = False
            console.print("stopped; the same command resumes")
    return done, is_over


def _print_notes(outcome: PhotoOutcome) -> None:
    """Print what a photo's owner should know of it, if anything."""
    if outcome.notes or outcome.status in ("failed", "no face"):
        words = "; ".join([str(outcome.status), *outcome.notes])
        console.print(visible_line(f"{outcome.job.name}: {words}"))


def _counts(done: Sequence[PhotoOutcome]) -> dict[str, Any]:
    """How many photos ended how, and the faces' worst figures."""
    statuses = ("cloaked", "already done", "no face", "failed")
    faces = [face for each in done if each.status == "cloaked" for face in each.row["faces"]]
    seconds = sum(face["seconds"] for face in faces)
    return {
        **{status: sum(each.status == status for each in done) for status in statuses},
        "faces": len(faces),
        "dssim_max": max((face["dssim"] for face in faces), default=None),
        "linf_max": max((face["linf"] for face in faces), default=None),
        "faces_with_others": sum(face.get("others", 0) > 0 for face in faces),
        "seconds_per_face": round(seconds / len(faces), 2) if faces else None,
        "failures": {e.job.name: "; ".join(e.notes) for e in done if e.status == "failed"},
        "faces_left_bare": {e.job.name: e.row["bare"] for e in done if e.row.get("bare")},
        "without_face": [each.job.name for each in done if each.status == "no face"],
    }


def _others_line(faces: int, known: int) -> str:
    """For people: how many cloaks knew other photos of their person, and what more would do."""
    words = f"{known} of {count_noun(faces, 'face')} moved away from other photos of the person too"
    if known == faces:
        return words
    return words + "; --album MORE-PHOTOS, of the same people, protects the others better"


def _left_files(config: CloakConfig, live: Sequence[LiveVideo]) -> dict[str, str]:
    """The files that are not cloaked, with their kind; videos of Live Photos are."""
    from physadv.privacy.batch import list_unhandled

    cloaked = {video.name for video in live}
    files = list_unhandled(config.source)
    return {name: kind for name, kind in files if name not in cloaked}


def _left_line(rest: Mapping[str, str]) -> str:
    """For people: the files that are not cloaked, of which ``rest`` has the kind by name."""
    kinds = Counter(rest.values())
    counted = ", ".join(count_noun(number, kind) for kind, number in sorted(kinds.items()))
    first, more = ", ".join(list(rest)[:_NAMED]), ", ..." if len(rest) > _NAMED else ""
    return f"left as they are, not protected: {counted} ({first}{more})"


def _cloak_summary(result: dict[str, Any], folder: Path, photos: str, *, is_faint: bool) -> str:
    """For people: what was cloaked, what was not, and how to measure it; a cloak that ``is_faint``
    is not to be taken for protection."""
    lines = [
        f"{count_noun(result['cloaked'], 'photo')} cloaked "
        f"({count_noun(result['faces'], 'face')}), {result['already done']} done before: {folder}"
    ]
    if result["faces"]:
        lines.append(_others_line(result["faces"], result["faces_with_others"]))
    if result["no face"]:
        lines.append(f"{result['no face']} without a face to cloak: not written, not protected")
    if bare := result["faces_left_bare"]:
        named = ", ".join(f"{name}: {len(boxes)}" for name, boxes in list(bare.items())[:_NAMED])
        more = ", ..." if len(bare) > _NAMED else ""
        number = sum(len(boxes) for boxes in bare.values())
        lines.append(
            f"{count_noun(number, 'face')} left bare: too small, doubtful or not chosen "
            f"({named}{more}); --preview draws them"
        )
    if result["faces"] and is_faint:
        lines.append(
            "this cloak is hardly seen and stops few recognizers; --mode mid stops more and shows"
        )
    if result["failed"]:
        lines.append(f"{result['failed']} failed; the reasons are above and in the manifest")
    if live := result["live_photo_videos"]:
        failed = [name for name, status in live.items() if status == "failed"]
        words = (
            f"{count_noun(len(live), 'video')} of Live Photos: {len(live) - len(failed)} cloaked"
        )
        if failed:
            more = ", ..." if len(failed) > _NAMED else ""
            words += f"; {len(failed)} not protected ({', '.join(failed[:_NAMED])}{more})"
        lines.append(words)
    if rest := result["left_as_they_are"]:
        lines.append(_left_line(rest))
    made = " and ".join(result["embedders"])
    if result["judge"] is None:
        lines.append(
            f"made with {made}: no other recognizer is at hand to judge it; `physadv models fetch "
            "edgeface-xs` brings one"
        )
    else:
        lines.append(f"made with {made}; {result['judge']} had no part in it and can judge it")
    if result["cloaked"] or result["already done"]:
        lines.append(f"How well it worked: physadv cloak check {folder} --originals {photos}")
    return "\n".join(lines)
