"""Models that only answer: behind an HTTP address, or behind a command.

A black box gets images as PNG (8 bits a channel) and answers with scores or labels; it has no
gradient. Requests are batched, repeated where the line fails, and counted against a budget.
``docs/black_box.md`` documents what is sent and what is expected.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import shlex
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

import torch
from torch import Tensor, nn

from physadv.core.addresses import public_address
from physadv.core.errors import ModelError
from physadv.core.files import write_bytes
from physadv.core.image_io import png_bytes, to_uint8
from physadv.core.parsing import parse_json
from physadv.core.tables import convert_value, read_table
from physadv.core.trust import assert_may_run

COMMAND = "command:"
_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_MOST_ANSWER = 1 << 24
_LONGEST_WAIT = 60.0
_MOST_CLASSES = 100_000
_OF_ONE_VALUE = {"probability": "probabilities", "logit": "logits"}
"""What a box of one value returns, once it is written as two scores."""
Outputs = Literal["probabilities", "logits", "labels"]


@dataclass(frozen=True, kw_only=True)
class BlackBoxSettings:
    """How a black box is asked.

    Args:
        url: Address that takes the images; empty for a command.
        command: Command line with ``{image}`` for one PNG file or ``{images}`` for several; with
            neither, the PNG is written to its standard input. It is run without a shell.
        classes: Names of the classes in the order of the scores; empty where the box states them,
            or where they are numbers.
        input_size: Height and width in px that images are brought to before they are sent; empty
            for their own size.
        outputs: "probabilities", "logits" or "labels"; "probability" or "logit" for one value, that
            of the second of two classes; empty for what the box states, else probabilities.
        batch: Images in one request.
        timeout_s: Seconds that a request may take.
        retries: How often a request is repeated where the line fails or the box is busy.
        per_second: Largest number of requests a second; 0 for no limit.
        budget: Largest number of images that are sent; 0 for no limit.
        token_env: Environment variable whose value is sent as a bearer token; empty for none.
    """

    url: str = ""
    command: str = ""
    classes: tuple[str, ...] = ()
    input_size: tuple[int, ...] = ()
    outputs: Literal["probabilities", "logits", "labels", "probability", "logit", ""] = ""
    batch: int = 32
    timeout_s: float = 30.0
    retries: int = 3
    per_second: float = 0.0
    budget: int = 0
    token_env: str = ""


@dataclass(frozen=True)
class _Answer:
    """Answer of a box: exactly one of the two, and what it said of its classes."""

    scores: list[list[float]] | None = None
    labels: list[str | int] | None = None
    classes: list[str] | None = None
    outputs: str | None = None


class _Line(ABC):
    """Way to a box."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """Return what the box states about itself; empty where it states nothing."""

    @abstractmethod
    def ask(self, pngs: Sequence[bytes]) -> _Answer:
        """Return the answer to some images."""


class AskedModel(nn.Module):
    """A model without a gradient, whose queries are counted.

    Args:
        name: Name in errors and on the card.
        budget: Largest number of images that it is asked about; 0 for no limit.
        outputs: What it returns: "probabilities", "logits" or "labels"; empty where not known.

    Attributes:
        sent: Images that it was asked about.
    """

    def __init__(self, name: str, *, budget: int = 0, outputs: str = "") -> None:
        super().__init__()
        self.name, self.budget, self.outputs = name, budget, outputs
        self.sent = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return the model itself: copies would count queries apart."""
        return self


