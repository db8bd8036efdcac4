"""Commands made of configuration dataclasses: options, ``--config FILE.toml``, help and defaults.

Each field of a :class:`physadv.core.config.Config` becomes one option (or argument) with the
field's type, default and help; beside them stand the options of every run (``--out``, ``--json``,
...). A file given with ``--config`` supplies defaults, so options on the command line overrule it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_origin

import typer

from physadv.core.config import Config, ConfigField
from physadv.core.errors import OptionError
from physadv_cli import options
from physadv_cli.help_page import REQUIRED
from physadv_cli.runs import RunOptions, code_typed, print_unused
from physadv_cli.torchrun import refuse_several

AnyConfig = TypeVar("AnyConfig", bound=Config)
Action = Callable[[AnyConfig, RunOptions], None]
Adapt = Callable[[dict[str, Any]], dict[str, Any]]
_PAIR = tuple[float, float]
_OFF = {"shard": None, "require": None}
"""Defaults of options of a run that are no switches."""


@dataclass(frozen=True)
class Override:
    """Another form of one field's option: annotation and default as Typer takes them."""

    annotation: Any
    default: Any


def from_config(
    action: Action[AnyConfig],
    kind: type[AnyConfig],
    *,
    out: str | None = "",
    threads: int | None = 0,
    adapt: Adapt | None = None,
    overrides: dict[str, Override | None] | None = None,
    hidden: Sequence[inspect.Parameter] | None = None,
    switches: Sequence[str] = (),
    divided: bool = False,
) -> Callable[..., None]:
    """Make a Typer command of a function that takes a configuration.

    Args:
        action: called with the configuration and the run's options; its docstring is the help.
        kind: the configuration's class.
        out: words for the default of ``--out``; made of the command's name where empty, None for a
            command that writes nothing.
        threads: default of ``--threads``; None for a command that runs no model.
        adapt: changes the values of the command line before the configuration is built of them.
        overrides: options that replace a field's own, by the field's name; None leaves it out.
        hidden: options from :func:`hidden_option`, which ``adapt`` takes out of the values; where
            None, a configuration with a threat has ``--norm`` and ``--eps``.
        switches: which further options of a run the command has, as ``dry_run`` or ``shard``; all
            that write have ``overwrite``.
        divided: whether processes that torchrun starts do one run of the command together; those
            with ``shard`` do.

    Returns:
        A function whose signature has a parameter for each option, for ``app.command``.
    """
    documented = kind.documented_fields()
    replaced = overrides or {}
    parameters = [
        _parameter(field, *documented[field.name], kind, replaced)
        for field in fields(kind)
        if replaced.get(field.name, ...) is not None
    ]
    has_short_forms = hidden is None and "threat" in documented
    extra = threat_forms() if has_short_forms else list(hidden or ())
    threat_required = any(f.name == "threat" and _is_required(f) for f in fields(kind))
    target = f"runs/<utc>-{kind.command}" if out == "" else out
    switches = (*(() if out is None else ("overwrite",)), *switches)
    run_parameters = _run_parameters(kind, target, threads, replaced)

    def command(context: typer.Context, **values: Any) -> None:
        run = RunOptions(
            kind.command,
            out=values.pop("out", None),
            as_json=values.pop("json"),
            quiet=values.pop("quiet"),
            verbose=values.pop("verbose"),
            threads=values.pop("threads", None),
            **{name: values.pop(name) for name in switches},
        )
        file = values.pop("config")
        code = _code_named(context, kind, values, file, trust=values.pop("trust", False))
        if file is not None:
            _assert_stays_here(context, kind, values, file)
        if has_short_forms:
            values["threat"] = _threat(values, required=threat_required)
        if adapt is not None:
            values = adapt(values)
        if not divided and "shard" not in switches:
            refuse_several(kind.command)
        config = kind(**_from_text(kind, values))
        run.begin()
        print_unused(config.unused_options())
        with run.held, code:
            action(config, run)

    signature = inspect.Signature(
        [
            inspect.Parameter(
                "context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context
            ),
            *sorted(parameters, key=lambda p: p.default is not inspect.Parameter.empty),
            *extra,
            *(_keyword(n, options.SWITCHES[n], _OFF.get(n, False)) for n in switches),
            *([_keyword("trust", options.Trust, False)] if _names_code(kind) else []),
            *run_parameters,
        ]
    )
    command.__signature__ = signature  # type: ignore[attr-defined]
    command.__annotations__ = {n: p.annotation for n, p in signature.parameters.items()}
    command.__doc__ = action.__doc__
    command.__name__ = action.__name__
    command.kind = kind  # type: ignore[attr-defined]
    command.spellings = {  # type: ignore[attr-defined]
        alias: note.option_of(name).removeprefix("--")
        for name, (_, note) in documented.items()
        for alias in note.aliases
    }
    return command


