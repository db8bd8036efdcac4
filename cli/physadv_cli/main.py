"""The app and the one place where errors become exit codes: 0 done, 1 a known error in one line, 2
wrong usage."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Annotated

import typer

COMMANDS = (
    "demo",
    "patch",
    "print",
    "twin",
    "check",
    "calibrate",
    "cloak",
    "attack",
    "train",
    "certify",
    "evaluate",
    "models",
    "study",
    "report",
    "doctor",
)

app = typer.Typer(
    name="physadv",
    help="Physical-world adversarial robustness and photo privacy. For your own models, signs and "
    "photos.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


def _version(wanted: bool) -> None:
    if wanted:
        from physadv import __version__

        sys.stdout.write(f"physadv {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Physical-world adversarial robustness and photo privacy. For your own models, signs and
    photos."""


for _name in COMMANDS:
    _module = f"physadv_cli.commands.{_name}_command"
    if find_spec(_module) is not None:
        import_module(_module).register(app)


def _outside(error: OSError | MemoryError) -> str:
    """Return one line for ``error``, a fault outside the program: disk, file, device or memory."""
    if isinstance(error, MemoryError):
        return "Memory ran out. Use a smaller --batch-size, fewer --draws or smaller images."
    reason = error.strerror or str(error) or type(error).__name__
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    subject = f"{' -> '.join(names)}: " if names else ""
    return f"{subject}{reason}. Check the path, its permissions and the space on the disk."


def main() -> None:
    """Entry point of the ``physadv`` script."""
    from physadv.core.errors import PhysadvError

    try:
        app()
    except PhysadvError as error:
        sys.stderr.write(f"physadv: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("physadv: stopped; what was reported as saved is saved.\n")
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    except (OSError, MemoryError) as error:
        sys.stderr.write(f"physadv: {_outside(error)}\n")
        raise SystemExit(1) from None
    except RuntimeError as error:  # torch reports memory that it cannot get in a class of its own
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        sys.stderr.write(f"physadv: {_outside(MemoryError())}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
