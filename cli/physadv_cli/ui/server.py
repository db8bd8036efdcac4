"""Local page of the journeys, on 127.0.0.1 and behind a token."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from physadv.camera.local_server import LocalHandler, LocalPage
from physadv.core.addresses import redact_addresses
from physadv.core.errors import OptionError, PhysadvError
from physadv.core.files import write_text
from physadv.core.members import member_of
from physadv.core.run_folder import new_run_folder
from physadv.core.text import read_file
from physadv.core.visible_text import visible_line
from physadv.report.design import render_page
from physadv.report.rebuild import rebuild_report
from physadv_cli.ui.forms import JOURNEYS, Journey, command_of, form_fields, typed_words
from physadv_cli.ui.jobs import Job, Jobs

_MOST_BYTES = 1 << 28


class JourneyPage(LocalPage):
    """Server of the page, from construction to :meth:`close`.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        root: The program's root command.

    Raises:
        CaptureError: The port cannot be used.
    """

    def __init__(self, port: int, root: Any) -> None:
        self.jobs, self._root = Jobs(), root
        super().__init__(port, _handler(self), "--port")

    def write_way_in(self, folder: str | Path) -> Path:
        """Write a file that leads a browser to the page, and return its path.

        Other users of this machine see what a browser is started with: the address, and with it
        the token, stands in this file alone.

        Args:
            folder: Folder that nobody else can read.
        """
        leads = f'<!doctype html><meta http-equiv="refresh" content="0; url={self.address}">\n'
        return write_text(Path(folder) / "open.html", leads)

    def html(self) -> str:
        """Return the page, whose requests are relative to its address."""
        forms = []
        for journey in JOURNEYS:
            first, others = form_fields(command_of(self._root, journey.words), journey.first)
            panels: dict[str, list[Any]] = {}
            for field in others:
                panels.setdefault(field.panel, []).append(field)
            forms.append({"journey": journey, "first": first, "panels": panels})
        return render_page("ui.html.j2", title="physadv", forms=forms)

    def state(self) -> list[Mapping[str, Any]]:
        """Return the commands started so far, newest first, as the page shows them."""
        return [
            {
                "number": number,
                "title": job.title,
                "state": job.state,
                "words": visible_line(redact_addresses("physadv " + " ".join(job.words))),
                "folder": str(job.folder),
                "last": job.lines[-1] if job.lines else "",
                "lines": list(job.lines)[-40:],
            }
            for number, job in reversed(list(enumerate(self.jobs.all())))
        ]

    def start(self, name: str, values: Mapping[str, str]) -> None:
        """Start the journey ``name`` with what was filled in.

        Raises:
            OptionError: It is not known, a field is wrong, or another command runs.
        """
        journey = next((each for each in JOURNEYS if each.name == name), None)
        if journey is None:
            raise OptionError(f'journey "{name}"', "it is not known", "Reload the page")
        words = typed_words(command_of(self._root, journey.words), values)
        folder = new_run_folder("-".join(journey.words), datetime.now(UTC))
        job = Job(journey.title, self._line(journey, words, folder), folder)
        try:
            self.jobs.run(job)
        except OptionError:
            job.remove_empty_folder()
            raise

    def job(self, number: str) -> Job:
        """Return the command with the number ``number``.

        Raises:
            OptionError: There is none.
        """
        jobs = {str(place): job for place, job in enumerate(self.jobs.all())}
        if number not in jobs:
            raise OptionError(f"run {number[:9]}", "there is none", "Reload the page")
        return jobs[number]

    def result(self, number: str) -> tuple[str, bytes]:
        """Return the content type and the bytes of a command's result: its sheet or its report.

        Raises:
            PhysadvError: It has none yet.
        """
        folder = self.job(number).folder
        sheet = member_of(folder, "sheet.pdf")
        if sheet.is_file():
            return "application/pdf", read_file(sheet, most_bytes=_MOST_BYTES)
        page = member_of(folder, "report.html")
        if not page.is_file():
            page = rebuild_report(folder)
        return "text/html; charset=utf-8", read_file(page, most_bytes=_MOST_BYTES)

    def close(self) -> None:
        """Stop the server and what runs."""
        super().close()
        self.jobs.close()

    @staticmethod
    def _line(journey: Journey, words: list[str], folder: Path) -> list[str]:
        out = folder / journey.out if journey.out else folder
        return [*journey.words, f"--out={out}", *words]


def _handler(page: JourneyPage) -> type[LocalHandler]:
    class Handler(LocalHandler):
        def get(self, path: str) -> None:
            if path.startswith("/result/"):
                self._result(path.removeprefix("/result/"))
            else:
                self.answer_for(page, path)

        def post(self, path: str) -> None:
            values = dict(parse_qsl(self.query, keep_blank_values=True))
            _, action, name = (path + "/").split("/")[:3]
            try:
                if action == "start":
                    page.start(name, values)
                elif action == "stop":
                    page.job(name).stop()
                elif action == "resume":
                    page.jobs.run(page.job(name))
                else:
                    raise OptionError(path, "start, stop or resume", "Reload the page")
            except PhysadvError as error:
                self.answer(400, "text/plain; charset=utf-8", f"{error}\n".encode())
            else:
                self.answer(200, "text/plain", b"done\n")

        def _result(self, number: str) -> None:
            try:
                kind, body = page.result(number)
            except (PhysadvError, OSError) as error:
                self.answer(404, "text/plain; charset=utf-8", f"{error}\n".encode())
            else:
                self.answer(200, kind, body)

    return Handler
