"""Transfer of bundles to other models, on the same held-out scenes with the same controls.

Measured cells can be recorded on the cards of the bundles, and compared with what is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from physadv.core.errors import BundleError, OptionError, PhysadvError
from physadv.core.rows import Row
from physadv.core.visible_text import markdown_cell
from physadv.core.wording import format_ends, format_percent
from physadv.defenses.load_model import load_model
from physadv.evaluation.metrics.intervals import RateInterval
from physadv.models.cards import LoadedModel
from physadv.models.load import is_built_in
from physadv.patches.bundle import ModelInfo, PatchBundle, TransferRecord, write_card
from physadv.patches.card import rates_table
from physadv.patches.config import ANYWHERE, PatchConfig
from physadv.patches.optimize import PatchMeasurement, measure_patch
from physadv.patches.reverify import (
    config_from_bundle,
    locate_files,
    rates_agree,
    recorded_plain,
    recorded_ranges,
    refuse_foreign_models,
)
from physadv.patches.task import PatchTask, goal_for, scene_size_for
from physadv.patches.victim_hashes import (
    are_comparable,
    is_same_weights,
    recorded_hashes,
    weight_hash,
)


@dataclass(frozen=True)
class TransferCell:
    """One bundle measured on one model.

    Args:
        bundle: Name of the patch.
        made_on: Model that it was optimized on.
        model: Model that it was measured on.
        goal: Goal that was measured.
        measured: The rates; None where the measurement has no meaning.
        reason: Why it has none.
        record: The same as the bundle's card holds it; None where there are no rates.
        has_other_weights: Whether the model has other weights than those that the patch was made
            on, though it may have the same name.
    """

    bundle: str
    made_on: str
    model: str
    goal: str
    measured: PatchMeasurement | None
    reason: str = ""
    record: TransferRecord | None = None
    has_other_weights: bool = False

    @property
    def is_same_model(self) -> bool:
        """Whether the patch was optimized on this model, as far as names and weights tell."""
        return self.made_on == self.model and not self.has_other_weights

    def as_row(self) -> Row:
        """Return the cell as one line of transfer.jsonl."""
        row: Row = {
            "bundle": self.bundle,
            "made_on": self.made_on,
            "victim": self.model,
            "goal": self.goal,
        }
        if self.measured is None:
            return {**row, "reason": self.reason}
        own = {"same_victim": self.is_same_model}
        if self.record is not None:
            own["in_training"] = self.record.in_training
        return {**row, **own, **rates_table(self.measured)}


def transfer_matrix(
    bundles: Sequence[PatchBundle],
    models: Sequence[str],
    *,
    data: Path | None = None,
    draws: int | None = None,
    as_recorded: bool = False,
    scenes: dict[str, str] | None = None,
    report: Callable[[str], None] | None = None,
) -> Iterator[TransferCell]:
    """Measure every bundle on every model, one cell after the other.

    The scenes are each bundle's own held-out ones, in the form that the model takes: crops for a
    classifier, frames for a detector, for which a target class anywhere becomes a box to create.
    Each model's own clean control decides which draws count.

    Args:
        bundles: Bundles to measure.
        models: Models as NAME or NAME=WEIGHTS.
        data: Folder that holds the data sets named on the cards.
        draws: Draws a cell; None for the number on each card.
        as_recorded: Whether a model on a card's table of transfer gets the number of draws that it
            had there, unless ``draws`` is given.
        scenes: What replaces "signs", "faces", "backgrounds", "photos" or "boxes" of every bundle.
        report: Called with the name of each cell before it is measured.

    Yields:
        The cells; a measurement that has no meaning has a reason instead.

    Raises:
        BundleError: A card names a model that would run foreign code.
        DataError: A file named on a card is nowhere.
        ModelError: A model cannot be loaded.
    """
    trusted = [text.partition("=")[0] for text in models]
    for bundle in bundles:
        recorded = config_from_bundle(bundle)
        named = (recorded.model, *recorded.ensemble)
        refuse_foreign_models(bundle, named, named_by_user=trusted)
        changes: dict[str, Any] = dict(scenes or {})
        config = replace(locate_files(recorded, bundle, data), device="cpu", **changes)
        task = PatchTask.from_config(
            config, ranges=recorded_ranges(config, bundle), plain_backgrounds=recorded_plain(bundle)
        )
        task = replace(task, mask=bundle.mask)

        for text in models:
            model, _, weights = text.partition("=")
            if report is not None:
                report(f"{bundle.card.patch.name} on {model}")
            own = model == config.model and not weights
            judge = task.loaded_model if own else _load_judge(model, weights, data)
            known = {r.victim.name: r.draws for r in bundle.card.transfer if as_recorded}
            count = draws or known.get(_recorded_name(model)) or config.test_draws
            yield _measure_cell(bundle, task, config, model, judge, count)


def _measure_cell(
    bundle: PatchBundle,
    task: PatchTask,
    config: PatchConfig,
    name: str,
    judge: LoadedModel,
    draws: int,
) -> TransferCell:
    """One bundle on the model ``judge``, called ``name``."""
    patch, made_on = bundle.card.patch.name, config.model
    try:
        terms = _terms_of(config, judge, task.loaded_model)
    except PhysadvError as error:
        reason = f"{error.value}: {error.limit}"
        return TransferCell(patch, made_on, name, config.goal, None, reason)

    judged = replace(task, models=(judge,), goals=(), scene_sizes=(), **terms)
    measured = measure_patch(judged, bundle.patch, draws=draws)
    victim = ModelInfo(_recorded_name(name), judge.card.task, judge.card.sha256)
    hashed = weight_hash(judge)
    record = TransferRecord(
        victim=victim,
        in_training=_is_in_training(bundle, config, victim, hashed),
        goal=judged.goal.kind,
        draws=draws,
        success=measured.success,
        blank_success=measured.blank_success,
        clean_recognised=measured.clean_recognised,
        score_threshold=judged.goal.score_threshold if judge.card.task == "detect" else None,
    )
    first = recorded_hashes(bundle.card.optimisation)[:1]
    is_other = any(are_comparable(h, hashed) and not is_same_weights(h, hashed) for h in first)
    return TransferCell(patch, made_on, name, judged.goal.kind, measured, "", record, is_other)


def _recorded_name(name: str) -> str:
    """What a card calls a model: a file goes by its name, wherever it lies."""
    return Path(name).name if Path(name).is_file() else name


def _is_in_training(
    bundle: PatchBundle, config: PatchConfig, victim: ModelInfo, hashed: str
) -> bool:
    """Whether ``bundle`` was made on ``victim``, whose weights are ``hashed``: the same weights, or
    the same name where weights are not recorded."""
    recorded = recorded_hashes(bundle.card.optimisation)
    if any(are_comparable(own, hashed) and is_same_weights(own, hashed) for own in recorded):
        return True
    if len(recorded) == 1 + len(config.ensemble):
        names = (bundle.card.victim.name, *(text.partition("=")[0] for text in config.ensemble))
        pairs = zip(names, recorded, strict=True)
        return any(n == victim.name and not are_comparable(own, hashed) for n, own in pairs)

    own = bundle.card.victim
    if own.sha256 and victim.sha256:
        if own.sha256 == victim.sha256:
            return True
    elif own.name == victim.name:
        return True
    return victim.name in {text.partition("=")[0] for text in config.ensemble}


def record_transfer(bundle: PatchBundle, cells: Sequence[TransferCell]) -> PatchBundle:
    """Write the measured ``cells`` of ``bundle`` on its card, each in place of an earlier one.

    Returns:
        The bundle with the new card.

    Raises:
        BundleError: The folder cannot be written.
    """
    fresh = {
        cell.record.victim.name: cell.record
        for cell in cells
        if cell.record is not None and cell.bundle == bundle.card.patch.name
    }
    kept = {record.victim.name: record for record in bundle.card.transfer}
    changed = replace(bundle, card=replace(bundle.card, transfer=(*(kept | fresh).values(),)))
    write_card(changed)
    return changed


@dataclass(frozen=True)
class TransferComparison:
    """A rate on a bundle's card beside one measured now.

    Args:
        bundle: Name of the patch.
        model: Model that both were measured on.
        claimed: Success on the card.
        measured: Success measured now.
        agrees: Whether they agree (:func:`physadv.patches.reverify.rates_agree`).
    """

    bundle: str
    model: str
    claimed: RateInterval
    measured: RateInterval
    agrees: bool


def recorded_models(bundle: PatchBundle, *, named_by_user: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the models on the card's table of transfer, which may be measured again.

    Raises:
        BundleError: The card has no such table, or names a model that would run foreign code and is
            not ``named_by_user``.

    Example::

        transfer_matrix([bundle], recorded_models(bundle), as_recorded=True)
    """
    names = tuple(record.victim.name for record in bundle.card.transfer)
    if not names:
        raise BundleError(
            f"{bundle.folder}",
            "its card records no transfer",
            "Measure it with `physadv patch transfer BUNDLE --model MODEL --record`",
        )
    foreign = [name for name in names if not is_built_in(name)]
    given = {_recorded_name(name) for name in named_by_user}
    refuse_foreign_models(bundle, foreign, named_by_user=given)
    return names


