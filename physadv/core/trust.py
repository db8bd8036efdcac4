"""Rule of what may run: code that the user names, never code that a file names.

Code is ``module:factory``, TorchScript, ``torch.export``, the pickles of ultralytics, and models
behind a command or an address. Whatever
loads it calls :func:`assert_may_run` first. From Python, the caller has named it. The command line
enters :func:`only_code_named`, so that there only what stands on the command line itself runs;
``PHYSADV_TRUST=never`` forbids all of it, everywhere.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

from physadv.core.errors import ModelError

VARIABLE = "PHYSADV_TRUST"
"""Environment variable that forbids all code where it is ``never``."""
KINDS = {
    "module": "Python code, which runs with your rights",
    "torchscript": "TorchScript: code, which can read and write files with your rights",
    "exported": "a torch.export program: code, vetted to consist of torch's own operations",
    "ultralytics": "a pickle of ultralytics: code, which runs with your rights",
    "command": "a command, which runs with your rights",
    "address": "an address, which every picture is sent to",
}
"""What each kind of code is, for people."""


@dataclass(frozen=True)
class _Rule:
    """What may run: names from the command line, and what to do when one of them runs."""

    names: frozenset[str]
    in_files: Mapping[str, str]
    announce: Callable[[str], None] | None
    announced: set[str] = field(default_factory=set)


_rule: ContextVar[_Rule | None] = ContextVar("physadv_code", default=None)


@contextmanager
def only_code_named(
    names: Collection[str] = (),
    *,
    in_files: Mapping[str, str] | None = None,
    announce: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Let only the code run that stands on the command line.

    Args:
        names: Values of options that may name code: ``NAME``, ``NAME+defense`` or ``NAME=FILE``.
        in_files: Names that were read from a file instead, with that file, for errors.
        announce: Called with one line for each code that runs; None for silence.

    Yields:
        Nothing; the rule before applies again afterwards.

    Example:
        >>> with only_code_named(["my_models:make+jpeg"]):
        ...     assert_may_run("my_models:make", "module")
        ...     assert_may_run("other:make", "module")
        Traceback (most recent call last):
        physadv.core.errors.ModelError: "other:make" is Python code, which runs with your rights: \
Code runs only where the command line itself names it. If you trust it, name it there: --model \
other:make.
    """
    parts = {part for name in names for part in _parts(name)}
    sources = {part: file for name, file in (in_files or {}).items() for part in _parts(name)}
    token = _rule.set(_Rule(frozenset(parts), sources, announce))
    try:
        yield
    finally:
        _rule.reset(token)


def assert_may_run(name: str, kind: str) -> None:
    """Refuse code that the user did not name, and announce, once, code that runs.

    Args:
        name: Name of the code, as the user would write it: ``module:factory`` or a file.
        kind: One of ``KINDS``.

    Raises:
        ModelError: ``PHYSADV_TRUST=never`` is set, or the command line does not name it.

    Example:
        >>> assert_may_run("my_models:make", "module")  # from Python, whoever calls has named it
    """
    what = f'"{name}" is {KINDS[kind]}'
    _assert_not_forbidden(what)
    rule = _rule.get()
    if rule is None:
        return
    known = _spelling(name)
    if known not in rule.names:
        file = rule.in_files.get(known)
        raise ModelError(
            what if file is None else f'{what}, and "{file}" names it',
            "Code runs only where the command line itself names it",
            f"If you trust it, name it there: --model {name}",
        )
    if rule.announce is not None and known not in rule.announced:
        rule.announced.add(known)
        rule.announce(f"{what} (--trust silences this line)")


def _assert_not_forbidden(what: str) -> None:
    """Raise ModelError where the environment forbids code; any value but none forbids it."""
    setting = os.environ.get(VARIABLE, "")
    if setting == "never":
        raise ModelError(
            what, f"{VARIABLE}=never forbids all code", "Unset it, or name a built-in model"
        )
    if setting:
        raise ModelError(f"{VARIABLE}={setting}", "It is never or unset", f"Unset {VARIABLE}")


def _parts(text: str) -> Iterator[str]:
    """Every name of code that ``text`` may hold: before and behind =, without defenses."""
    for part in {text, *text.split("=", 1)}:
        while part:
            yield _spelling(part)
            part = part.rpartition("+")[0]


def _spelling(name: str) -> str:
    """One spelling for all names of the same file or module."""
    return os.path.normpath(name)