def _names_code(kind: type[Config]) -> bool:
    """Whether an option of the configuration may name code."""
    return any(note.code for _, note in kind.documented_fields().values())


def _code_named(
    context: typer.Context,
    kind: type[Config],
    values: dict[str, Any],
    file: Path | None,
    *,
    trust: bool,
) -> AbstractContextManager[None]:
    """Return the rule by which the code runs that the options themselves name, and no other.

    Args:
        context: Tells which values were typed.
        kind: Configuration, whose fields tell which options may name code.
        values: Values of the command line and of ``file``.
        file: File of further options, if any.
        trust: Whether to run it without a word.
    """
    typed: list[str] = []
    in_file: dict[str, str] = {}
    for name, (_, note) in kind.documented_fields().items():
        value = values.get(name)
        if not note.code or value is None:
            continue
        texts = [value] if isinstance(value, str) else list(value)
        if _is_typed(context, name):
            typed += texts
        elif file is not None:
            in_file |= dict.fromkeys(texts, str(file))
    return code_typed(typed, in_file, trust=trust)


def _is_typed(context: typer.Context, name: str) -> bool:
    """Whether the option ``name`` stands on the command line, rather than in a file."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


_OUTPUTS = ("save",)
"""Fields of configurations that name a place to write, beside ``--out``."""


def _assert_stays_here(
    context: typer.Context, kind: type[Config], values: dict[str, Any], file: Path
) -> None:
    """Refuse what ``file`` may not decide: which address is opened, and where else is written.

    Args:
        context: Tells which values were typed; those are the user's own.
        kind: Configuration, whose fields tell how their options are written.
        values: Values of the command line and of ``file``.
        file: File of further options.

    Raises:
        OptionError: for an address or a place to write that is not typed.
    """
    for name, (_, note) in kind.documented_fields().items():
        value = values.get(name)
        if value is None or _is_typed(context, name):
            continue
        word = note.metavar or name.upper() if note.argument else note.option_of(name)
        texts = [str(part) for part in (value if isinstance(value, list | tuple) else [value])]
        for text in texts:
            if "://" in text:
                raise OptionError(
                    f'"{file}" names the address {text}',
                    "An address is opened only where the command line itself names it",
                    f"If you know it, give it there, as {word}",
                )
        if name in _OUTPUTS:
            raise OptionError(
                f'"{file}" names a place to write, {texts[0]}',
                "Files go only where the command line itself says",
                f"If it is yours, name it there: {word} {texts[0]}",
            )


def hidden_option(name: str, flag: str, help_text: str) -> inspect.Parameter:
    """Return an option with a text as its value that the help leaves out.

    Args:
        name: its key in the values of the command line.
        flag: its spelling there, with dashes.
        help_text: what it means.

    Returns:
        The parameter, for ``hidden`` of :func:`from_config`.
    """
    option = typer.Option(flag, help=help_text, hidden=True)
    return _keyword(name, Annotated[str | None, option], None)


def threat_forms() -> list[inspect.Parameter]:
    """Return the short forms of ``--threat``: ``--norm`` and ``--eps``."""
    return [
        hidden_option("norm", "--norm", "Norm of the threat: linf, l2, l1 or l0 (pixels)."),
        hidden_option("eps", "--eps", "Radius of the threat: 8/255, 0.03, 2.0; in l0 pixels."),
    ]


def _parameter(
    field: Field[Any],
    kind: Any,
    note: ConfigField,
    owner: type[Config],
    replaced: dict[str, Override | None],
) -> inspect.Parameter:
    """The parameter of one field, as Typer reads it."""
    other = replaced.get(field.name)
    if other is not None:
        return _keyword(field.name, other.annotation, other.default)

    default = _cli_default(field, note)
    annotation = _cli_type(kind, note)
    words = note.default if default is None else ""
    if field.name == "threat" and _is_required(field):
        # --norm and --eps may stand in its place, so Typer must not ask for it.
        annotation, default, words = str | None, None, REQUIRED
    if note.argument:
        info: Any = typer.Argument(
            help=note.help,
            metavar=note.metavar or None,
            rich_help_panel=note.panel,
            autocompletion=options.completer_of(note),
        )
    else:
        info = options.field_option(note, [note.option_of(field.name)], kind, words)
    required = _is_required(field) and field.name != "threat"
    return _keyword(
        field.name,
        Annotated[annotation, info],
        inspect.Parameter.empty if required else default,
    )


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _keyword(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
    )


def _cli_type(kind: Any, note: ConfigField) -> Any:
    """The type that Typer converts to: pairs as text, tuples as lists, paths as paths."""
    plain = options.plain_type(kind)
    optional = plain is not kind
    if note.separator:
        plain = str
    elif plain == _PAIR:
        pass  # without a separator a pair is two words: --covers 0.2 0.45
    elif get_origin(plain) is tuple:
        element = get_args(plain)[0]
        return list[Path if note.path else element]  # type: ignore[misc]
    elif note.path:
        plain = Path
    return plain | None if optional else plain


def _cli_default(field: Field[Any], note: ConfigField) -> Any:
    """A field's default in the form of the command line."""
    if field.default_factory is not MISSING:
        return _to_text(field.default_factory(), note)
    return None if field.default is MISSING else _to_text(field.default, note)