class BlackBox(AskedModel):
    """A model that is asked instead of computed.

    Its output carries no gradient. ``sent`` counts the images sent so far.

    Args:
        name: Name in errors and on the card.
        settings: How it is asked.

    Raises:
        ModelError: It cannot be reached, or answers otherwise than documented.
    """

    def __init__(self, name: str, settings: BlackBoxSettings) -> None:
        super().__init__(
            name,
            budget=settings.budget,
            outputs=_OF_ONE_VALUE.get(settings.outputs, settings.outputs),
        )
        _check_settings(name, settings)
        self.settings = settings
        self.line: _Line = _HttpLine(settings) if settings.url else _CommandLine(settings, name)
        self._next_request = 0.0
        stated = self.line.describe()
        self.classes = settings.classes or tuple(map(str, stated.get("classes") or ()))
        self.outputs = self.outputs or str(stated.get("outputs") or "")
        self.input_size = settings.input_size or tuple(stated.get("input_size") or ())

    def forward(self, images: Tensor) -> Tensor:
        """Ask for images (b, c, h, w) in [0, 1], rounded to 8 bits.

        Returns:
            Scores (b, classes); for labels, 1 for the class answered and 0 for all others.

        Raises:
            ModelError: The budget is spent, the box cannot be reached, or its answer is not as
                documented.
        """
        pngs = [png_bytes(to_uint8(image.detach().cpu())) for image in images]
        batch = self.settings.batch
        rows = [
            row
            for start in range(0, len(pngs), batch)
            for row in self._scores(pngs[start : start + batch])
        ]
        return torch.tensor(rows, dtype=torch.float32, device=images.device)

    def _scores(self, pngs: Sequence[bytes]) -> list[list[float]]:
        if self.budget and self.sent + len(pngs) > self.budget:
            raise ModelError(
                f"{public_address(self.name)}: {self.sent} images were sent",
                f"The budget is {self.budget} queries",
                "Raise it, or attack fewer images or with fewer steps",
            )
        answer = self._repeated(pngs)
        self.sent += len(pngs)
        if answer.classes and not self.classes:
            self.classes = tuple(answer.classes)
        if not self.outputs:
            self.outputs = answer.outputs or ("labels" if answer.labels else "probabilities")
        if answer.labels is not None:
            return self._one_hot(answer.labels, len(pngs))
        return self._checked(answer.scores or [], len(pngs))

    def _repeated(self, pngs: Sequence[bytes]) -> _Answer:
        """The answer, asked again where the line failed."""
        for attempt in range(self.settings.retries + 1):
            self._wait_turn()
            try:
                return self.line.ask(pngs)
            except _LineError as failure:
                if attempt == self.settings.retries:
                    raise ModelError(
                        f"{public_address(self.name)}",
                        f"It gave no answer in {attempt + 1} attempts ({failure})",
                        "Check that it runs, or raise its timeout_s or retries",
                    ) from failure
                wait = failure.wait_s if failure.wait_s is not None else 0.2 * 2**attempt
                time.sleep(min(wait, _LONGEST_WAIT))
        raise AssertionError("unreachable")

    def _wait_turn(self) -> None:
        """Sleep until the rate allows another request."""
        if self.settings.per_second <= 0:
            return
        now = time.monotonic()
        time.sleep(max(0.0, self._next_request - now))
        self._next_request = max(now, self._next_request) + 1 / self.settings.per_second

    def _one_hot(self, labels: Sequence[str | int], count: int) -> list[list[float]]:
        if len(labels) != count:
            raise self._wrong(f"{len(labels)} labels for {count} images")
        if not self.classes:
            raise ModelError(
                f"{public_address(self.name)} answers with labels",
                "Its classes must be known",
                "Give classes = [...] in a file, and name that file as the model",
            )
        plain = {name: i for i, name in enumerate(self.classes)}
        rows = []
        for label in labels:
            index = plain.get(str(label), label if isinstance(label, int) else -1)
            if not 0 <= index < len(self.classes):
                raise self._wrong(f"the label {str(label)[:80]!r}, which is none of its classes")
            rows.append([float(i == index) for i in range(len(self.classes))])
        return rows

    def _checked(self, scores: Sequence[Sequence[float]], count: int) -> list[list[float]]:
        if len(scores) != count:
            raise self._wrong(f"{len(scores)} rows of scores for {count} images")
        if self.settings.outputs in _OF_ONE_VALUE:
            scores = [self._of_two(row) for row in scores]
        width = len(self.classes) or len(scores[0])
        if any(len(row) != width for row in scores):
            raise self._wrong(f"{len(scores[0])} scores an image, where it has {width} classes")
        if not 2 <= width <= _MOST_CLASSES:
            raise self._wrong(f"{width} scores an image; 2 to {_MOST_CLASSES} are needed")
        rows = [list(map(float, row)) for row in scores]
        outside = any(not -1e-6 <= value <= 1 + 1e-6 for row in rows for value in row)
        if self.outputs == "probabilities" and outside:
            raise ModelError(
                f"{public_address(self.name)}",
                "Its scores are taken for probabilities, and lie outside of [0, 1]",
                'Give --outputs logits, or outputs = "logits" in its description or file',
            )
        return rows

    def _of_two(self, row: Sequence[float]) -> list[float]:
        """Scores of two classes for a row that has the value of the second alone."""
        if len(row) != 1:
            raise self._wrong(f"{len(row)} scores an image, where one is stated")
        return [1 - row[0] if self.outputs == "probabilities" else 0.0, row[0]]

    def _wrong(self, said: str) -> ModelError:
        return ModelError(
            f"{public_address(self.name)} answered {said}",
            "A row of scores or one label an image is needed",
            "See docs/black_box.md",
        )


