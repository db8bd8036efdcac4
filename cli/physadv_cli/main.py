"""The app, and the mapping of errors to exit codes.

0 is done, 1 a known error in one line, 2 wrong usage, 3 a requirement that was not met, 130 an
interrupted run.
"""

from __future__ import annotations

import signal
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from importlib import import_module
from typing import Annotated, Any

import typer

from physadv.core.addresses import redact_addresses
from physadv.core.trust import only_code_named
from physadv.core.visible_text import visible_line, visible_text
from physadv_cli.help import OTHER_SPELLINGS, OrderedGroup, tidy_help
from physadv_cli.outside_faults import in_words
from physadv_cli.runs import console
from physadv_cli.streams import prepare_streams, write_result
from physadv_cli.torchrun import await_first_line

PANELS = {
    "Make and print": ("demo", "patch", "print"),
    "Simulate and check": ("twin", "check", "calibrate"),
    "Protect photos": ("cloak",),
    "Evaluate and train": ("attack", "evaluate", "certify", "train", "study"),
    "Models and tools": ("ui", "init", "models", "runs", "compare", "report", "merge", "doctor"),
}
"""Commands by panel of the help, in the order of the journey."""


class _Journey(OrderedGroup):
    """The root command, its commands in the order of the journey."""

    journey = tuple(name for names in PANELS.values() for name in names)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an error of usage repeats the words typed, but no camera's password."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            message = getattr(error, "message", None)
            if isinstance(message, str):
                with suppress(AttributeError):  # other libraries' errors compute theirs
                    error.message = redact_addresses(message)  # type: ignore[attr-defined]
            raise


app = typer.Typer(
    name="physadv",
    cls=_Journey,
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda name: OTHER_SPELLINGS.get(name, name),
    },
)


def _version(wanted: bool) -> None:
    if wanted:
        from physadv import __version__

        sys.stdout.write(f"physadv {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version and stop."
        ),
    ] = False,
) -> None:
    """Physical-world adversarial robustness and photo privacy.

    For your own models, signs and photos.
    """
    context.with_resource(only_code_named())  # commands allow what is typed in their options


for _panel, _names in PANELS.items():
    for _name in _names:
        import_module(f"physadv_cli.commands.{_name}_command").register(app, _panel)
tidy_help(app)


def _keep_interrupts() -> None:
    """Raise a Ctrl-C again that came while Python ran a callback of its own, such as one of an
    import: Python prints it with a traceback there, and forgets it."""
    usual, own = sys.unraisablehook, threading.get_ident()

    def again(unraisable: sys.UnraisableHookArgs) -> None:
        if sys.platform == "win32" or not issubclass(unraisable.exc_type, KeyboardInterrupt):
            usual(unraisable)
        else:  # once the callback has ended
            threading.Timer(0.05, signal.pthread_kill, (own, signal.SIGINT)).start()

    sys.unraisablehook = again


def main() -> None:
    """Run the ``physadv`` command and end the process with its exit code."""
    prepare_streams()
    _keep_interrupts()
    plain_format = warnings.formatwarning
    warnings.formatwarning = lambda *words: visible_text(plain_format(*words))
    try:
        try:
            app(prog_name="physadv")
        finally:
            write_result(sys.stdout)
    except KeyboardInterrupt:
        sys.stderr.write("physadv: stopped. What was reported as saved is complete.\n")
        raise SystemExit(130) from None
    except Exception as error:
        await_first_line()
        known = in_words(error)
        if known is None or console.full_errors:
            sys.stderr.write(visible_text(redact_addresses(traceback.format_exc())))
        if known is not None:
            sys.stderr.write(f"physadv: {visible_line(str(known))}\n")
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
