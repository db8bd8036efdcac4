"""``physadv ui``: forms of every option, the command line made of them, and runs over HTTP."""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlencode, urlsplit

import pytest
import typer.main
from commandline import environment
from small_commands import write_inputs
from typer.testing import CliRunner

from physadv.core.errors import OptionError
from physadv_cli.main import app
from physadv_cli.ui.forms import JOURNEYS, command_of, form_fields, typed_words
from physadv_cli.ui.jobs import Job
from physadv_cli.ui.server import JourneyPage

ROOT_COMMAND: Any = typer.main.get_command(app)


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JourneyPage]:
    """A page served from a folder with small inputs."""
    write_inputs(tmp_path)
    monkeypatch.chdir(tmp_path)
    for name, value in environment().items():
        monkeypatch.setenv(name, value)
    served = JourneyPage(0, ROOT_COMMAND)
    yield served
    served.close()


def get(page: JourneyPage, path: str) -> bytes:
    with urllib.request.urlopen(page.address + path) as answer:
        return bytes(answer.read())


def post(page: JourneyPage, path: str) -> tuple[int, str]:
    try:
        request = urllib.request.Request(page.address + path, method="POST")
        with urllib.request.urlopen(request) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def ended(page: JourneyPage) -> dict[str, Any]:
    """The newest run, once it has ended."""
    for _ in range(600):
        newest: dict[str, Any] = json.loads(get(page, "state.json"))[0]
        if newest["state"] != "running":
            return newest
        time.sleep(0.2)
    raise AssertionError("it did not end")


@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda journey: journey.name)
def test_a_form_has_every_option_of_its_command(journey: Any) -> None:
    """Apart from those of a terminal; what is left as it is becomes no word."""
    command = command_of(ROOT_COMMAND, journey.words)
    first, others = form_fields(command, journey.first)
    assert [field.name for field in first] == list(journey.first)
    terminal = {"out", "json", "quiet", "verbose", "config", "serve", "window", "trust", "shard"}
    options = {p.name for p in command.params if not getattr(p, "hidden", False)}
    assert {field.name for field in (*first, *others)} == options - terminal - {"help"}

    defaults = {field.name: field.default for field in (*first, *others)}
    needed = {field.name: "x" for field in (*first, *others) if field.required}
    words = typed_words(command, {**defaults, **needed})
    assert not [word for word in words if word not in ("--", "x") and not word.endswith("=x")]


def test_what_was_typed_is_no_option() -> None:
    """A value that begins with dashes stays the value of its field; unknown fields are refused."""
    command = command_of(ROOT_COMMAND, ("print",))
    words = typed_words(command, {"bundle": "--overwrite", "paper": "--json", "test_signs": "yes"})
    assert sorted(words[:-2]) == ["--paper=--json", "--test-signs"]
    assert words[-2:] == ["--", "--overwrite"]
    with pytest.raises(OptionError, match="none of this form"):
        typed_words(command, {"bundle": "x", "out": "/etc/passwd"})
    with pytest.raises(OptionError, match="needed"):
        typed_words(command, {})


def test_a_field_with_few_values_is_a_choice() -> None:
    """Its values are those of the option, its default among them; others are refused; what may
    have other values is a text with suggestions."""
    fields = {
        field.name: field
        for part in form_fields(command_of(ROOT_COMMAND, ("cloak",)), ())
        for field in part
    }
    assert (fields["mode"].kind, fields["mode"].choices) == ("choice", ("low", "mid", "high"))
    assert (fields["device"].kind, fields["device"].default) == ("text", "auto")
    assert "cuda" in fields["device"].choices
    command = command_of(ROOT_COMMAND, ("cloak",))
    assert "--mode=low" in typed_words(command, {"photos": "a.jpg", "mode": "low"})
    with pytest.raises(OptionError, match="low, mid, high"):
        typed_words(command, {"photos": "a.jpg", "mode": "--json"})


def test_only_who_knows_the_token_is_answered(page: JourneyPage) -> None:
    """Neither the page nor a start without the token, nor for another origin."""
    port = page.address.split(":")[2].split("/")[0]
    for request in (
        urllib.request.Request(f"http://127.0.0.1:{port}/"),
        urllib.request.Request(f"http://127.0.0.1:{port}/start/print?bundle=x", method="POST"),
        urllib.request.Request(
            page.address + "stop/0", method="POST", headers={"Origin": "http://x"}
        ),
    ):
        with pytest.raises(HTTPError) as refused:
            urllib.request.urlopen(request)
        assert refused.value.code == 403
    assert page.state() == []


