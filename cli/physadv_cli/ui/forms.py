"""Forms made of commands: a field for each option, and the command line of what was filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from physadv.core.config import ConfigField
from physadv.core.errors import OptionError
from physadv.core.wording import field_label
from physadv_cli.help import DEFAULT

_LEFT_OUT = {"out", "json", "quiet", "verbose", "config", "serve", "window", "trust", "shard"}
"""Options that belong to a call from a terminal."""


@dataclass(frozen=True)
class Journey:
    """A thing to do.

    Attributes:
        name: Name in addresses.
        title: Heading.
        words: The command, as typed after ``physadv``.
        first: Fields shown first; the others lie folded below.
        out: Name of the result in the run's folder, where the command writes one file; the folder
            itself where empty.
        about: What it does, in a sentence.
    """

    name: str
    title: str
    words: tuple[str, ...]
    first: tuple[str, ...]
    out: str = ""
    about: str = ""


JOURNEYS = (
    Journey(
        "sticker",
        "Make a sticker",
        ("patch",),
        ("model", "goal", "true_class", "target_class", "signs", "size_mm", "steps"),
        about="Optimizes a sticker that a model misreads. Stop keeps the best so far.",
    ),
    Journey(
        "print",
        "Print it",
        ("print",),
        ("bundle", "paper", "tile", "test_signs"),
        "sheet.pdf",
        "Lays the sticker out true to the millimeter. Print at 100 % and measure the bar.",
    ),
    Journey(
        "check",
        "Check it",
        ("check",),
        ("source", "bundle", "model"),
        about="Classifies every frame of films, photos or a camera (0), beside both controls. For "
        "a camera with a live picture: physadv check 0 --serve.",
    ),
    Journey(
        "cloak",
        "Cloak photos",
        ("cloak",),
        ("photos", "mode"),
        about="Makes faces harder to match; originals stay as they are. Needs the extra faces.",
    ),
    Journey(
        "evaluate",
        "Evaluate a model",
        ("evaluate",),
        ("model", "data", "threat", "limit"),
        about="Robust accuracy under an ensemble of attacks, with intervals.",
    ),
)


@dataclass(frozen=True)
class FormField:
    """A field of a form.

    Attributes:
        name: Its name.
        words: What it is called on the page.
        label: The option as it is typed.
        help: What it means.
        kind: "yes" for a box to tick, "lines" for several values, a line each, "choice" for one
            of the choices alone, else "text".
        default: Default as text; "yes" where a box is ticked.
        required: Whether it has to be filled in.
        panel: Heading that it belongs to.
        choices: Values to choose from; suggestions where the kind is "text".
    """

    name: str
    words: str
    label: str
    help: str
    kind: str
    default: str
    required: bool
    panel: str
    choices: tuple[str, ...] = ()


def command_of(root: Any, words: Sequence[str]) -> Any:
    """Return the command called ``words`` below ``root``; of a group that is a command as well,
    that command."""
    command = root
    for word in words:
        command = command.commands[word]
    return getattr(command, "commands", {}).get(DEFAULT, command)


def form_fields(command: Any, first: Sequence[str]) -> tuple[list[FormField], list[FormField]]:
    """Return the fields of ``command``: those named ``first``, in that order, and the others."""
    notes = _notes(command)
    fields = {p.name: _field(p, notes.get(p.name)) for p in _parameters(command)}
    shown = [fields[name] for name in first if name in fields]
    return shown, [field for name, field in fields.items() if name not in first]


def typed_words(command: Any, values: Mapping[str, str]) -> list[str]:
    """Return the words that stand for ``values`` on the command line, defaults left out.

    Args:
        command: The command.
        values: Text of each field by name; "yes" for a ticked box.

    Raises:
        OptionError: There is no such field, or a needed one is empty.
    """
    parameters, notes = {p.name: p for p in _parameters(command)}, _notes(command)
    for name in values:
        if name not in parameters:
            raise OptionError(f'field "{name}"', "it is none of this form", "Reload the page")
    options, places = [], []
    for name, parameter in parameters.items():
        field, text = _field(parameter, notes.get(name)), values.get(name, "").strip()
        if field.required and not text:
            raise OptionError(field.label, "it is needed", "Fill it in")
        if field.kind == "choice" and text not in ("", *field.choices):
            allowed = ", ".join(field.choices)
            raise OptionError(f"{field.label} {text}", f"one of {allowed}", "Choose one")
        if field.kind == "yes":
            options += _ticked(parameter, field, text)
        elif text and text != field.default:
            parts = text.splitlines() if field.kind == "lines" else [text]
            given = [part.strip() for part in parts if part.strip()]
            if parameter.param_type_name == "argument":
                places += given
            else:
                options += [f"{parameter.opts[0]}={part}" for part in given]
    return [*options, *(["--", *places] if places else [])]


def _ticked(parameter: Any, field: FormField, text: str) -> list[str]:
    """The flag of a box whose state is not the default."""
    if (text == "yes") == (field.default == "yes"):
        return []
    flags = parameter.opts if text == "yes" else parameter.secondary_opts or parameter.opts
    return [flags[0]]


def _parameters(command: Any) -> list[Any]:
    """The command's options and arguments that a form has."""
    return [
        p
        for p in command.params
        if p.name not in _LEFT_OUT and not getattr(p, "hidden", False) and p.name != "help"
    ]


def _notes(command: Any) -> Mapping[str, ConfigField]:
    """The documentation of each field of the command's configuration, where it has one."""
    kind = getattr(command.callback, "kind", None)
    return {} if kind is None else {n: note for n, (_, note) in kind.documented_fields().items()}


def _field(parameter: Any, note: ConfigField | None) -> FormField:
    several = bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1
    default = parameter.default() if callable(parameter.default) else parameter.default
    is_flag = bool(getattr(parameter, "is_flag", False))
    if is_flag:
        text = "yes" if default else ""
    elif default is None or isinstance(default, list | tuple):
        text = "\n".join(map(str, default or ()))
    else:
        text = str(default)
    choices = () if note is None or is_flag or several else note.completions
    is_closed = bool(choices) and note is not None and not note.is_open
    is_place = parameter.param_type_name == "argument"
    return FormField(
        name=str(parameter.name),
        words=field_label(str(parameter.name)),
        label=(parameter.metavar or str(parameter.name).upper()) if is_place else parameter.opts[0],
        help=parameter.help or "",
        kind="yes" if is_flag else "lines" if several else "choice" if is_closed else "text",
        default=text,
        required=bool(parameter.required),
        panel=getattr(parameter, "rich_help_panel", None) or "Run",
        choices=choices,
    )