@dataclass
class _LineError(Exception):
    """A request failed in a way that may pass."""

    reason: str
    wait_s: float | None = None

    def __str__(self) -> str:
        return self.reason


@dataclass
class _HttpLine(_Line):
    """A box behind an HTTP address, on one connection that is kept open."""

    settings: BlackBoxSettings
    connection: http.client.HTTPConnection | None = field(default=None, repr=False)

    def describe(self) -> dict[str, Any]:
        """Return the JSON of a GET; empty where the address takes no GET."""
        try:
            status, body, _ = self._request("GET", None)
        except _LineError as failure:
            raise ModelError(
                public_address(self.settings.url),
                f"It cannot be reached ({failure})",
                "Check the address, and that the server runs",
            ) from failure
        if status != 200:
            return {}
        table = parse_json(_text(body), public_address(self.settings.url), error=ModelError)
        if not isinstance(table, dict):
            return {}
        stated = {k: table[k] for k in ("classes", "outputs", "input_size") if k in table}
        convert_value(stated, _Stated, name=public_address(self.settings.url), error=ModelError)
        return stated

    def ask(self, pngs: Sequence[bytes]) -> _Answer:
        """POST the images as JSON and read the JSON of the answer."""
        images = [base64.b64encode(png).decode() for png in pngs]
        status, body, wait = self._request("POST", json.dumps({"images": images}).encode())
        if status in (408, 425, 429) or status >= 500:
            raise _LineError(f"HTTP {status}", wait)
        if status != 200:
            raise ModelError(
                public_address(self.settings.url),
                f"It answered with HTTP {status}",
                "Check the address, and that it takes what docs/black_box.md describes",
            )
        return _read_answer(body, public_address(self.settings.url))

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
            raise _LineError(_in_words(error)) from error

    def _close(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection = None


@dataclass(frozen=True)
class _Stated:
    """What a box may state about itself."""

    classes: tuple[str, ...] = ()
    outputs: Literal["probabilities", "logits", "labels"] = "probabilities"
    input_size: tuple[
        Annotated[int, "px"],
        ...,
    ] = ()


@dataclass
class _CommandLine(_Line):
    """A box behind a command that runs once a request."""

    settings: BlackBoxSettings
    name: str

    def describe(self) -> dict[str, Any]:
        """Return nothing: a command says what it is when it answers."""
        return {}

    def ask(self, pngs: Sequence[bytes]) -> _Answer:
        """Run the command on the images: all at once with ``{images}``, else one by one."""
        words = shlex.split(self.settings.command)
        with tempfile.TemporaryDirectory(prefix="physadv-") as folder:
            files = [
                str(write_bytes(Path(folder) / f"{i:06d}.png", png)) for i, png in enumerate(pngs)
            ]
            if any("{images}" in word for word in words):
                spread = [f for w in words for f in (files if w == "{images}" else [w])]
                return self._run(spread, b"", len(pngs))
            answers = [
                self._run([w.replace("{image}", file) for w in words], png, 1)
                if any("{image}" in w for w in words)
                else self._run(words, png, 1)
                for file, png in zip(files, pngs, strict=True)
            ]
        if all(a.scores is not None for a in answers):
            scores = [row for a in answers for row in a.scores or []]
            return _Answer(scores=scores, classes=answers[0].classes, outputs=answers[0].outputs)
        labels = [label for a in answers for label in a.labels or []]
        return _Answer(labels=labels, classes=answers[0].classes)

    def _run(self, words: Sequence[str], stdin: bytes, count: int) -> _Answer:
        try:
            done = subprocess.run(
                words,
                input=stdin,
                capture_output=True,
                timeout=self.settings.timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise _LineError(f"no answer in {self.settings.timeout_s:g} s") from error
        except OSError as error:
            raise ModelError(
                f"{self.name}", f"It cannot be run ({_in_words(error)})", "Check the command"
            ) from error
        if done.returncode:
            said = done.stderr.decode("utf-8", "replace").strip().splitlines()[-1:]
            raise ModelError(
                f"{self.name}",
                f"It ended with status {done.returncode} ({(said or ['no message'])[0][:160]})",
                "Run it on one PNG by hand",
            )
        if len(done.stdout) > _MOST_ANSWER:
            raise ModelError(f"{self.name}", "Its answer is too long", "Print the scores alone")
        text = done.stdout.decode("utf-8", "replace").strip()
        if text[:1] not in ("{", "["):
            return _Answer(labels=[*text.splitlines()[-count:]])
        return _read_answer(text.encode(), self.name)


def _read_answer(body: bytes, name: str) -> _Answer:
    """The answer in JSON: {"scores": rows} or {"labels": list}, or rows or one row alone."""
    value = parse_json(_text(body), name, error=ModelError)
    if isinstance(value, list):
        value = {"scores": value}
    value = value if isinstance(value, dict) else {}
    if "label" in value and "labels" not in value:
        value = {**value, "labels": [value["label"]]}
    known = {k: value[k] for k in ("scores", "labels", "classes", "outputs") if k in value}
    scores = known.get("scores")
    if isinstance(scores, list) and scores and not isinstance(scores[0], list):
        known["scores"] = [scores]
    answer: _Answer = convert_value(known, _Answer, name=name, error=ModelError)
    if (answer.scores is None) == (answer.labels is None):
        raise ModelError(
            f"{name} answered with {', '.join(sorted(map(str, value))[:5]) or 'nothing'}",
            'One of "scores" and "labels" is needed',
            "See docs/black_box.md",
        )
    return answer


def _text(body: bytes) -> str:
    """An answer as text; what is no UTF-8 is no JSON either, and refused there."""
    return body.decode("utf-8", "replace")


def _in_words(error: BaseException) -> str:
    if isinstance(error, TimeoutError | socket.timeout):
        return "no answer in time"
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:160]


def _check_settings(name: str, settings: BlackBoxSettings) -> None:
    """Raise ModelError for settings that cannot be used."""
    if bool(settings.url) == bool(settings.command):
        raise ModelError(f"{name}", "Either url or command is needed", "Give one of them")
    if settings.command:
        try:
            words = shlex.split(settings.command)
        except ValueError as error:
            raise ModelError(
                f"{name}", f"Its quotes do not match ({error})", "Correct it"
            ) from error
        if not words:
            raise ModelError(f"{name}", "The command is empty", "Give a command")
    elif not urlsplit(settings.url).hostname:
        raise ModelError(public_address(name), "The address names no host", "Correct it")
    limits = {"batch": 1, "timeout_s": 0.001, "retries": 0, "per_second": 0, "budget": 0}
    for key, least in limits.items():
        if not getattr(settings, key) >= least:
            raise ModelError(f"{name}: {key}", f"At least {least:g} is needed", "Correct it")
    if len(settings.input_size) not in (0, 2) or any(
        not 1 <= v <= 8192 for v in settings.input_size
    ):
        raise ModelError(f"{name}: input_size", "Height and width in px are needed", "Correct it")


def names_a_black_box(text: str) -> bool:
    """Return whether ``text`` is an http(s) address or begins with ``command:``.

    Example:
        >>> names_a_black_box("http://127.0.0.1:8080/predict"), names_a_black_box("signs")
        (True, False)
    """
    return bool(_ADDRESS.match(text)) or text.startswith(COMMAND)


def open_black_box(
    text: str, stated: Mapping[str, Any] | None = None
) -> tuple[BlackBox, dict[str, Any]]:
    """Open the black box that ``text`` names.

    Args:
        text: An http(s) address, ``command:`` with a command line, or a TOML file with the fields
            of :class:`BlackBoxSettings`.
        stated: Fields of it that hold in place of those of the file and of what the box says.

    Returns:
        The box, and the entries of its card.

    Raises:
        ModelError: It may not be asked, cannot be reached, or the settings cannot be used.
    """
    if _ADDRESS.match(text):
        table: dict[str, Any] = {"url": text}
    elif text.startswith(COMMAND):
        table = {"command": text.removeprefix(COMMAND)}
    else:
        table = read_table(Path(text), error=ModelError, remedy="Correct the file")
    settings: BlackBoxSettings = convert_value(
        {**table, **(stated or {})}, BlackBoxSettings, name=public_address(text), error=ModelError
    )
    assert_may_run(text, "address" if settings.url else "command")

    box = BlackBox(text, settings)
    if not box.classes:
        # One question tells how many classes there are: their names are numbers then.
        side = box.input_size or (64, 64)
        box.classes = tuple(map(str, range(box(torch.full((1, 3, *side), 0.5)).shape[1])))
    if not box.outputs:
        box(torch.full((1, 3, *(box.input_size or (64, 64))), 0.5))
    entries = {
        "classes": box.classes,
        "outputs": "logits" if box.outputs == "logits" else "probabilities",
        "black_box": box.outputs,
        **({"input_size": box.input_size} if box.input_size else {}),
    }
    return box, entries


def black_box_within(model: nn.Module) -> AskedModel | None:
    """Return the black box that ``model`` asks, None where it asks none.

    Args:
        model: Any model.
    """
    return next((part for part in model.modules() if isinstance(part, AskedModel)), None)
