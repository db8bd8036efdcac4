"""``physadv init``: a commented file of a command's settings, to be filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from physadv_cli import options
from physadv_cli.runs import begin_report

_HEAD = """\
# Settings of physadv {words}, for: physadv {words} --config {name}
# Lines behind # show the defaults; options on the command line overrule the file.

"""


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command("init", rich_help_panel=panel)(init)


def init(
    context: typer.Context,
    command: Annotated[
        list[str], typer.Argument(help="Command, such as evaluate or patch transfer.")
    ],
    out: Annotated[Path | None, options.out_option("COMMAND.toml")] = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Write a TOML file of a command's settings, each with its help and its default.

    Example: physadv init evaluate --out evaluate.toml

    Example: physadv init patch transfer
    """
    from physadv.core.errors import OptionError
    from physadv.core.files import write_text
    from physadv.core.visible_text import visible_line

    run = begin_report("init", json=json, quiet=quiet, verbose=verbose)
    words = " ".join(command).split()
    known = {" ".join(path): kind for path, kind in _configured(context.find_root().command)}
    kind = known.get(" ".join(words))
    if kind is None:
        raise OptionError(
            f"command {' '.join(words)!r}", f"one of {', '.join(known)}", "Name one of these"
        )
    file = out or Path("-".join(words)).with_suffix(".toml")
    if file.exists() and not overwrite:
        raise OptionError(
            f'"{file}" stands there already',
            "A file is not replaced without being asked",
            "Name another --out, or add --overwrite",
        )
    # A comment ends with its line and holds no control characters: the name is written out.
    head = _HEAD.format(words=" ".join(words), name=visible_line(file.name))
    write_text(file, head + kind.commented_toml())
    needed = f"fill in what is in <>, then: physadv {' '.join(words)} --config {file}"
    run.finish({"command": " ".join(words), "out": str(file)}, f"{file} written; {needed}")


def _configured(group: Any, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], Any]]:
    """The commands below ``group`` that are made of a configuration, each with its class."""
    found = []
    for name, command in getattr(group, "commands", {}).items():
        kind = getattr(command.callback, "kind", None)
        if kind is not None:
            # A group that is a command as well keeps it under a name that nobody types.
            found.append(((*path, name) if name[0] != ":" else path, kind))
        found += _configured(command, (*path, name))
    return found
