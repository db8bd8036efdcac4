"""`physadv cloak PHOTOS` and `physadv cloak check`: protect photos, and learn how well it worked."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from physadv_cli.options import Device, Json, Out, Seed, Threads
from physadv_cli.runs import console, finish, open_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from physadv.models.faces.embedders import FaceEmbedder
    from physadv.models.faces.face_detection import FaceFinder
    from physadv.privacy.batch import PhotoJob, PhotoOutcome
    from physadv.privacy.photo_cloaker import PhotoCloaker

_DEFAULT = "PHOTOS..."
EmbedderName = Annotated[
    list[str] | None,
    typer.Option(
        "--embedder",
        help="dlib, mobilefacenet or a descriptor .toml; may repeat. (default: all at hand)",
    ),
]
EmbedderWeights = Annotated[
    list[str] | None,
    typer.Option("--embedder-weights", help="NAME=FILE: weights of an embedder; may repeat."),
]
DetectorWeights = Annotated[
    Path | None,
    typer.Option("--detector-weights", help="Weights of the face detector facedet-slim."),
]


class PathOrCommand(TyperGroup):
    """`cloak check ...` is the check, `cloak` with anything else is photos to cloak (a folder
    "check" is `./check`)."""

    @property
    def default_command(self) -> Any:
        """What runs when no sub-command is named."""
        return self.commands[_DEFAULT]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put the default command before arguments that name none; its help is the help."""
        if args and args[0] not in self.commands:
            args = [_DEFAULT, *args]
        return super().parse_args(ctx, args)


def register(app: typer.Typer, panel: str) -> None:
    """Attach both commands under one name."""
    group = typer.Typer(
        cls=PathOrCommand,
        help="Cloak personal photos so that face recognition no longer matches them; check how "
        "well.",
        no_args_is_help=True,
    )
    group.command(_DEFAULT, help=cloak.__doc__)(cloak)
    group.command("check")(check)
    app.add_typer(group, name="cloak", rich_help_panel=panel)


def cloak(
    photos: Annotated[
        Path, typer.Argument(help="A photo, or a folder with photos (recursive).", metavar="PHOTOS")
    ],
    mode: Annotated[
        str, typer.Option("--mode", help="low, mid or high: how visible it may be.")
    ] = "low",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Folder for the cloaked photos. (default: PHOTOS-cloaked)"),
    ] = None,
    embedder: EmbedderName = None,
    embedder_weights: EmbedderWeights = None,
    detector_weights: DetectorWeights = None,
    decoys: Annotated[
        Path | None,
        typer.Option(
            "--decoys",
            help="Photos of 8 people or more: move towards averages of them, never one person.",
        ),
    ] = None,
    keep_metadata: Annotated[
        bool,
        typer.Option(
            "--keep-metadata", help="Keep GPS, serial numbers and captions. (default: left out)"
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace photos that were cloaked with other settings."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Find the faces, write nothing.")
    ] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 2,
    json: Json = False,
) -> None:
    """Cloak every face in photos: originals are never touched, all but the face boxes stays as it
    was.

    Writes into PHOTOS-cloaked (or --out) beside a manifest, so that a second run resumes and skips.
    Works offline.

    How well it works is told by `physadv cloak check` (see its own --help).

    Example: physadv cloak photos/ --mode low
    """
    from physadv.privacy.batch import plan_jobs, refuse_other_settings, run_folder
    from physadv.privacy.check.run_cloak_check import SETTINGS
    from physadv.privacy.cloak_faces import mode_named
    from physadv.privacy.photo_cloaker import (
        PhotoCloaker,
        calm_threads,
        cloaker_settings,
        write_settings,
    )

    chosen, files = mode_named(mode), _named_files(embedder_weights)
    jobs, folder = plan_jobs(photos, out)
    finders = _finders(detector_weights)
    with calm_threads(threads):
        embedders = _embedders(embedder, files, device)
        cloaker = PhotoCloaker(finders, embedders, chosen, seed=seed)
        if dry_run:
            _dry(jobs, cloaker, as_json=json)
            return
        if decoys is not None:
            cloaker.learn_others(decoys)
        settings = cloaker_settings(cloaker)
        if not overwrite:
            refuse_other_settings(jobs, folder, settings, keep_metadata=keep_metadata)
        steps = run_folder(
            jobs,
            folder,
            cloaker,
            settings=settings,
            keep_metadata=keep_metadata,
            recall=cloaker.recall,
            overwrite=overwrite,
        )
        write_settings(folder / SETTINGS, settings)
        with closing(steps):
            done = _follow(steps, len(jobs))
    result = _counted(done) | {
        "out": folder,
        "mode": mode,
        "embedders": [e.card.name for e in embedders],
    }
    finish(result, as_json=json, summary=_said(result, folder, photos))
    if not result["cloaked"] and not result["already done"]:
        raise typer.Exit(1)


