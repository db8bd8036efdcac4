"""Connections to black boxes: an HTTP address, a command run anew, and a command kept running."""

from __future__ import annotations

import base64
import http.client
import json
import os
import queue
import re
import shlex
import socket
import subprocess
import tempfile
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Annotated, Any, Literal
from urllib.parse import urlsplit

from physadv.core.addresses import public_address
from physadv.core.errors import ModelError
from physadv.core.files import remove_file
from physadv.core.parsing import parse_json
from physadv.core.tables import convert_value
from physadv.models.black_box_answers import BoxAnswer, joined_answers, read_answer, text_of
from physadv.models.black_box_settings import IMAGE, IMAGES, LINES, BlackBoxSettings

_MOST_ANSWER = 1 << 24
_LONGEST_LINE = 1 << 16
"""Bytes of a complaint that are kept in one piece."""
_START_S = 300.0
"""Seconds that a command which is kept running may take for its first answer, at least."""
_END_S = 2.0
"""Seconds that it may take to end once its standard input has."""
_BY_HAND = "Run it on one PNG by hand"


@dataclass
class RequestError(Exception):
    """A request failed in a way that may pass.

    Attributes:
        reason: What happened.
        wait_s: Seconds after which the box wants to be asked again; None where it does not say.
    """

    reason: str
    wait_s: float | None = None

    def __str__(self) -> str:
        return self.reason


class BoxConnection(ABC):
    """Way to a black box."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the box states about itself; empty where it states nothing."""

    @abstractmethod
    def ask(self, pngs: Sequence[bytes]) -> BoxAnswer:
        """Return the answer to some images."""


def open_connection(settings: BlackBoxSettings, name: str) -> BoxConnection:
    """Return the connection that ``settings`` describe; nothing is asked yet.

    Args:
        settings: An address or a command, checked.
        name: Name of the box in errors.
    """
    if settings.url:
        return HttpConnection(settings)
    if LINES in shlex.split(settings.command):
        return ProcessConnection(settings, name)
    return CommandConnection(settings, name)


@dataclass(frozen=True)
class _Stated:
    """What a box may state about itself."""

    task: Literal["classify", "detect"] = "classify"
    classes: tuple[str, ...] = ()
    outputs: Literal["probabilities", "logits", "labels"] = "probabilities"
    input_size: tuple[
        Annotated[int, "px"],
        ...,
    ] = ()
    score_threshold: float = 0.25


@dataclass
class HttpConnection(BoxConnection):
    """A box behind an HTTP address, on one connection that is kept open."""

    settings: BlackBoxSettings
    connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """Return the JSON of a GET; empty where the address takes no GET."""
        try:
            status, body, _ = self._request("GET", None)
        except RequestError as failure:
            raise ModelError(
                public_address(self.settings.url),
                f"It cannot be reached ({failure})",
                "Check the address, and that the server runs",
            ) from failure
        if status != 200:
            return {}
        table = parse_json(text_of(body), public_address(self.settings.url), error=ModelError)
        if not isinstance(table, dict):
            return {}
        stated = {k: table[k] for k in _Stated.__dataclass_fields__ if k in table}
        convert_value(stated, _Stated, name=public_address(self.settings.url), error=ModelError)
        return stated

    def ask(self, pngs: Sequence[bytes]) -> BoxAnswer:
        """POST the images as JSON and read the JSON of the answer."""
        images = [base64.b64encode(png).decode() for png in pngs]
        status, body, wait = self._request("POST", json.dumps({"images": images}).encode())
        if status in (408, 425, 429) or status >= 500:
            raise RequestError(f"HTTP {status}", wait)
        if status != 200:
            raise ModelError(
                public_address(self.settings.url),
                f"It answered with HTTP {status}",
                "Check the address, and that it takes what docs/black_box.md describes",
            )
        return read_answer(body, public_address(self.settings.url))

    def _request(self, method: str, body: bytes | None) -> tuple[int, bytes, float | None]:
        """Status, body and Retry-After of a request; the connection is opened where needed."""
        address = urlsplit(self.settings.url)
        path = (address.path or "/") + (f"?{address.query}" if address.query else "")
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self.settings.token_env:
            headers["Authorization"] = f"Bearer {os.environ.get(self.settings.token_env, '')}"
        try:
            if self.connection is None:
                kind = http.client.HTTPSConnection if address.scheme.lower() == "https" else None
                opener = kind or http.client.HTTPConnection
                self.connection = opener(
                    address.hostname or "", address.port, timeout=self.settings.timeout_s
                )
            if self.connection.sock is None:
                self.connection.connect()
            with _deadline(self.connection.sock, self.settings.timeout_s):
                self.connection.request(method, path, body, headers)
                reply = self.connection.getresponse()
                content = reply.read(_MOST_ANSWER + 1)
            if len(content) > _MOST_ANSWER:
                raise ModelError(
                    public_address(self.settings.url),
                    f"Its answer is longer than {_MOST_ANSWER} bytes",
                    "Check the address",
                )
            wait = reply.headers.get("Retry-After", "")
            if reply.will_close:
                self._close()
            seconds = float(wait) if re.fullmatch(r"\d{1,6}(\.\d{1,3})?", wait) else None
            return reply.status, content, seconds
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._close()
            raise RequestError(_in_words(error)) from error

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


