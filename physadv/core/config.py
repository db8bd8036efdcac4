"""Base of every activity's configuration: documented fields, checked values, TOML in and out."""

from __future__ import annotations

import os
import re
import textwrap
from collections.abc import Collection, Mapping
from dataclasses import MISSING, Field, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Self, cast, get_args, get_origin, get_type_hints

import tomli_w

from physadv.core.addresses import public_address
from physadv.core.errors import OptionError
from physadv.core.files import as_utf8, is_same_path
from physadv.core.tables import check_keys, convert_value, read_table

COMMAND_KEY = "command"
"""Key of a recorded config.toml that names the activity; it is no field of the configuration."""

_WORDS_OF_COMMAND = re.compile(r"[a-z]{1,20}(-[a-z]{1,20}){0,3}")


def typed_command(recorded: object) -> str:
    """Return the command that a file records, as it is typed; words that no command has are left
    out, since a user may copy the line.

    Args:
        recorded: Value under :data:`COMMAND_KEY`.

    Example:
        >>> typed_command("cloak-check"), typed_command("check; rm -rf ~")
        ('physadv cloak check', 'physadv')
    """
    words = recorded if isinstance(recorded, str) else ""
    known = _WORDS_OF_COMMAND.fullmatch(words)
    return f"physadv {words.replace('-', ' ')}" if known else "physadv"