def _to_text(value: Any, note: ConfigField) -> Any:
    """A value of a configuration in the form of the command line."""
    if note.separator and value is not None:
        return note.separator.join(f"{number:.10g}" for number in value)
    return list(value) if isinstance(value, tuple) else value


def _from_text(kind: type[Config], values: dict[str, Any]) -> dict[str, Any]:
    """Values of the command line as the configuration takes them."""
    parsed = {}
    for name, value in values.items():
        field_type, note = kind.documented_fields()[name]
        if note.separator and isinstance(value, str):
            count = len(get_args(options.plain_type(field_type)))
            value = parse_numbers(
                value, note.option_of(name), note.separator, count=count, form=note.metavar
            )
        parsed[name] = value
    return parsed


_EXAMPLES = {"x": "280x190", ",": "0,95", ":": "0.3:0.5"}
_BOX_EXAMPLE = "410,220,610,420"
_COUNTS = {2: "two", 4: "four"}


def parse_numbers(
    text: str, option: str, separator: str, *, count: int = 2, form: str = ""
) -> tuple[float, ...]:
    """Return the numbers that are written ``280x190``, ``0,95``, ``0.3:0.5`` or ``4,2,60,80``.

    Args:
        text: the numbers, or one that stands for both of a pair whose separator is a colon.
        option: the option's name, for the error.
        separator: the character between them; other usual ones are taken as well.
        count: how many are needed, 2 or 4.
        form: how they are written, for the error.

    Returns:
        The numbers, whole ones as int.

    Raises:
        OptionError: for anything else.

    Example:
        >>> parse_numbers("280x190", "--size", "x")
        (280, 190)
    """
    plain = text.strip().lower().removesuffix("mm").removesuffix("m")
    for other in "×x:;":
        plain = plain.replace(other, ",")
    words = plain.split(",")
    if separator == ":" and len(words) == 1:
        words *= 2

    try:
        numbers = [float(word) for word in words]
    except ValueError:
        numbers = []
    if len(numbers) != count:
        raise OptionError(
            f"{option} {text!r}",
            f"{_COUNTS[count]} numbers are needed{f', {form}' if form else ''}",
            f"Write {option} {_EXAMPLES[separator] if count == 2 else _BOX_EXAMPLE}",
        )
    return tuple(int(n) if n.is_integer() else n for n in numbers)


def _threat(values: dict[str, Any], *, required: bool) -> str | None:
    """The threat with its short forms taken in."""
    from physadv.threat.parsing import join_threat

    threat = join_threat(values.get("threat"), values.pop("norm"), values.pop("eps"))
    if threat is None and required:
        raise typer.BadParameter("Missing option '--threat'.")
    return threat


def _run_parameters(
    kind: type[Config], out: str | None, threads: int | None, replaced: dict[str, Override | None]
) -> list[inspect.Parameter]:
    """Options that every configured command has beside its fields."""

    def as_option(name: str, value: Any) -> Any:
        text = _to_text(value, kind.documented_fields()[name][1])
        other = replaced.get(name)
        # An option that may repeat in place of a field with one value takes a list.
        repeats = other is not None and isinstance(other.default, list)
        return [text] if repeats and not isinstance(text, list) else text

    def load(context: typer.Context, path: Path | None) -> Path | None:
        if path is not None and not context.resilient_parsing:
            table = kind.read_toml(path)
            texts = {name: as_option(name, value) for name, value in table.items()}
            context.default_map = {**(context.default_map or {}), **texts}
        return path

    config = typer.Option(
        "--config",
        help="TOML file of these options, such as a run's config.toml; options overrule it.",
        metavar="FILE",
        rich_help_panel="Run",
        is_eager=True,
        callback=load,
    )
    target = [] if out is None else [_out_parameter(out)]
    arithmetic = [] if threads is None else [_keyword("threads", options.Threads, threads)]
    return [
        _keyword("config", Annotated[Path | None, config], None),
        *arithmetic,
        *target,
        _keyword("json", options.Json, False),
        _keyword("quiet", options.Quiet, False),
        _keyword("verbose", options.Verbose, False),
    ]


def _out_parameter(default: str) -> inspect.Parameter:
    """The option ``--out``, with ``default`` in its help."""
    return _keyword("out", Annotated[Path | None, options.out_option(default)], None)