@contextmanager
def _deadline(connected: socket.socket, seconds: float) -> Iterator[None]:
    """End a request at its time: a socket's own timeout begins anew with every byte that comes.

    Raises:
        TimeoutError: The time is over.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):  # it is closed already
            connected.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    except (OSError, http.client.HTTPException, ValueError):
        if not late.is_set():
            raise
    finally:
        timer.cancel()
    if late.is_set():
        raise TimeoutError


@dataclass
class CommandConnection(BoxConnection):
    """A box behind a command that runs once a request, or once an image."""

    settings: BlackBoxSettings
    name: str

    def describe(self) -> dict[str, Any]:
        """Return nothing: a command says what it is when it answers."""
        return {}

    def ask(self, pngs: Sequence[bytes]) -> BoxAnswer:
        """Run the command on the images: all at once with ``{images}``, else one by one."""
        words = shlex.split(self.settings.command)
        with tempfile.TemporaryDirectory(prefix="physadv-") as folder:
            files = [_written(Path(folder) / f"{i:06d}.png", png) for i, png in enumerate(pngs)]
            if any(IMAGES in word for word in words):
                spread = [f for w in words for f in (files if w == IMAGES else [w])]
                return self._run(spread, b"", len(pngs))
            answers = [
                self._run([w.replace(IMAGE, file) for w in words], png, 1)
                if any(IMAGE in w for w in words)
                else self._run(words, png, 1)
                for file, png in zip(files, pngs, strict=True)
            ]
        return joined_answers(answers)

    def _run(self, words: Sequence[str], stdin: bytes, count: int) -> BoxAnswer:
        try:
            status, printed, complaints = _finished(words, stdin, self.settings.timeout_s)
        except subprocess.TimeoutExpired as error:
            raise RequestError(f"no answer in {self.settings.timeout_s:g} s") from error
        except OSError as error:
            raise _cannot_run(self.name, error) from error
        if len(printed) > _MOST_ANSWER:
            raise ModelError(f"{self.name}", "Its answer is too long", "Print the scores alone")
        if status:
            raise _ended(self.name, status, text_of(complaints).strip().splitlines())
        text = text_of(printed).strip()
        if text[:1] not in ("{", "["):
            return BoxAnswer(labels=[*text.splitlines()[-count:]])
        return read_answer(text.encode(), self.name)


def _finished(words: Sequence[str], stdin: bytes, timeout_s: float) -> tuple[int, bytes, bytes]:
    """Run a command to its end; return its status, what it printed and its last complaints.

    One that prints over ``_MOST_ANSWER`` bytes is ended, so that no endless answer fills the
    memory.

    Raises:
        subprocess.TimeoutExpired: It did not end in time.
    """
    pipes = subprocess.PIPE
    process = subprocess.Popen(words, stdin=pipes, stdout=pipes, stderr=pipes)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    printed, complaints = bytearray(), deque[bytes](maxlen=20)

    def feed(stream: IO[bytes]) -> None:
        with suppress(OSError, ValueError), stream:  # it need not read what it is given
            stream.write(stdin)

    def listen(stream: IO[bytes]) -> None:
        with suppress(OSError, ValueError), stream:
            printed.extend(stream.read(_MOST_ANSWER + 1))
        if len(printed) > _MOST_ANSWER:
            process.kill()

    # Each thread closes its own end: a child of the command may hold the other one for long.
    work = (
        threading.Thread(target=feed, args=(process.stdin,), daemon=True),
        threading.Thread(target=listen, args=(process.stdout,), daemon=True),
        threading.Thread(
            target=_forward, args=(process.stderr, complaints.append, _LONGEST_LINE), daemon=True
        ),
    )
    end = time.monotonic() + timeout_s
    for thread in work:
        thread.start()
    try:
        for thread in work[1:]:
            thread.join(max(0.0, end - time.monotonic()))
        status = process.wait(max(0.0, end - time.monotonic()))
    except BaseException:
        process.kill()
        process.wait()
        raise
    if any(thread.is_alive() for thread in work[1:]):
        raise subprocess.TimeoutExpired(words, timeout_s)
    return status, bytes(printed), b"".join(complaints)


@dataclass
class ProcessConnection(BoxConnection):
    """A box behind a command that is started once: it is given the name of a PNG file a line, and
    answers each with a line."""

    settings: BlackBoxSettings
    name: str
    process: _RunningCommand | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """Return nothing: a command says what it is when it answers."""
        return {}

    def ask(self, pngs: Sequence[bytes]) -> BoxAnswer:
        """Send the names of the images and read a line for each."""
        if self.process is None:
            words = [w for w in shlex.split(self.settings.command) if w != LINES]
            self.process = _RunningCommand(words, self.name, self.settings.timeout_s)
        try:
            return joined_answers([self._answer(png) for png in pngs])
        except BaseException:
            self.process.close()  # lines that are still to come answer nothing asked later
            self.process = None
            raise

    def _answer(self, png: bytes) -> BoxAnswer:
        assert self.process is not None
        text = self.process.exchange(png).strip()
        if text[:1] not in ("{", "["):
            return BoxAnswer(labels=[text])
        return read_answer(text.encode(), self.name)


class _RunningCommand:
    """A command that runs until it is closed, or until nobody holds it any more.

    Args:
        words: Program and arguments.
        name: Name in errors.
        timeout_s: Seconds that an answer may take; the first may take longer.
    """

    def __init__(self, words: Sequence[str], name: str, timeout_s: float) -> None:
        self.name, self.timeout_s, self.answered = name, timeout_s, 0
        self._folder = tempfile.TemporaryDirectory(prefix="physadv-")
        pipes = subprocess.PIPE
        try:
            # In a session of its own: Ctrl-C is for the run, which ends the command in order.
            process = subprocess.Popen(
                words, stdin=pipes, stdout=pipes, stderr=pipes, start_new_session=True
            )
        except OSError as error:
            self._folder.cleanup()
            raise _cannot_run(name, error) from error
        self._process = process
        # One that prints without end waits for its pipe, and fills no memory.
        self._lines: queue.Queue[bytes] = queue.Queue(maxsize=2)
        self._complaints: deque[bytes] = deque(maxlen=20)
        self._readers = [
            threading.Thread(target=_forward, args=(stream, take, longest), daemon=True)
            for stream, take, longest in (
                (process.stdout, self._lines.put, _MOST_ANSWER),
                (process.stderr, self._complaints.append, _LONGEST_LINE),
            )
        ]
        for reader in self._readers:
            reader.start()
        self.close = weakref.finalize(self, _end, process, self._folder)

    @property
    def status(self) -> int | None:
        """How the command has ended; None while it runs."""
        return self._process.poll()

    def exchange(self, png: bytes) -> str:
        """Return the line that answers an image.

        Raises:
            RequestError: No answer came in time.
            ModelError: The command has ended, or printed more than was asked.
        """
        file = _written(Path(self._folder.name) / f"{self.answered:08d}.png", png)
        if not self._lines.empty():
            unasked = self._lines.get()
            if not unasked:
                raise self._ended()
            said = f"{self.name} printed {text_of(unasked).strip()[:80]!r} unasked"
            raise ModelError(said, "One line an image is expected, and nothing else", _BY_HAND)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(os.fsencode(file) + b"\n")
            self._process.stdin.flush()
            line = self._lines.get(timeout=self._patience())
        except queue.Empty as error:
            words = f"no line in {self._patience():g} s; does it flush its output?"
            raise RequestError(words) from error
        except OSError as error:  # a broken pipe
            raise self._ended() from error
        if not line:
            raise self._ended()
        remove_file(Path(file))
        self.answered += 1
        return text_of(line)

    def _patience(self) -> float:
        return self.timeout_s if self.answered else max(self.timeout_s, _START_S)

    def _ended(self) -> ModelError:
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_S)
        for reader in self._readers:  # its last words may still be on their way
            reader.join(_END_S)
        said = [text_of(line).strip() for line in self._complaints]
        return _ended(self.name, self._process.poll(), [line for line in said if line])


def _written(file: Path, png: bytes) -> str:
    """Write a picture that nobody keeps, without waiting for the disk, and return its name."""
    file.write_bytes(png)
    return str(file)


def _forward(stream: IO[bytes], take: Any, longest: int) -> None:
    """Hand the lines of a stream on, in parts of ``longest`` bytes, and nothing at its end."""
    with suppress(OSError, ValueError), stream:
        while line := stream.readline(longest):
            take(line)
    take(b"")


def _end(process: subprocess.Popen[bytes], folder: tempfile.TemporaryDirectory[str]) -> None:
    """End a command by the end of its input, or by force, and remove its pictures."""
    with suppress(OSError, ValueError):
        if process.stdin is not None:
            process.stdin.close()
    try:
        process.wait(_END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    folder.cleanup()


def _cannot_run(name: str, error: OSError) -> ModelError:
    return ModelError(f"{name}", f"It cannot be run ({_in_words(error)})", "Check the command")


def _ended(name: str, status: int | None, said: Sequence[str]) -> ModelError:
    """The error of a command that has ended; ``said`` are the last lines of its complaints."""
    words = (said[-1] if said else "no message")[:160]
    return ModelError(f"{name}", f"It ended with status {status} ({words})", _BY_HAND)


def _in_words(error: BaseException) -> str:
    if isinstance(error, TimeoutError | socket.timeout):
        return "no answer in time"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