def check(
    cloaked: Annotated[
        Path, typer.Argument(help="The cloaked photos, by any tool.", metavar="CLOAKED")
    ],
    originals: Annotated[
        Path, typer.Option("--originals", help="The photos they were made from; a folder a person.")
    ],
    gallery: Annotated[
        Path | None, typer.Option("--gallery", help="Photos of other people, a folder a person.")
    ] = None,
    embedder: EmbedderName = None,
    embedder_weights: EmbedderWeights = None,
    detector_weights: DetectorWeights = None,
    adaptive: Annotated[
        bool,
        typer.Option(
            help="Also train a recognizer on the cloaks of half of the people (8 or more)."
        ),
    ] = True,
    baselines: Annotated[
        bool, typer.Option(help="Also measure noise and blur of the same visibility.")
    ] = True,
    seed: Seed = 0,
    device: Device = "cpu",
    threads: Threads = 2,
    out: Out = None,
    json: Json = False,
) -> None:
    """Ask recognizers whether cloaked photos still match: a verdict that can be "not protected",
    and what it rests on.

    Example: physadv cloak check photos-cloaked --originals photos --gallery other-people
    """
    from physadv.privacy.check.embeddings import EmbeddingPlan
    from physadv.privacy.check.run_cloak_check import run_cloak_check
    from physadv.privacy.photo_cloaker import calm_threads
    from physadv.report.cloak_report import write_cloak_report

    files = _named_files(embedder_weights)
    with calm_threads(threads):
        recognizers, finders = _embedders(embedder, files, device), _finders(detector_weights)
        folder = open_run(
            "cloak-check",
            out,
            {"cloaked": cloaked, "originals": originals, "gallery": gallery, "seed": seed},
        )
        with _bar("photos") as (bar, task):
            result = run_cloak_check(
                cloaked,
                originals,
                recognizers,
                finders,
                folder=folder,
                gallery=gallery,
                plan=EmbeddingPlan(baselines=baselines, seed=seed),
                adaptive=adaptive,
                progress=lambda done, total, what: bar.update(
                    task, completed=done, total=total, description=what
                ),
            )
    plain = result.as_dict()
    report = write_cloak_report(folder, plain)
    verdict = result.verdict
    lines = [
        f"[bold]{verdict.light}[/bold]: {verdict.words}.",
        *verdict.reasons,
        f"report: {report}",
    ]
    finish({**plain, "report": report}, as_json=json, summary="\n".join(lines))


def _finders(weights: Path | None) -> list[FaceFinder]:
    from physadv.models.faces.face_detection import default_finders

    return default_finders(weights)


def _named_files(weights: list[str] | None) -> dict[str, str]:
    """NAME=FILE pairs as a table."""
    from physadv.core.errors import OptionError

    files = dict(pair.partition("=")[::2] for pair in weights or [])
    if any(not file for file in files.values()):
        raise OptionError(
            f"--embedder-weights {weights}",
            "NAME=FILE is expected",
            "e.g. mobilefacenet=weights.pt",
        )
    return files