def compare_transfer(
    bundle: PatchBundle, cells: Sequence[TransferCell]
) -> list[TransferComparison]:
    """Compare ``cells`` measured now with the card of their ``bundle``, model by model.

    Raises:
        BundleError: A model has other weights than the one on the card.
    """
    recorded = {record.victim.name: record for record in bundle.card.transfer}
    comparisons = []
    for cell in cells:
        now = cell.record
        if now is None or cell.bundle != bundle.card.patch.name:
            continue
        before = recorded.get(now.victim.name)
        if before is None:
            continue
        if before.victim.sha256 and before.victim.sha256 != now.victim.sha256:
            raise BundleError(
                f'Model "{now.victim.name}" has weights with sha256 {now.victim.sha256[:12]}',
                f"the card records {before.victim.sha256[:12]}",
                "Give those weights with --weights NAME=FILE",
            )
        agrees = rates_agree(before.success, now.success, same_draws=before.draws == now.draws)
        comparisons.append(
            TransferComparison(cell.bundle, cell.model, before.success, now.success, agrees)
        )
    return comparisons


def _load_judge(name: str, weights: str, data: Path | None) -> LoadedModel:
    """The model ``name``, its weights looked for here and under ``data``."""
    file = Path(weights)
    if weights and not file.exists() and data is not None:
        file = data / weights
    return load_model(name, weights=file if weights else None)