def test_a_form_runs_its_command_and_shows_the_report(page: JourneyPage) -> None:
    """What is missing is told; a run ends, its words are those of the command line, its report is
    served; what does not exist is refused."""
    assert post(page, "start/evaluate?model=own:make")[0] == 400
    values = {"model": "own:make", "data": "data.npz", "threat": "linf:8/255", "limit": "4"}
    assert post(page, f"start/evaluate?{urlencode(values)}") == (200, "done\n")
    assert post(page, f"start/evaluate?{urlencode(values)}")[0] == 400  # one at a time
    run = ended(page)
    assert run["state"] == "finished", run["lines"]
    assert run["words"].startswith("physadv evaluate --out=runs/")
    assert b"Robust accuracy of own:make" in get(page, "result/0")
    for path in ("result/1", "result/..", "nothing"):
        with pytest.raises(HTTPError):
            get(page, path)
    assert b"<script nonce=" in get(page, "")


ODD_TARGETS = [
    f"/TOKEN/stop/{'1' * 5000}",
    f"/TOKEN/resume/{'9' * 5000}",
    "/TOKEN/stop/\u0663".encode().decode("latin-1"),
    "/TOKEN/stop/-1",
    "/TOKEN/stop",
    "/TOKEN",
    "/TOKEN/start/[?a=[",
    "/TOKEN/start/print?bundle=%00",
    "/TOKEN/start/print?bundle=x&out=%2Fetc%2Fx",
    "/TOKEN/start/print?bundle=x&config=%2Fetc%2Fx",
    "/TOKEN/result/../../../etc/passwd",
    "http://[",
    "http://127.0.0.1/TOKEN/stop/0",
    "start",
    "*",
]


@pytest.mark.parametrize("target", ODD_TARGETS, ids=range(len(ODD_TARGETS)))
def test_a_request_for_anything_else_is_refused(
    page: JourneyPage, capfd: pytest.CaptureFixture[str], target: str
) -> None:
    """Even of who knows the token: numbers without end, other forms of an address, null
    characters. Nothing is printed, nothing runs, and no folder is left in runs/."""
    for method in ("GET", "POST"):
        with socket.create_connection(("127.0.0.1", page.port), timeout=20) as connection:
            head = f"{method} {target} HTTP/1.1\r\nHost: 127.0.0.1:{page.port}\r\n"
            head = head.replace("TOKEN", page.token) + f"X-Token: {page.token}\r\n\r\n"
            connection.sendall(head.encode("latin-1"))
            assert connection.recv(1 << 12).split()[1] in (b"400", b"403", b"404")
    assert page.state() == []
    assert list(Path("runs").glob("*")) == []
    assert capfd.readouterr().err == ""


def test_a_command_that_begins_nothing_leaves_no_folder(page: JourneyPage) -> None:
    """As at a terminal, where a wrong name leaves none."""
    assert post(page, "start/print?bundle=nowhere")[0] == 200
    assert ended(page)["state"] == "failed"
    for _ in range(50):
        if not list(Path("runs").iterdir()):
            return
        time.sleep(0.1)
    raise AssertionError(list(Path("runs").iterdir()))


@pytest.mark.slow
def test_a_stopped_sticker_goes_on(page: JourneyPage) -> None:
    """Stop ends it as Ctrl-C does, with the best so far; resume is the same command."""
    values = {"steps": "4000", "draws": "4", "test_draws": "4", "force": "yes"}
    assert post(page, f"start/sticker?{urlencode(values)}")[0] == 200
    for _ in range(600):
        if "optimizing" in json.loads(get(page, "state.json"))[0]["last"]:
            break
        time.sleep(0.2)
    time.sleep(2)
    post(page, "stop/0")
    assert ended(page)["state"] == "stopped"
    assert post(page, "resume/0")[0] == 200
    assert json.loads(get(page, "state.json"))[0]["state"] == "running"


def test_no_other_user_sees_the_token_of_a_page_that_is_opened(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The words that a browser is started with are everybody's to see; a file leads it there, in a
    folder of the user's alone, which goes with the page."""
    opened = []

    def browser(address: str) -> None:
        file = Path(unquote(urlsplit(address).path))
        opened.append((address, file, file.read_text(), file.parent.stat().st_mode & 0o777))
        raise KeyboardInterrupt

    monkeypatch.setattr("webbrowser.open", browser)
    monkeypatch.chdir(tmp_path)
    shown = CliRunner().invoke(app, ["ui", "--open"]).output
    ((address, file, content, mode),) = opened
    token = content.split("url=")[1].split("/")[3]
    assert len(token) >= 20
    assert token not in address
    assert token in shown.replace("\n", "")
    assert mode == 0o700
    assert not file.parent.exists()


def test_a_password_that_was_typed_into_a_form_is_not_shown_again(page: JourneyPage) -> None:
    """Nor are marks that reorder what a person reads."""
    words = ("check", "--", "rtsp://me:geheim@127.0.0.1:9/x", "a\u202eb")
    page.jobs.run(Job("Check it", words, Path("runs")))
    told = get(page, "state.json").decode()
    assert "127.0.0.1:9" in told
    assert "geheim" not in told
    assert "\\u202e" not in told.replace("\\\\u202e", "")
