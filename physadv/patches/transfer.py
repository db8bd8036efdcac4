"""Transfer of bundles to other models, on the same held-out scenes with the same controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from physadv.core.errors import OptionError, PhysadvError
from physadv.core.rows import Row
from physadv.defenses.load_model import load_model
from physadv.models.cards import LoadedModel
from physadv.patches.bundle import PatchBundle
from physadv.patches.card import rates_table
from physadv.patches.config import PatchConfig
from physadv.patches.optimize import PatchMeasurement, measure_patch
from physadv.patches.photo_task import ANYWHERE
from physadv.patches.reverify import config_from_bundle, locate_files, refuse_foreign_models
from physadv.patches.task import PatchTask, goal_for, scene_size_for


@dataclass(frozen=True)
class TransferCell:
    """One bundle judged by one model; ``measured`` is None where ``reason`` says why that has no
    sense."""

    bundle: str
    made_on: str
    model: str
    goal: str
    measured: PatchMeasurement | None
    reason: str = ""

    def as_row(self) -> Row:
        """One line of transfer.jsonl."""
        row: Row = {
            "bundle": self.bundle,
            "made_on": self.made_on,
            "victim": self.model,
            "goal": self.goal,
        }
        if self.measured is None:
            return {**row, "reason": self.reason}
        return {**row, "same_victim": self.made_on == self.model, **rates_table(self.measured)}


def transfer_matrix(
    bundles: Sequence[PatchBundle],
    models: Sequence[str],
    *,
    data: Path | None = None,
    draws: int | None = None,
    scenes: dict[str, str] | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[TransferCell]:
    """Measure bundles on other models, on the bundles' own held-out scenes with the same controls.

    Scenes are shown as the judging model sees them: crops to a classifier, frames to a detector,
    where a class to be seen anywhere becomes a box to be created. Only draws whose clean control
    the judging model recognizes count.

    Args:
        bundles: The bundles.
        models: Judging models, each NAME or NAME=WEIGHTS.
        data: Folder under which the data sets on the cards pose.
        draws: Number of scenes a cell; None for the card's.
        scenes: Files in place of every card's "signs", "backgrounds", "photos" or "boxes".
        report: Called with a line before each cell.

    Yields:
        One cell a pair; a pair that cannot be measured becomes a cell with its reason.

    Raises:
        BundleError: A card names a foreign model that the user did not name.
    """
    changed: dict[str, Any] = dict(scenes or {})
    for bundle in bundles:
        refuse_foreign_models(
            bundle,
            (config_from_bundle(bundle).model, *config_from_bundle(bundle).ensemble),
            named_by_user=[text.partition("=")[0] for text in models],
        )
        config = replace(
            locate_files(config_from_bundle(bundle), bundle, data), device="cpu", **changed
        )
        name, made_on = bundle.card.patch.name, config.model
        task = PatchTask.from_config(config)
        own = task.loaded_model
        task = replace(task, mask=bundle.mask)
        for text in models:
            model_name, _, weights = text.partition("=")
            if report is not None:
                report(f"{name} on {model_name}")
            model = (
                own
                if model_name == config.model and not weights
                else _loaded(model_name, weights, data)
            )
            try:
                judged = replace(task, models=(model,), goals=(), **_asked(config, model, own))
            except PhysadvError as error:
                yield TransferCell(
                    name, made_on, model_name, config.goal, None, f"{error.value}: {error.limit}"
                )
                continue
            measured = measure_patch(judged, bundle.patch, draws=draws or config.test_draws)
            yield TransferCell(name, made_on, model_name, judged.goal.kind, measured)


def _loaded(name: str, weights: str, data: Path | None) -> LoadedModel:
    file = Path(weights)
    if weights and not file.exists() and data is not None:
        file = data / weights
    return load_model(name, weights=file if weights else None)


def _asked(config: PatchConfig, model: LoadedModel, own: LoadedModel) -> dict[str, Any]:
    """Goal and view of another model. Raises OptionError and ModelError for what it cannot be
    asked."""
    detects = model.card.task == "detect"
    if config.object not in ("sign", ANYWHERE) and not detects:
        raise OptionError(
            f"boxes of {config.object}", f"{model.card.name} is a classifier", "name a detector"
        )
    if config.object == ANYWHERE and not detects and model.card.classes != own.card.classes:
        raise OptionError(
            f"photos labeled by {own.card.name}'s classes",
            f"{model.card.name} has others",
            "name one",
        )

    asked = replace(config, threshold=config.threshold if model is own else None)
    if config.object == ANYWHERE and detects:  # a class to be seen becomes a box to appear
        asked = replace(asked, goal="create")

    return {"goal": goal_for(asked, model), "scene_size": scene_size_for([model])}


def transfer_table(cells: Sequence[TransferCell]) -> str:
    """Return ``cells`` as a Markdown table: a line a bundle, a column a model, success with its
    interval and the blank control."""
    models = list(dict.fromkeys(c.model for c in cells))
    lines = ["| patch (made on) | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for name in dict.fromkeys(c.bundle for c in cells):
        own = {c.model: c for c in cells if c.bundle == name}
        made = next(iter(own.values())).made_on
        lines.append(f"| {name} ({made}) | " + " | ".join(_cell(own.get(v)) for v in models) + " |")
    return "\n".join(lines)


def _cell(cell: TransferCell | None) -> str:
    if cell is None or cell.measured is None:
        return "-"
    found = cell.measured
    if not found.success.n:
        return "clean never recognised"
    s, b = found.success, found.blank_success
    return f"{s.rate:.0%} [{s.low:.0%}, {s.high:.0%}], blank {b.rate:.0%}, n {s.n}"