@dataclass(frozen=True)
class ConfigField:
    """Documentation of one field, from which its command-line option and its checks are made.

    Args:
        help: one sentence; the option's help.
        panel: heading under which the option is listed.
        flag: the option's name; made of the field's name where empty.
        metavar: placeholder of the value in the help; made of the type where empty.
        least: smallest allowed value of a number.
        most: largest allowed value of a number.
        separator: character between the two numbers of a pair on the command line.
        argument: whether the command takes it by position instead of as an option.
        path: whether it names a file or a folder, so that shells complete it.
        default: words in place of the default value in the help.
        aliases: older names of the option, without dashes; accepted, but not in the help.
        completions: words that a shell offers as the value, and a form to choose from.
        is_open: whether other values than these are taken, too.
        affects_result: whether another value can make another result; a run may be resumed with
            another value of the others, such as the device or a window.
        task: task of the models that it is for, "classify" or "detect"; empty for all.
        code: whether its value may name code, which runs only where the value stands on the
            command line, not where a file of options holds it.
    """

    help: str
    panel: str = "Run"
    flag: str = ""
    metavar: str = ""
    least: float | None = None
    most: float | None = None
    separator: str = ""
    argument: bool = False
    path: bool = False
    default: str = ""
    aliases: tuple[str, ...] = ()
    completions: tuple[str, ...] = ()
    is_open: bool = False
    affects_result: bool = True
    task: str = ""
    code: bool = False

    def option_of(self, name: str) -> str:
        """Return the command-line option of the field called ``name``."""
        return self.flag or "--" + name.replace("_", "-")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Base class of configurations: frozen dataclasses whose values are plain data.

    Each field is annotated ``Annotated[type, ConfigField(...)]`` with text, numbers, yes/no or
    tuples of these as its type. Paths are text; a :class:`pathlib.Path` given in their place is
    converted. Values are checked when an instance is made.

    Raises:
        OptionError: for a value of the wrong type or outside its limits.

    Example::

        @dataclass(frozen=True, kw_only=True)
        class RunConfig(Config):
            steps: Annotated[int, ConfigField("Optimization steps.", least=1)] = 400


        RunConfig.from_table({"steps": 20})
    """

    command: ClassVar[str] = ""
    """Name of the activity in a recorded config.toml."""

    def __post_init__(self) -> None:
        """Convert paths and lists to plain data, then check types and limits."""
        for name, (kind, note) in self.documented_fields().items():
            value = _checked(getattr(self, name), kind, note, name)
            object.__setattr__(self, name, value)

    @classmethod
    def documented_fields(cls) -> dict[str, tuple[Any, ConfigField]]:
        """Return the type and the documentation of each field by name, in order."""
        return _documented(cast(Any, cls))

    @classmethod
    def from_table(cls, table: Mapping[str, Any], *, name: str = "") -> Self:
        """Build a configuration from ``table``, keys and values as TOML has them.

        ``name`` says in errors where the table comes from. Raises OptionError for an unknown key,
        with the nearest known one, for a missing one, and for a value that is not allowed.
        """
        check_keys(table, cls, name=name, error=OptionError)
        for field in fields(cls):
            if _is_required(field) and field.name not in table:
                place = f"{name}: " if name else ""
                raise OptionError(f"{place}{field.name}", "is missing", "give it")
        return cls(**table)

    @classmethod
    def from_toml(cls, path: str | Path) -> Self:
        """Read a configuration from the TOML file ``path``, such as a run's recorded config.toml.

        Raises OptionError for a file that cannot be read, that records another activity, or whose
        keys or values are wrong.
        """
        return cls.from_table(cls.read_toml(path), name=str(path))

    @classmethod
    def read_toml(cls, path: str | Path) -> dict[str, Any]:
        """Return the checked values in the TOML file ``path``, which need not be all fields.

        Raises OptionError as :meth:`from_toml` does, apart from missing keys.
        """
        table = read_table(path, error=OptionError)
        recorded = table.pop(COMMAND_KEY, cls.command)
        if recorded != cls.command:
            raise OptionError(
                f"{path} records the command {recorded!r}",
                f"{cls.command!r} is needed",
                f"Give it to {typed_command(recorded)} --config",
            )

        check_keys(table, cls, name=str(path), error=OptionError)
        documented = cls.documented_fields()
        return {
            name: _checked(value, *documented[name], name, str(path))
            for name, value in table.items()
        }

    @classmethod
    def commented_toml(cls) -> str:
        """Return a TOML file of every setting with its help: those that are needed with a
        placeholder, the others commented out with their default.

        Lines that are not changed leave a run as it is without the file.
        """
        lines = [f'{COMMAND_KEY} = "{cls.command}"']
        panel = ""
        for field in sorted(fields(cls), key=lambda field: not _is_required(field)):
            kind, note = cls.documented_fields()[field.name]
            heading = "Needed" if _is_required(field) else note.panel
            if heading != panel:
                panel = heading
                lines += ["", f"# ---- {panel} ----"]
            limits = _limits_in_words(note)
            text = f"{note.help} {limits}" if limits else note.help
            lines += ["", *textwrap.wrap(text, 98, initial_indent="# ", subsequent_indent="# ")]
            lines.append(_toml_line(field, kind, note))
        return "\n".join(lines) + "\n"

    def as_table(self) -> dict[str, Any]:
        """Return the configuration as a run records it: the activity, then every field with a
        value; addresses without passwords."""
        values = {field.name: _public(getattr(self, field.name)) for field in fields(self)}
        filled = {key: value for key, value in values.items() if value is not None}
        return {
            COMMAND_KEY: self.command,
            **{k: list(v) if isinstance(v, tuple) else v for k, v in filled.items()},
        }

    def files(self) -> list[str]:
        """Return the files and folders that the values name, in order of the fields: of NAME=FILE
        the file, of names of code those that are files."""
        named: list[str] = []
        for name, (_, note) in self.documented_fields().items():
            value = getattr(self, name) if note.path or note.code else None
            for each in value if isinstance(value, tuple) else [value] if value else []:
                file = each if Path(each).exists() else each.partition("=")[2] or each
                if note.path or Path(file).is_file():
                    named.append(file)
        return named

    def unused_options(self, without_use: Mapping[str, str] | None = None) -> list[str]:
        """Return one text for each option that has another value than its default and changes
        nothing, as ``--boxes is not used: no --signs``.

        Args:
            without_use: names of fields that change nothing, and why, where more is known than the
                configuration alone tells, such as what the source is; names of other fields are
                left out. None for :meth:`without_use`.
        """
        noted = self.documented_fields()
        defaults = {field.name: _default_of(field) for field in fields(self)}
        reasons = self.without_use() if without_use is None else without_use
        return [
            f"{noted[name][1].option_of(name)} is not used: {why}"
            for name, why in reasons.items()
            if name in noted and getattr(self, name) != defaults[name]
        ]

    def unused_with_models(self, tasks: Collection[str]) -> list[str]:
        """Return a text as :meth:`unused_options` does for each option that is for models of
        another task than those of the models at hand, ``tasks``: "classify", "detect"."""
        why = {"detect": "no model is a detector", "classify": "no model is a classifier"}
        return self.unused_options(
            {
                name: why[note.task]
                for name, (_, note) in self.documented_fields().items()
                if note.task and note.task not in tasks
            }
        )

    def without_use(self) -> dict[str, str]:
        """Return the names of the fields that change nothing beside the values of the others, and
        why."""
        return {}

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """Return which settings differ from those of an earlier run, as ``--seed 0 -> 1``.

        Args:
            recorded: table of the earlier run, as :meth:`as_table` made it; a setting that it
                lacks had its default.

        Returns:
            One text a setting, in the order of the fields. Two names of the same file are the
            same value, and fields that do not affect the result are left out.
        """
        texts = []
        for field in fields(self):
            kind, note = self.documented_fields()[field.name]
            new, old = _public(getattr(self, field.name)), recorded.get(field.name)
            if old is None and not _is_optional(kind):
                old = _default_of(field)
            old = _plain_value(old)
            names_files = note.path or note.argument
            if note.affects_result and not _is_same(old, new, names_files=names_files):
                texts.append(
                    f"{note.option_of(field.name)} {_in_words(old, note)} -> {_in_words(new, note)}"
                )
        return texts


def _limits_in_words(note: ConfigField) -> str:
    """The limits of a number as a sentence; empty where it has none."""
    if note.least is not None and note.most is not None:
        return f"From {note.least:g} to {note.most:g}."
    if note.least is not None:
        return f"At least {note.least:g}."
    return "" if note.most is None else f"At most {note.most:g}."


def _toml_line(field: Field[Any], kind: Any, note: ConfigField) -> str:
    """One setting of a commented file: a placeholder, its default behind ``#``, or what is taken
    where it has none."""
    if _is_required(field):
        placeholder = f"<{note.metavar or field.name.upper()}>"
        is_list = get_origin(kind) is tuple
        return f'{field.name} = ["{placeholder}"]' if is_list else f'{field.name} = "{placeholder}"'
    default = _default_of(field)
    if default is None:
        return f"# {field.name} =    # {note.default or 'none'}"
    plain = list(default) if isinstance(default, tuple) else default
    text = tomli_w.dumps({field.name: plain}).strip()
    if isinstance(plain, list):  # on one line, to be uncommented as one
        text = f"{field.name} = [{', '.join(_toml_value(each) for each in plain)}]"
    return f"# {text}"


def _toml_value(value: Any) -> str:
    return tomli_w.dumps({"x": value}).partition(" = ")[2].strip()


def _public(value: Any) -> Any:
    """A value of a field with addresses in it fit for a record."""
    if isinstance(value, tuple):
        return tuple(_public(each) for each in value)
    return public_address(value) if isinstance(value, str) else value


def _is_optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _default_of(field: Field[Any]) -> Any:
    """The default of ``field``; None where it has none."""
    if field.default_factory is not MISSING:
        return field.default_factory()
    return None if field.default is MISSING else field.default


def _is_same(old: Any, new: Any, *, names_files: bool) -> bool:
    """Whether two values are the same setting; names of files are the same where the file is."""
    if isinstance(old, tuple) and isinstance(new, tuple):
        return len(old) == len(new) and all(
            _is_same(a, b, names_files=names_files) for a, b in zip(old, new, strict=True)
        )
    if not (isinstance(old, str) and isinstance(new, str)):
        return bool(old == new)
    if not names_files:
        return as_utf8(old) == as_utf8(new)
    return is_same_path(old, new)


def _in_words(value: Any, note: ConfigField) -> str:
    """A value as an option has it."""
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        return (note.separator or " ").join(_in_words(each, note) for each in value) or "(none)"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _checked(value: Any, kind: Any, note: ConfigField, name: str, source: str = "") -> Any:
    """The value as plain data of its type, within its limits; raise OptionError for any other."""
    given = _plain_value(value)
    if note.path and kind == tuple[str, ...] and isinstance(given, str):
        given = (given,)  # one path stands for a list of one, as in files of earlier versions
    plain = convert_value(given, kind, key=name, name=source, error=OptionError)
    if note.path or note.argument:
        # pathlib takes the empty text, such as an unset variable of a shell, for the working folder
        for text in plain if isinstance(plain, tuple) else (plain,):
            if isinstance(text, str) and not text.strip():
                raise OptionError(
                    f"{source or note.metavar or note.option_of(name)}: an empty name",
                    "It names no file and no folder",
                    "Give a name, or . for the working folder",
                )
    if isinstance(plain, bool) or not isinstance(plain, int | float):
        return plain

    shown = f"{source}: {name} = {plain:g}" if source else f"{note.option_of(name)} {plain:g}"
    if note.least is not None and not plain >= note.least:
        raise OptionError(shown, f"at least {note.least:g} is needed", "give a larger number")
    if note.most is not None and not plain <= note.most:
        raise OptionError(shown, f"at most {note.most:g} is allowed", "give a smaller number")
    return plain


def _plain_value(value: Any) -> Any:
    """Paths as text, lists as tuples; anything else as it is."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return tuple(_plain_value(v) for v in value) if isinstance(value, list | tuple) else value


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


@cache
def _documented(kind: type[Config]) -> dict[str, tuple[Any, ConfigField]]:
    """Type and documentation of each field, read from the annotations once."""
    hints = get_type_hints(kind, include_extras=True)
    documented = {}
    for field in fields(kind):
        hint = hints[field.name]
        notes = [m for m in getattr(hint, "__metadata__", ()) if isinstance(m, ConfigField)]
        if not notes:
            raise TypeError(f"{kind.__name__}.{field.name} has no ConfigField")
        documented[field.name] = (hint.__origin__, notes[0])
    return documented
