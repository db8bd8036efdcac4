"""Record of a run in config.toml and environment.json, and its result on stdout and stderr."""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import tomli_w
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from physadv.core.addresses import public_address
from physadv.core.config import COMMAND_KEY, Config
from physadv.core.errors import PhysadvError
from physadv.core.files import make_folder, refuse_unless_file, write_json, write_text
from physadv.core.run_folder import (
    HeldFolder,
    assert_folder_possible,
    locked_file,
    locked_folder,
    new_run_folder,
    record_of,
    recorded_beside,
    refuse_other_file,
    refuse_other_run,
    removed_if_only_recorded,
    set_aside,
)
from physadv.core.shards import WHOLE, Shard
from physadv.core.trust import only_code_named
from physadv.core.visible_text import visible_line, visible_text
from physadv.core.wording import count_noun
from physadv_cli.streams import write_result
from physadv_cli.torchrun import is_first, refuse_several

if TYPE_CHECKING:
    from physadv.datasets import DatasetSummary
    from physadv.models.cards import LoadedModel


class RunConsole(Console):
    """Console for people, on stderr; what a terminal would obey in a text is written out."""

    full_errors = False
    """Whether errors are printed with their traceback."""
    json_stream: TextIO | None = None
    """Where --json goes while stdout is lent to stderr; None for stdout itself."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """Render as rich does; only its own control codes reach the terminal."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text, style, control) if control else Segment(visible_text(text), style)

    def render_str(self, text: str, **options: Any) -> Text:
        """Convert a text to print; widths are measured of what is shown."""
        return super().render_str(visible_text(text), **options)


console = RunConsole(stderr=True, highlight=False, markup=False)
"""Everything for people goes here; stdout belongs to --json. Brackets are text: names of files may
hold them."""

_RECORDED_PACKAGES = (
    "physadv",
    "torch",
    "kornia",
    "numpy",
    "opencv-python",
    "pillow",
    "reportlab",
    "pikepdf",
    "safetensors",
)


@dataclass(frozen=True)
class RunOptions:
    """Options of a run that do not change its result: where it is written and what is printed."""

    command: str
    out: Path | None = None
    as_json: bool = False
    quiet: bool = False
    verbose: bool = False
    threads: int | None = 0
    """CPU threads of torch; 0 leaves the number to torch, None leaves torch alone."""
    overwrite: bool = False
    force: bool = False
    dry_run: bool = False
    preview: bool = False
    shard: str | None = None
    """Share of the batches to do, such as "2/8"; None for all."""
    require: Sequence[str] | None = None
    """Limits that figures must keep, such as "robust >= 0.5"."""
    held: contextlib.ExitStack = field(default_factory=contextlib.ExitStack, compare=False)
    """What is released when the command ends, such as the lock of the run's folder."""
    folders: list[HeldFolder] = field(default_factory=list, compare=False)
    """Folders that this run alone writes into."""

    def begin(self) -> None:
        """Set how much is printed, and torch's threads."""
        console.quiet = self.quiet or not is_first()
        console.full_errors = self.verbose
        if self.threads is not None:
            from physadv_cli.arithmetic import prepare_torch

            prepare_torch(self.threads)

    def own_shard(self) -> Shard:
        """Return the share of the run's batches that this process does.

        Raises:
            OptionError: ``--shard`` names none.
        """
        return WHOLE if self.shard is None else Shard.parse(self.shard)

    def open_folder(
        self,
        config: Config,
        claim: Callable[[Path], object] | None = None,
        *,
        compares_settings: bool | None = None,
        data: DatasetSummary | None = None,
    ) -> Path:
        """Create the run's folder, keep other processes out of it, record the configuration there,
        and return it.

        Args:
            config: what the run records.
            claim: called with the folder first; raises where the folder holds a run that this one
                does not resume.
            compares_settings: whether a run there must have the same configuration; None for
                commands without a ``claim``, which would compare what matters.
            data: what the run's data were taken for, which environment.json records.

        Raises:
            OptionError: the folder holds another run, unless ``overwrite``; or another process
                writes there.
        """
        folder = self.take_folder(self.out or default_folder(self.command))
        self.make_room(folder, config, claim, compares_settings=compares_settings)
        return open_run(self.command, folder, config.as_table(), data)

    def make_room(
        self,
        folder: Path,
        config: Config,
        claim: Callable[[Path], object] | None = None,
        *,
        compares_settings: bool | None = None,
    ) -> None:
        """Refuse a folder with another run or, with ``overwrite``, set that run aside.

        Args:
            folder: the run's folder.
            config: configuration of this run.
            claim: compares the run there with this one, as in :meth:`open_folder`.
            compares_settings: as in :meth:`open_folder`.

        Raises:
            OptionError: the folder holds another run, and ``overwrite`` is off.
        """
        if compares_settings is None:
            compares_settings = claim is None
        try:
            refuse_other_run(folder, config, by_command_only=not compares_settings)
            if claim is not None:
                claim(folder)
        except PhysadvError:
            if not self.overwrite:
                raise
            console.print(f"the earlier run is kept in {set_aside(folder)}")
            if claim is not None:
                claim(folder)

    def take_folder(self, folder: Path) -> Path:
        """Create ``folder`` and keep other processes out of it until the command ends; return it.

        A folder that this run holds already is returned as it is. One that did not exist goes
        again where the command fails before it wrote a result.

        Raises:
            OptionError: a file stands there, or another process writes into the folder.
        """
        if any(held.folder == folder for held in self.folders):
            return folder
        assert_folder_possible(folder)
        is_new = not folder.exists() or (self.out is None and not any(folder.iterdir()))
        make_folder(folder)
        self.folders.append(self.held.enter_context(locked_folder(folder)))
        if is_new:
            self.held.enter_context(removed_if_only_recorded(folder))
        return folder

    def claim_file(self, file: Path, config: Config) -> Path:
        """Keep other processes from writing ``file`` until the command ends, and return it.

        Args:
            file: where the one result of a command without a run folder goes.
            config: what is recorded beside it, as ``NAME.config.toml`` for a file ``NAME.json``.

        Raises:
            OptionError: another process writes the file, or, unless ``overwrite``, one that
                another configuration made, or something else, stands there.
        """
        assert_folder_possible(file.parent)
        make_folder(file.parent)
        self.held.enter_context(locked_file(file))
        if not self.overwrite:
            refuse_other_file(file, record_of(file), config)
        refuse_unless_file(file)
        text = tomli_w.dumps(plain(config.as_table()))
        self.held.enter_context(recorded_beside(file, text))
        return file

    def finish(self, result: Mapping[str, Any], summary: str) -> None:
        """Print ``summary`` for people and, with ``--json``, ``result`` as one JSON object.

        Raises:
            OptionError: A folder of the run was removed or replaced meanwhile.
            PhysadvError: stdout does not take the result.
        """
        for folder in self.folders:
            folder.assert_in_place()
        console.print(summary)
        if self.as_json:
            stream = console.json_stream or sys.stdout
            write_result(stream, json.dumps(plain(result)) + "\n")