def _embedders(names: list[str] | None, files: dict[str, str], device: str) -> list[FaceEmbedder]:
    """The embedders named, or all whose weights are at hand."""
    from physadv.core.errors import ModelError
    from physadv.models.faces.embedders import available_embedders, load_embedder

    wanted = names or list(dict.fromkeys([*available_embedders(), *files]))
    if not wanted:
        raise ModelError("no embedder", "none has its weights here", "pip install 'physadv[faces]'")
    return [load_embedder(name, weights=files.get(name), device=device) for name in wanted]


def _dry(jobs: Sequence[PhotoJob], cloaker: PhotoCloaker, *, as_json: bool) -> None:
    """Say what would be done, photo by photo."""
    from physadv.core.errors import PhysadvError
    from physadv.privacy.photo_io.photo import read_photo

    rows: list[dict[str, Any]] = []
    for job in jobs:
        try:
            photo = read_photo(job.source)
            faces, small = cloaker.faces(photo.rgb)
            rows.append(
                {
                    "photo": job.name,
                    "faces": len(faces),
                    "too small": small,
                    "notes": list(photo.notes),
                }
            )
            said = f"{_count(len(faces), 'face')}" + (f", {small} too small" if small else "")
        except PhysadvError as error:
            rows.append({"photo": job.name, "faces": 0, "failed": str(error)})
            said = f"cannot be done: {error}"
        console.print(f"{job.name}: {said}", markup=False)
    faces_in_all = sum(row["faces"] for row in rows)
    said = f"{_count(faces_in_all, 'face')} in {_count(len(rows), 'photo')} would be cloaked; nothing was written."
    finish({"dry_run": True, "photos": rows, "faces": faces_in_all}, as_json=as_json, summary=said)


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _follow(steps: Any, total: int) -> list[PhotoOutcome]:
    """Show progress with faces done and time left; Ctrl-C ends it, and what is done stays done."""
    done: list[PhotoOutcome] = []
    with _bar("photos", total) as (bar, task):
        try:
            for step in steps:
                done.append(step)
                faces = sum(d.faces for d in done if d.status == "cloaked")
                bar.update(
                    task, completed=step.index, description=f"{_count(faces, 'face')} cloaked"
                )
                if step.notes or step.status in ("failed", "no face"):
                    said = "; ".join(step.notes)
                    bar.console.print(
                        f"{step.job.name}: {step.status}{': ' if said else ''}{said}", markup=False
                    )
        except KeyboardInterrupt:
            bar.console.print("stopped; run the same command again to go on")
    return done


def _bar(what: str, total: int | None = None) -> Any:
    from contextlib import contextmanager

    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    @contextmanager
    def shown() -> Any:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            yield bar, bar.add_task(what, total=total)

    return shown()


def _counted(done: Sequence[PhotoOutcome]) -> dict[str, Any]:
    """How many photos ended how, and the faces' worst figures."""
    statuses = ("cloaked", "already done", "no face", "failed")
    faces = [face for d in done if d.status == "cloaked" for face in d.row["faces"]]
    return {
        **{status: sum(d.status == status for d in done) for status in statuses},
        "faces": len(faces),
        "dssim_max": max((f["dssim"] for f in faces), default=None),
        "linf_max": max((f["linf"] for f in faces), default=None),
        "seconds_per_face": round(sum(f["seconds"] for f in faces) / len(faces), 2)
        if faces
        else None,
        "failures": {d.job.name: "; ".join(d.notes) for d in done if d.status == "failed"},
        "without_face": [d.job.name for d in done if d.status == "no face"],
    }


def _said(result: dict[str, Any], folder: Path, photos: Path) -> str:
    lines = [
        f"{_count(result['cloaked'], 'photo')} cloaked ({_count(result['faces'], 'face')}), "
        f"{result['already done']} done before: {folder}"
    ]
    if result["no face"]:
        lines.append(
            f"{result['no face']} without a face that could be found: not written, not protected"
        )
    if result["failed"]:
        lines.append(f"{result['failed']} failed; the reasons are above and in the manifest")
    lines.append(f"How well it worked: physadv cloak check {folder} --originals {photos}")
    return "\n".join(lines)
