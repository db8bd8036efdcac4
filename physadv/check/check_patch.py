"""Check of a printed or simulated patch from Python: a source in, rates with intervals out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from physadv.check.check_task import CheckTask
from physadv.check.config import CheckConfig
from physadv.check.differences import control_differences
from physadv.check.rates import BlockRates, draw_conclusion, ended_by_data, tabulate_rates
from physadv.check.run_check import ROWS, SETTINGS
from physadv.check.session import CheckProgress
from physadv.core.notebook_html import result_html
from physadv.core.rows import Row, read_rows
from physadv.core.tables import read_table
from physadv.models.load import as_model


@dataclass(frozen=True)
class CheckResult:
    """Result of a check.

    Attributes:
        blocks: Rates of each block measured: "clean", "blank" and "patch", with the true class's
            rate, the attack's success, and their 95 % intervals over clips.
        valid: Whether the controls allow a claim about the patch.
        headline: Sentence with the result.
        notes: Qualifications of the result, such as few clips or a simulation.
        rows: One table per frame.
        folder: Folder of the run with rows and examples, where ``out`` was given.

    Example:
        >>> result = check("runs/twin", bundle="stop-sticker-signs-v1")  # doctest: +SKIP
        >>> CheckResult({}, False, "Nothing was measured.", (), (), None).valid
        False
    """

    blocks: Mapping[str, BlockRates]
    valid: bool
    headline: str
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    folder: Path | None

    def __str__(self) -> str:
        return "\n".join([self.headline, *(f"note: {note}" for note in self.notes)])

    def _repr_html_(self) -> str:
        """The result in a notebook."""
        facts = {f"{name}: goal met": rates.attack for name, rates in self.blocks.items()}
        return result_html(self.headline, facts, notes=self.notes)


def check(
    source: str | Path | int,
    *,
    bundle: str | Path | None = None,
    model: nn.Module | str | Path | None = None,
    out: str | Path | None = None,
    on_progress: Callable[[CheckProgress], None] | None = None,
    **settings: Any,
) -> CheckResult:
    """Measure how often a printed or simulated patch meets its goal, with clean and blank controls.

    Args:
        source: Folder of the twin, video, folder of photos or clips, stream address, or the index
            of a camera.
        bundle: Bundle that was printed, by folder or name; it names model, goal and classes.
        model: Model under test, a module, a name or a file; None for the bundle's. Without a bundle
            ``goal`` and ``true_class`` are needed as well.
        out: Folder of the run, which an interrupted check resumes from; None records nothing.
        on_progress: Called after each batch of frames and each frame left out.
        **settings: Further fields of :class:`physadv.check.config.CheckConfig`, such as ``goal``,
            ``true_class``, ``box``, ``clean``, ``blank``, ``max_frames`` or ``seed``.

    Returns:
        Rates of each block with intervals, and what they allow to conclude.

    Raises:
        OptionError: Settings contradict each other, or ``out`` holds another check.
        BundleError: ``bundle`` is none.
        ModelError: The model cannot be loaded, or returns NaN.
        CaptureError: The source cannot be opened, or no frame could be classified.

    Example:
        >>> result = check("runs/twin", bundle="stop-sticker-signs-v1")  # doctest: +SKIP
        >>> settings = {"model": "signs", "goal": "untargeted", "true_class": "stop"}
        >>> check("no such clip.mp4", **settings)  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        physadv.core.errors.CaptureError: ...
    """
    loaded = as_model(model) if isinstance(model, nn.Module) else None
    config = CheckConfig(
        source=str(source),
        bundle=None if bundle is None else str(bundle),
        model=None if model is None or loaded is not None else str(model),
        **settings,
    )
    task = CheckTask.from_config(config, model=loaded)

    with ExitStack() as stack:
        temporary = None if out is not None else stack.enter_context(TemporaryDirectory())
        folder = Path(out if out is not None else str(temporary))
        steps = task.run(task.open_sources(stack), folder)
        with closing(steps):
            for progress in steps:
                if on_progress is not None:
                    on_progress(progress)
        rows = tuple(read_rows(folder / ROWS))
        record = read_table(folder / SETTINGS, finite=False)

    sequential = ended_by_data(record)
    blocks = tabulate_rates(rows, sequential=sequential)
    differences = control_differences(
        blocks, rows, simulation=bool(record.get("simulation")), sequential=sequential
    )
    conclusion = draw_conclusion(blocks, record, differences)
    return CheckResult(
        blocks,
        conclusion.valid,
        conclusion.headline,
        tuple(conclusion.notes),
        rows,
        None if out is None else folder,
    )