def earlier_record_faults(
    file: Path, remedy: str = "Name another --out to begin anew, or add --verbose to see where"
) -> contextlib.AbstractContextManager[None]:
    """Return a context for what is made of a record that an earlier run left in ``file``.

    A fault in it is one error of that file, which may be damaged or from elsewhere. Made before
    the work begins: where there is no such file then, a fault is the program's own and stays one.

    Args:
        file: record of the run.
        remedy: what to do about it.
    """
    from physadv.core.errors import DataError
    from physadv.core.reading import foreign_errors

    if not file.is_file():
        return contextlib.nullcontext()
    return foreign_errors(f'"{file}"', DataError, "is no record that a run goes on from", remedy)


def print_data(summary: DatasetSummary) -> None:
    """Print what a data set was taken for: layout, part, images a class, classes, what was left
    out."""
    _print_under("data", summary.lines())


def print_asked(model: LoadedModel) -> None:
    """Print that ``model`` gives answers alone, and why, before anything is asked; nothing for
    other models."""
    from physadv.models.black_box import black_box_within

    box = black_box_within(model)
    if box is None:
        return
    reason = str(model.card.extra.get("gradient", "")).removeprefix("none: ")
    limit = f"budget {count_noun(box.budget, 'image')}" if box.budget else "no budget"
    answers = {"labels": "classes", "boxes": "boxes"}.get(box.outputs, "scores")
    words = f"gives {answers}, no gradient{f' ({reason})' if reason else ''}; {limit}"
    _print_under("model", [visible_line(words)])


def queries_sent(model: LoadedModel) -> dict[str, int]:
    """Return the images that this process sent to a black box and its budget; nothing for other
    models."""
    from physadv.models.black_box import black_box_within

    box = black_box_within(model)
    return {} if box is None else {"queries": box.sent, "query_budget": box.budget}


def query_lines(result: Mapping[str, Any]) -> list[str]:
    """Return the line on queries of a result that has some; nothing for others."""
    if "queries" not in result:
        return []
    most = result["query_budget"]
    return [
        f"{count_noun(result['queries'], 'query')} sent" + (f", {most} allowed" if most else "")
    ]


def _print_under(head: str, lines: Iterable[str]) -> None:
    """Print ``lines``, wrapped and indented, the first behind ``head``."""
    indent = " " * 9
    for number, line in enumerate(lines):
        wrapped = textwrap.wrap(
            line,
            width=max(40, console.width),
            initial_indent=f"{head:9}" if number == 0 else indent,
            subsequent_indent=indent,
            break_long_words=False,
            break_on_hyphens=False,
        )
        console.print("\n".join(wrapped), soft_wrap=True)


