"""Layout of help pages: usage, description, panels of options and commands, examples.

Every panel of a page has the same two columns, so that options line up: the option with the name of
its value, and its meaning with the default.
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

LAST_PANELS = ("Run", "Output")
"""Panels that stand last, in this order, on every page."""
REQUIRED = "required"
"""Words in place of the default of an option that another one may replace."""
_WIDEST_NAME = 32
_EXAMPLE = "Example: "
_STYLES = {
    r"(?<![\w-])--?[a-z][\w-]*": "cyan",
    r"`[^`]+`": "bold",
    r"\[[^\]]*default: [^\]]*\]": "dim",
    r"\[(.*; )?required\]": "red",
}


@dataclass(frozen=True)
class _Entry:
    """One line of a panel: an option, an argument or a command, and its meaning."""

    panel: str
    name: str
    meaning: str


def print_help(command: Any, ctx: Any) -> None:
    """Print the help page of ``command``, called in ``ctx``, on stdout."""
    console = Console(file=sys.stdout, highlight=False)
    entries = _ordered(command, _parameters(command, ctx), _commands(command, ctx))
    longest = max((len(entry.name) for entry in entries), default=0)
    name_width = min(longest, _WIDEST_NAME)

    paragraphs, examples = split_examples(command.help or "")
    for paragraph in (Text(_usage_line(command, ctx), style="bold"), *map(_styled, paragraphs)):
        console.print()
        _print_indented(paragraph, 1, console)
    console.print()
    for panel in dict.fromkeys(entry.panel for entry in entries):
        rows = [entry for entry in entries if entry.panel == panel]
        console.print(_panel(panel, rows, name_width))
    _print_examples(examples, console)


def split_examples(text: str) -> tuple[list[str], list[str]]:
    """Split a docstring into its paragraphs, each on one line, and its examples.

    A paragraph of ``text`` that begins with ``Example:`` is an example.
    """
    blocks = [" ".join(block.split()) for block in inspect.cleandoc(text).split("\n\n")]
    examples = [b.removeprefix(_EXAMPLE) for b in blocks if b.startswith(_EXAMPLE)]
    return [b for b in blocks if b and not b.startswith(_EXAMPLE)], examples


def usage_pieces(command: Any, ctx: Any) -> list[str]:
    """Return the words of the usage line after the name of ``command``, called in ``ctx``."""
    pieces = ["[OPTIONS]"]
    for param in command.get_params(ctx):
        if param.param_type_name == "argument" and not param.hidden:
            name = _argument_name(param)
            pieces.append(name if param.required else f"[{name}]")
    if getattr(command, "commands", None):
        pieces.append("[COMMAND]" if command.invoke_without_command else "COMMAND")
        pieces.append("[ARGS]...")
    return pieces


def _usage_line(command: Any, ctx: Any) -> str:
    return " ".join(["Usage:", ctx.command_path, *usage_pieces(command, ctx)])


def _parameters(command: Any, ctx: Any) -> list[_Entry]:
    """Arguments and options, apart from hidden ones."""
    visible = [p for p in command.get_params(ctx) if not p.hidden]
    panels = {getattr(p, "rich_help_panel", None) for p in visible if p.param_type_name == "option"}
    entries = []
    for param in visible:
        is_argument = param.param_type_name == "argument"
        panel = getattr(param, "rich_help_panel", None) or (
            "Arguments" if is_argument else "Options"
        )
        if "--help" in param.opts and "Output" in panels:
            panel = "Output"
        name = _argument_name(param) if is_argument else _option_name(param)
        entries.append(_Entry(panel, name, _meaning(param, ctx)))
    return entries


def _argument_name(param: Any) -> str:
    name = (param.metavar or param.name.upper()).rstrip(".")
    return name if param.nargs == 1 else f"{name}..."


def _option_name(param: Any) -> str:
    """The spellings of an option, long ones first, and the name of its value.

    The negative form of a flag is listed only where the flag is set by default.
    """
    names = sorted(param.opts, key=lambda name: not name.startswith("--"))
    if param.is_flag and param.default:
        names += param.secondary_opts
    words = ", ".join(names)
    return words if param.is_flag or not param.metavar else f"{words} {param.metavar}"


def _meaning(param: Any, ctx: Any) -> str:
    """The help of a parameter with its limits, its default and whether it is required."""
    default = REQUIRED if param.required else _default(param, ctx)
    notes = "; ".join(note for note in (_limits(param), default) if note)
    return f"{param.help or ''} [{notes}]" if notes else param.help or ""


def _limits(param: Any) -> str:
    """Both limits of a number; the help of a number with one limit says what it may be."""
    limits = (getattr(param, "min", None), getattr(param, "max", None))
    if any(limit is None or math.isinf(limit) for limit in limits):
        return ""
    return f"{limits[0]:g} to {limits[1]:g}"


def _default(param: Any, ctx: Any) -> str:
    """The default as the user would type it, or words in its place."""
    if isinstance(param.show_default, str):
        is_required = param.show_default == REQUIRED
        return REQUIRED if is_required else f"default: {param.show_default}"
    value = param.get_default(ctx, call=False)
    if isinstance(value, bool):
        return f"default: {param.opts[0]}" if value and param.secondary_opts else ""
    if not param.show_default or value is None:
        return ""
    values = value if isinstance(value, list | tuple) else [value]
    words = ", ".join(f"{v:g}" if isinstance(v, float) else str(v) for v in values)
    return f"default: {words}" if words else ""


def _commands(command: Any, ctx: Any) -> list[_Entry]:
    """The sub-commands of a group."""
    if not getattr(command, "commands", None):
        return []
    listed = [command.get_command(ctx, name) for name in command.list_commands(ctx)]
    return [
        _Entry(
            getattr(sub, "rich_help_panel", None) or "Commands",
            sub.name,
            sub.short_help or (sub.help or "").split("\n\n")[0],
        )
        for sub in listed
        if sub is not None and not sub.hidden
    ]


def _ordered(command: Any, options: list[_Entry], commands: list[_Entry]) -> list[_Entry]:
    """Panels in the order of their first entry, those that every command has last.

    A group that only leads to its commands lists these first.
    """
    leads_only = bool(commands) and not command.invoke_without_command
    entries = [*commands, *options] if leads_only else [*options, *commands]
    first: dict[str, int] = {}
    for entry in entries:
        first.setdefault(entry.panel, len(first))
    last = {panel: len(first) + i for i, panel in enumerate(LAST_PANELS)}
    return sorted(entries, key=lambda entry: last.get(entry.panel, first[entry.panel]))


def _panel(title: str, entries: Sequence[_Entry], name_width: int) -> Panel:
    table = Table(box=None, show_header=False, expand=True, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(width=name_width, overflow="fold")
    table.add_column(ratio=1)
    for entry in entries:
        table.add_row(_styled(entry.name), _styled(entry.meaning))
    return Panel(table, title=title, title_align="left", border_style="dim")


def _print_examples(examples: Sequence[str], console: Console) -> None:
    """Print one example a line, long ones continued as a shell reads them."""
    console.print()
    if not examples:
        return
    console.print(Text("Example:" if len(examples) == 1 else "Examples:", style="bold"))
    for example in examples:
        lines = " \\\n".join(_broken(example, console.width - 6))
        _print_indented(_styled(lines), 2, console)
    console.print()


def _broken(example: str, width: int) -> list[str]:
    """The lines of a command, broken between options and never inside quotes."""
    words = re.findall(r"--[\w-]+ (?:\"[^\"]*\"|[^\s-]\S*)|(?:\"[^\"]*\"|\S)+", example)
    lines = [""]
    for word in words:
        if lines[-1].strip() and len(lines[-1]) + len(word) >= width:
            lines.append("   ")
        lines[-1] = f"{lines[-1]} {word}" if lines[-1] else word
    return lines


def _print_indented(text: Text, columns: int, console: Console) -> None:
    """Print wrapped text without spaces at the ends of lines, which would spoil a pasted
    command."""
    for line in text.wrap(console, console.width - columns - 1):
        line.rstrip()
        console.print(Text(" " * columns) + line, soft_wrap=True)


def _styled(text: str) -> Text:
    """``text`` with options, commands and defaults set off; brackets in it are no markup."""
    styled = Text(text)
    for pattern, style in _STYLES.items():
        for match in re.finditer(pattern, text):
            styled.stylize(style, *match.span())
    return styled
