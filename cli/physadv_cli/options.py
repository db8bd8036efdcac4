"""Options that several commands have: one name, one type, one help."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer

from physadv.core import shared_fields
from physadv.core.config import ConfigField


def plain_type(kind: Any) -> Any:
    """Return the type ``kind`` without ``| None``."""
    if get_origin(kind) in (Union, types.UnionType):
        return next(k for k in get_args(kind) if k is not type(None))
    return kind


def field_option(note: ConfigField, flags: list[str], kind: Any, words: str = "") -> Any:
    """Return the Typer option of a configuration's field.

    Args:
        note: the field's documentation.
        flags: the option's names, the first of which gets a ``--no-`` form where it is a yes or no
            and is none itself.
        kind: the field's type.
        words: what the help shows in place of the default.

    Returns:
        The value for ``Annotated[type, ...]``.
    """
    plain = plain_type(kind)
    if plain is bool and not flags[0].startswith("--no-"):
        flags = [f"{flags[0]}/--no-{flags[0].removeprefix('--')}", *flags[1:]]

    ranged = plain in (int, float)
    shown: dict[str, Any] = {"show_default": words} if words else {}
    if plain is bool and not shown:
        shown = {"show_default": False}
    return typer.Option(
        *flags,
        help=note.help,
        metavar=note.metavar or None,
        rich_help_panel=note.panel,
        autocompletion=completer_of(note),
        min=note.least if ranged else None,
        max=note.most if ranged else None,
        **shown,
    )


def completer_of(note: ConfigField) -> Callable[[str], list[str]] | None:
    """Return what completes the value of the field with documentation ``note``, if anything."""
    if note.completions:
        return lambda incomplete: [w for w in note.completions if w.startswith(incomplete)]
    return _bundle_names if note.metavar == "BUNDLE" else None


def _bundle_names(incomplete: str) -> list[str]:
    """Names of ready-made bundles that begin with what was typed."""
    from physadv.core.package_data import patches_dir

    folders = (card.parent.name for card in patches_dir().glob("*/card.toml"))
    return sorted(name for name in folders if name.startswith(incomplete))


def option_of(hint: Any, flag: str) -> Any:
    """Return the Typer option called ``flag`` of a shared field, for commands written by hand.

    ``hint`` is ``Annotated[type, ConfigField]``, as in :mod:`physadv.core.shared_fields`.
    """
    note = next(m for m in hint.__metadata__ if isinstance(m, ConfigField))
    return field_option(note, [flag], hint.__origin__, note.default)


def out_option(default: str) -> Any:
    """Return the Typer option ``--out``; ``default`` is what its help shows as the default."""
    return typer.Option(
        "--out",
        help="File or folder to write.",
        metavar="PATH",
        show_default=default,
        rich_help_panel="Output",
    )


Weights = Annotated[Path | None, option_of(shared_fields.ModelWeights, "--weights")]
Device = Annotated[str, option_of(shared_fields.Device, "--device")]

Threads = Annotated[
    int,
    typer.Option(
        "--threads",
        help="CPU threads for torch; 0 leaves it to torch.",
        min=0,
        max=1024,  # torch starts as many as are asked for, and hangs on millions
        rich_help_panel="Run",
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what --out holds of another configuration.",
        rich_help_panel="Output",
    ),
]
SWITCHES: dict[str, Any] = {
    "overwrite": Overwrite,
    "force": Annotated[
        bool,
        typer.Option(
            "--force",
            help="Go on where the clean or the blank control is not valid.",
            rich_help_panel="Optimization",
        ),
    ],
    "dry_run": Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Report what would be done, write nothing.",
            rich_help_panel="Output",
        ),
    ],
    "preview": Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Draw boxes around the faces that are found, in copies under PHOTOS-preview or "
            "--out; cloak nothing.",
            rich_help_panel="Output",
        ),
    ],
    "shard": Annotated[
        str | None,
        typer.Option(
            "--shard",
            help="Do this share of the batches alone, such as 2/8; `physadv merge` joins them.",
            metavar="NUMBER/COUNT",
            rich_help_panel="Run",
        ),
    ],
    "require": Annotated[
        list[str] | None,
        typer.Option(
            "--require",
            help="End with exit code 3 unless a figure keeps a limit; may repeat.",
            metavar="FIGURE>=SHARE",
            rich_help_panel="Output",
        ),
    ],
}
"""Options of a run that only some commands have; all are off by default."""
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="Print the result as one JSON object on stdout.",
        rich_help_panel="Output",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Do not say that a model named here is code, such as module:factory or TorchScript.",
        rich_help_panel="Model",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        "-q",
        help="Print errors only; no progress, no summary.",
        rich_help_panel="Output",
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose", "-v", help="Print the full traceback of an error.", rich_help_panel="Output"
    ),
]
