"""Settings of a black box: where it is asked, what it answers, and how often it may be asked."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from physadv.core.addresses import public_address
from physadv.core.errors import ModelError

IMAGE, IMAGES, LINES = "{image}", "{images}", "{lines}"
"""Words of a command: one picture a run, a batch a run, and one run for all of them."""


@dataclass(frozen=True, kw_only=True)
class BlackBoxSettings:
    """How a black box is asked.

    Args:
        url: Address that takes the images; empty for a command.
        command: Command line, run without a shell: once an image with ``{image}`` for its PNG file,
            once a batch with ``{images}`` for several, once in all with ``{lines}``, which is left
            out: it gets the name of a PNG file a line on its standard input and answers each with a
            line. With none of them it is run once an image, with the PNG on its standard input.
        task: "classify" or "detect"; empty for what the box states or answers.
        classes: Names of the classes in the order of the scores; empty where the box states them,
            or where they are numbers.
        input_size: Height and width in px that images are brought to before they are sent; empty
            for their own size.
        outputs: Of a classifier "probabilities", "logits" or "labels"; "probability" or "logit" for
            one value, that of the second of two classes; empty for what the box states, else
            probabilities.
        score_threshold: Score from which a detector's box counts; 0 for what the box states, else
            0.25.
        batch: Images in one request.
        timeout_s: Seconds that a request may take.
        retries: How often a request is repeated where the connection fails or the box is busy.
        per_second: Largest number of requests a second; 0 for no limit.
        budget: Largest number of images that are sent; 0 for no limit.
        token_env: Environment variable whose value is sent as a bearer token; empty for none.
    """

    url: str = ""
    command: str = ""
    task: Literal["classify", "detect", ""] = ""
    classes: tuple[str, ...] = ()
    input_size: tuple[int, ...] = ()
    outputs: Literal["probabilities", "logits", "labels", "probability", "logit", ""] = ""
    score_threshold: float = 0.0
    batch: int = 32
    timeout_s: float = 30.0
    retries: int = 3
    per_second: float = 0.0
    budget: int = 0
    token_env: str = ""


def check_settings(name: str, settings: BlackBoxSettings) -> None:
    """Check that a black box can be asked with ``settings``; ``name`` is what errors call it.

    Raises:
        ModelError: There is not one of address and command, or a value is out of range.
    """
    if bool(settings.url) == bool(settings.command):
        raise ModelError(f"{name}", "Either url or command is needed", "Give one of them")
    if settings.command:
        _check_command(name, settings.command)
    elif not urlsplit(settings.url).hostname:
        raise ModelError(public_address(name), "The address names no host", "Correct it")
    limits = {"batch": 1, "timeout_s": 0.001, "retries": 0, "per_second": 0, "budget": 0}
    for key, least in limits.items():
        if not getattr(settings, key) >= least:
            raise ModelError(f"{name}: {key}", f"At least {least:g} is needed", "Correct it")
    if not 0 <= settings.score_threshold < 1:
        raise ModelError(f"{name}: score_threshold", "It lies between 0 and 1", "Correct it")
    if len(settings.input_size) not in (0, 2) or any(
        not 1 <= v <= 8192 for v in settings.input_size
    ):
        raise ModelError(f"{name}: input_size", "Height and width in px are needed", "Correct it")


def _check_command(name: str, command: str) -> None:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise ModelError(f"{name}", f"Its quotes do not match ({error})", "Correct it") from error
    if not [word for word in words if word != LINES]:
        raise ModelError(f"{name}", "The command is empty", "Give a command")