def _terms_of(config: PatchConfig, judge: LoadedModel, own: LoadedModel) -> dict[str, Any]:
    """Goal and scene size for another model; PhysadvError where they have no meaning."""
    detects = judge.card.task == "detect"
    if config.object not in ("sign", ANYWHERE) and not detects:
        raise OptionError(
            f"boxes of {config.object}", f"{judge.card.name} is a classifier", "Name a detector"
        )
    if config.object == ANYWHERE and not detects and judge.card.classes != own.card.classes:
        raise OptionError(
            f"photos labeled by the classes of {own.card.name}",
            f"{judge.card.name} has others",
            "Name a model with the same classes",
        )

    terms = replace(config, threshold=config.threshold if judge is own else None)
    if config.object == ANYWHERE and detects:
        terms = replace(terms, goal="create")
    return {"goal": goal_for(terms, judge), "scene_size": scene_size_for([judge])}


def transfer_table(cells: Sequence[TransferCell]) -> str:
    """Return ``cells`` as a Markdown table: a line a bundle, a column a model.

    A cell is the success with its interval, the blank control's success, and n.

    Example:
        >>> print(transfer_table([TransferCell("stop", "signs", "other", "vanish", None)]))
        | patch (made on) | other |
        |---|---|
        | stop (signs) | - |
    """
    models = list(dict.fromkeys(cell.model for cell in cells))
    shown = " | ".join(map(markdown_cell, models))
    lines = [f"| patch (made on) | {shown} |", "|---" * (len(models) + 1) + "|"]
    for name in dict.fromkeys(cell.bundle for cell in cells):
        row = {cell.model: cell for cell in cells if cell.bundle == name}
        made_on = next(iter(row.values())).made_on
        texts = (_cell_text(row.get(model)) for model in models)
        lines.append(
            f"| {markdown_cell(name)} ({markdown_cell(made_on)}) | " + " | ".join(texts) + " |"
        )
    return "\n".join(lines)


def _cell_text(cell: TransferCell | None) -> str:
    if cell is None or cell.measured is None:
        return "-"
    success, blank = cell.measured.success, cell.measured.blank_success
    if not success.n:
        return "clean never recognized"
    share, other = format_percent(success.rate, 0), format_percent(blank.rate, 0)
    return f"{share} {format_ends(success.low, success.high)}, blank {other}, n {success.n}"
