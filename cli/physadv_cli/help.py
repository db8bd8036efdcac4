"""Help and usage of the commands: their order, plain value names, examples, default
sub-commands."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from physadv_cli.help_page import print_help, split_examples, usage_pieces
from physadv_cli.outside_faults import outside_faults_in_words, refuse_empty_words
from physadv_cli.runs import stdout_for_json

_VALUE_NAMES = {
    "bool": "",
    "str": "TEXT",
    "int": "N",
    "int range": "N",
    "float": "X",
    "float range": "X",
    "path": "PATH",
}
"""Names of values in the help by the type that Typer would print; flags take no value."""
OTHER_SPELLINGS = {
    "victim": "model",
    "class": "true-class",
    "target-class": "target",
    "defence": "defense",
    "optimiser": "optimizer",
    "accept-licence": "accept-license",
    "page": "paper",
}
"""Hidden spellings of options in all commands, without their dashes, and those of the help."""
DEFAULT = ":default"
"""Name of the sub-command that runs where a group's arguments name none."""


class PlainCommand(TyperCommand):
    """A command whose help names values plainly: ``N`` for a number, nothing for a flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters for ``ctx``, with value names set."""
        return _with_value_names(super().get_params(ctx), ctx)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line for ``ctx``."""
        return usage_pieces(self, ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help for ``ctx``; ``formatter`` is not used."""
        print_help(self, ctx)

    def invoke(self, ctx: Any) -> Any:
        """Run the command of ``ctx``; with ``--json``, stdout holds the JSON object alone."""
        lent = stdout_for_json() if ctx.params.get("json") else contextlib.nullcontext()
        with lent, outside_faults_in_words():
            return super().invoke(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args`` in ``ctx``; an empty word is refused."""
        refuse_empty_words(args)
        return super().parse_args(ctx, args)


class ServeWithoutPort(PlainCommand):
    """A command whose ``--serve`` may stand alone, for any free port.

    A number under 1024 after it is a camera's index.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args`` in ``ctx``, a lone ``--serve`` being port 0."""
        completed: list[str] = []
        for i, argument in enumerate(args):
            follower = args[i + 1] if i + 1 < len(args) else ""
            has_port = follower.isdecimal() and 4 <= len(follower) <= 9 and int(follower) >= 1024
            is_alone = argument == "--serve" and not has_port
            completed.append("--serve=0" if is_alone else argument)
        return super().parse_args(ctx, completed)


class OrderedGroup(TyperGroup):
    """A group of commands listed in the order in which they were registered."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the parameters for ``ctx``, with value names set."""
        return _with_value_names(super().get_params(ctx), ctx)

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands for ``ctx``, in the order of :attr:`journey`."""
        names = super().list_commands(ctx)
        return sorted(names, key=lambda n: self.journey.index(n) if n in self.journey else 0)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage line for ``ctx``."""
        return usage_pieces(self, ctx)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help for ``ctx``; ``formatter`` is not used."""
        print_help(self, ctx)

    journey: Sequence[str] = ()
    """Names of the commands in the order of the help; those that are not in it come first."""


class DefaultGroup(OrderedGroup):
    """A group that is a command itself: ``patch verify ...`` verifies, ``patch ...`` makes a
    patch."""

    @property
    def default_command(self) -> Any:
        """The command that runs where the arguments name none."""
        return self.commands[DEFAULT]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse ``args`` in ``ctx``, with the default command put before those that name none."""
        # A shell that completes the first word is offered both; see shell_complete.
        completes_first = not args and ctx.resilient_parsing
        if not completes_first and (not args or args[0] not in self.commands):
            args = [DEFAULT, *args]
        return super().parse_args(ctx, args)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return what completes the first word, ``incomplete``, in ``ctx``: a command of the
        group, or an option of its default command."""
        if not incomplete.startswith("-"):
            named = super().shell_complete(ctx, incomplete)
            return [item for item in named if item.value != DEFAULT]
        command = self.default_command
        alone = command.make_context(DEFAULT, [], parent=ctx, resilient_parsing=True)
        items: list[Any] = command.shell_complete(alone, incomplete)
        return items


class DefaultCommand(PlainCommand):
    """The command of a :class:`DefaultGroup`, known by the group's name in help and usage."""

    def make_context(
        self, info_name: Any, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Return a context that takes the group's place.

        Args:
            info_name: ignored; the group's name stands for it.
            args: arguments of the command.
            parent: the group's context.
            extra: further settings of the context.
        """
        if parent is not None and info_name == DEFAULT:
            info_name, parent = parent.info_name, parent.parent
        return super().make_context(info_name, args, parent=parent, **extra)


def tidy_help(app: typer.Typer, name: str = "physadv") -> None:
    """Give every command of ``app`` plain value names, a short help and older spellings.

    ``name`` is the command line that leads to ``app``.
    """
    for command in app.registered_commands:
        command.help = command.help or (command.callback and command.callback.__doc__)
        paragraphs, _ = split_examples(command.help or "")
        if command.short_help is None and paragraphs:
            command.short_help = paragraphs[0]
        if command.cls in (None, TyperCommand):
            command.cls = PlainCommand
        _accept_spellings(command)

    for group in app.registered_groups:
        if group.typer_instance is not None:
            info = group.typer_instance.info
            if not isinstance(info.cls, type) or info.cls is TyperGroup:
                info.cls = OrderedGroup
            tidy_help(group.typer_instance, f"{name} {group.name}")


def _accept_spellings(command: Any) -> None:
    """Let a command take the older spellings of its options that its configuration names."""
    spellings = getattr(command.callback, "spellings", None)
    if not spellings:
        return

    def spelled(name: str) -> str:
        name = OTHER_SPELLINGS.get(name, name)
        return str(spellings.get(name, name))

    command.context_settings = {
        **(command.context_settings or {}),
        "token_normalize_func": spelled,
    }


def _with_value_names(params: list[Any], ctx: Any) -> list[Any]:
    """The parameters with a plain name for the value of each that has no name of its own."""
    for param in params:
        if getattr(param, "param_type_name", "") != "option" or param.metavar is not None:
            continue
        display = getattr(param, "display_type", None)
        kind = (display(ctx) or "") if display else str(getattr(param.type, "name", ""))
        plain = kind.strip("<>").lower().removeprefix("list[").removesuffix("]")
        if plain in _VALUE_NAMES:
            param.metavar = _VALUE_NAMES[plain]
    return params
