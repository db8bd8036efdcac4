"""``physadv ui``: the journeys as forms on a local page."""

from __future__ import annotations

from typing import Annotated

import typer

from physadv_cli import options
from physadv_cli.runs import begin_report, console


def register(app: typer.Typer, panel: str) -> None:
    """Attach the command to ``app``, listed under ``panel``."""
    app.command("ui", rich_help_panel=panel)(ui)


def ui(
    context: typer.Context,
    port: Annotated[
        int,
        typer.Option(help="Port on 127.0.0.1; 0 takes any free one.", min=0, max=65535),
    ] = 0,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open the page in the browser of this machine.")
    ] = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
) -> None:
    """Serve a page with forms: make a sticker, print, check, cloak photos, evaluate.

    The page is reached from this machine alone, by the address that is printed. Each form runs one
    command of this program, whose words it shows; runs go below runs/. Ctrl-C ends the page, and
    what runs, as its stop button does: the same command goes on.

    Example: physadv ui --open
    """
    import webbrowser
    from tempfile import TemporaryDirectory
    from threading import Event

    from physadv_cli.ui.server import JourneyPage

    begin_report("ui", json=False, quiet=quiet, verbose=verbose)
    page = JourneyPage(port, context.find_root().command)
    private = TemporaryDirectory(prefix="physadv-ui-")
    try:
        console.print(f"open {page.address}  (Ctrl-C ends)", soft_wrap=True)
        if open_page:
            webbrowser.open(page.write_way_in(private.name).as_uri())
        Event().wait()
    except KeyboardInterrupt:
        console.print("ended; runs are in runs/")
    finally:
        page.close()
        private.cleanup()
