"""Shared options: one name means one thing in all commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Option(
        "--model",
        "--victim",
        help="A name from `physadv models list`, a model file, or module:factory; + puts a "
        "defense before it: "
        "signs+jpeg, +median, +blur, +lgs, +remover, +patchcleanser, +derandomized, +patchguard.",
        metavar="V",
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option("--weights", help="Weights of the victim, where it does not carry its own."),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data", help="Data set: class folders, idx, npz, GTSRB layout, or a zip of those."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="The run's named seed: same seed, same result.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps.")]
Out = Annotated[
    Path | None,
    typer.Option("--out", help="Folder for what is written (default: runs/<utc>-<command>)."),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout; everything for people on stderr.")
]
Signs = Annotated[
    Path | None,
    typer.Option(
        "--signs",
        help="Photos (with or without box files) or drawings of your sign. (default: drawn by "
        "code)",
    ),
]
Backgrounds = Annotated[
    Path | None,
    typer.Option(
        "--backgrounds", help="Folder of photos without the sign. (default: made by code)"
    ),
]
EotDraws = Annotated[
    int,
    typer.Option(
        "--eot-draws",
        help="For a victim with random parts: attack the mean over this many draws.",
        min=0,
    ),
]
Photos = Annotated[
    Path | None,
    typer.Option(
        "--photos",
        help="Folder of photos, with labels.csv or boxes.csv; else the victim labels them.",
    ),
]
Boxes = Annotated[
    Path | None,
    typer.Option(
        "--boxes", help="CSV file,x0,y0,x1,y1 of signs or objects. (default: boxes.csv beside)"
    ),
]
Profile = Annotated[
    Path | None,
    typer.Option(
        "--profile", help="Colour profile of your printer and camera, from `calibrate fit`."
    ),
]
CameraProfile = Annotated[
    Path | None,
    typer.Option("--camera-profile", help="Lens profile of your camera, from `calibrate camera`."),
]
Threads = Annotated[
    int, typer.Option("--threads", help="CPU threads for torch; 0 keeps its own choice.", min=0)
]