def print_entry(head: str, detail: str = "") -> None:
    """Print an entry of a list: ``head`` in a line of its own, whole whatever the terminal's width,
    since it may be a name to type; ``detail`` below it, indented."""
    console.print(visible_line(head), soft_wrap=True)
    text = visible_line(detail).replace(" %", "\u00a0%")  # a number keeps its sign
    for line in textwrap.wrap(text, max(40, console.width - 4)):
        plain = line.replace("\u00a0", " ")
        console.print(f"    {plain}", style="dim", soft_wrap=True)


def print_findings(findings: Sequence[Mapping[str, Any]]) -> None:
    """Print each of ``findings``, as a run's ``doubts`` hold them: a warning for amber, "not valid"
    for red."""
    for finding in findings:
        word = ("not valid", "red") if finding["light"] == "red" else ("warning", "yellow")
        text = f"{finding['name']}: {finding['finding']}. {finding['remedy']}."
        console.print(Text.assemble(word, f" {text}"))


def print_unused(lines: Iterable[str]) -> None:
    """Print a warning of each option that changes nothing, as a configuration's
    ``unused_options`` tells it."""
    for line in lines:
        console.print(f"warning: {line}", style="yellow", soft_wrap=True)


def code_typed(
    names: Sequence[str], in_files: Mapping[str, str] | None = None, *, trust: bool
) -> contextlib.AbstractContextManager[None]:
    """Return the rule by which only code runs that was typed, as a context for the command's work.

    Args:
        names: Values on the command line that may name code.
        in_files: Such values from a file, with that file.
        trust: Whether it runs without a line on stderr that says so.
    """

    def announce(line: str) -> None:
        console.print(line, soft_wrap=True, style="yellow")

    return only_code_named(names, in_files=in_files, announce=None if trust else announce)


@contextlib.contextmanager
def stdout_for_json() -> Iterator[None]:
    """Send to stderr what other code prints, such as a user's model, so that ``--json`` has stdout
    alone.

    What native code writes to the process's stdout is sent there too.
    """
    console.json_stream = sys.stdout
    with contextlib.ExitStack() as restored:
        restored.callback(setattr, console, "json_stream", None)
        try:
            descriptor = sys.stdout.fileno()
        except (OSError, io.UnsupportedOperation):
            pass  # stdout is no file, as in tests: nothing native writes to it
        else:
            sys.stdout.flush()
            kept = os.dup(descriptor)
            restored.callback(os.close, kept)
            restored.callback(os.dup2, kept, descriptor)
            os.dup2(sys.stderr.fileno(), descriptor)
            stream = os.fdopen(os.dup(kept), "w", encoding="utf-8")
            console.json_stream = restored.enter_context(stream)
        restored.enter_context(contextlib.redirect_stdout(sys.stderr))
        yield


def begin_report(command: str, *, json: bool, quiet: bool, verbose: bool) -> RunOptions:
    """Set how much a command without a run folder prints.

    Args:
        command: the activity's name.
        json: whether the result is printed as JSON.
        quiet: whether only errors are printed.
        verbose: whether errors are printed with their traceback.

    Returns:
        The run, for :meth:`RunOptions.finish`.

    Raises:
        OptionError: torchrun started several processes.
    """
    refuse_several(command)
    run = RunOptions(command, as_json=json, quiet=quiet, verbose=verbose, threads=None)
    run.begin()
    return run


def versions() -> dict[str, str]:
    """Return the installed versions of what a result depends on."""
    installed = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            installed[name] = "not installed"
    return installed


def plain(value: Any) -> Any:
    """Return ``value`` fit for TOML and JSON: paths as text, None left out of tables and lists."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items() if v is not None}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value if v is not None]
    return value if isinstance(value, str | int | float | bool) else str(value)


def default_folder(command: str) -> Path:
    """Create the folder of a run of ``command`` that starts now, runs/<utc>-<command>, and return
    it."""
    return new_run_folder(command, datetime.now(UTC))


def open_run(
    command: str,
    out: Path | None,
    config: Mapping[str, Any],
    data: DatasetSummary | None = None,
) -> Path:
    """Create a run's folder and record its configuration and environment there.

    Args:
        command: the activity's name.
        out: the folder; a new one under runs/ where None.
        config: what config.toml shall hold.
        data: what the run's data were taken for; None for a run without a data set.

    Returns:
        The folder.
    """
    folder = make_folder(out or default_folder(command))
    table = {COMMAND_KEY: command, **plain(config)}
    _write_config(folder, table)
    write_json(
        folder / "environment.json",
        {
            **versions(),
            "platform": platform.platform(),
            "argv": [public_address(word) for word in sys.argv[1:]],
            **({} if data is None else {"data_summary": data.as_dict()}),
        },
    )
    return folder


def record_config(folder: Path, config: Config) -> None:
    """Record ``config`` in ``folder`` alone, without the environment.

    For folders that people pass on, such as cloaked photos.
    """
    make_folder(folder)
    _write_config(folder, plain(config.as_table()))


def _write_config(folder: Path, table: Mapping[str, Any]) -> None:
    write_text(folder / "config.toml", tomli_w.dumps(table))
