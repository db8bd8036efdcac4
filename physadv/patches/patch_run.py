"""One patch optimization in a folder, which can be stopped, killed and resumed."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from physadv.attacks.patch_search import SearchMethod, queries_of
from physadv.core import shared_fields as shared
from physadv.core.addresses import public_address
from physadv.core.errors import DataError, OptionError
from physadv.core.files import contents_digest, write_bytes
from physadv.core.findings import Finding
from physadv.core.memory_limit import MemoryLimit
from physadv.core.process_group import ALONE, ProcessGroup
from physadv.core.random_streams import derive
from physadv.core.run_folder import UNASKED
from physadv.core.stop_signs import PLAIN
from physadv.core.tables import read_table
from physadv.core.wording import count_noun
from physadv.models.black_box import AskedModel, black_box_within
from physadv.models.cards import LoadedModel
from physadv.patches.bundle import CARD, PatchBundle, read_bundle, write_bundle
from physadv.patches.card import make_card, patch_findings, profile_findings, rates_table
from physadv.patches.config import PROFILES, PatchConfig
from physadv.patches.controls import refuse_invalid
from physadv.patches.optimize import (
    PatchMeasurement,
    PatchProgress,
    measure_controls,
    measure_patch,
    optimize_patch,
    to_8bit,
)
from physadv.patches.preview import preview_picture
from physadv.patches.race import Race, RaceProgress, load_start, save_start, task_at
from physadv.patches.resume import load_checkpoint, save_checkpoint
from physadv.patches.task import PatchTask, configured_ranges, size_for
from physadv.patches.victim_hashes import HASHES, is_other_weights, weight_hashes
from physadv.patches.visibility import (
    VisibilityCurve,
    keeps_distances,
    load_curves,
    measure_visibility,
    save_curves,
    visible_ranges,
)

_FEW_VALIDATION_DRAWS = 48
"""Draws of a validation where each costs a query."""
_VALIDATED_EVERY = 50
_CONTROL_QUERIES, _VISIBILITY_QUERIES = 3 * 128, 400
_DATA = "data_digest"
"""Entry of a card's settings: the hash of the photos and boxes of its scenes."""
_REPORTED_ONLY = ("test_draws", "name", "device")
"""Fields that do not decide the optimization."""


class PatchRun:
    """Patch optimization in a folder; every validation is a checkpoint that a second run resumes.

    First of all it measures how small the victims read a clean sign, and keeps the draws within it.

    Args:
        config: What to optimize.
        out: Folder of checkpoint and bundle, created when first written to.
        overwrite: Whether a finished bundle of another configuration may be replaced.
        force: Whether to go on where the controls are not valid.
        model: Model in place of the one that the configuration names.
        processes: Processes that make the same run and share its draws; the first alone writes.

    Raises:
        OptionError: ``out`` holds the bundle of another configuration, weights or photos, an
            option is out of range, or the processes have models of different weights or other
            photos.
        PhysadvError: Something that the configuration names cannot be used.
    """

    def __init__(
        self,
        config: PatchConfig,
        out: Path,
        *,
        overwrite: bool = False,
        force: bool = False,
        model: LoadedModel | None = None,
        processes: ProcessGroup = ALONE,
    ) -> None:
        if not overwrite:
            refuse_other_result(config, out)
        task = replace(PatchTask.from_config(config, model=model), processes=processes)
        self.weight_hashes = weight_hashes(task.models)
        self.data_digest = contents_digest(config.scene_files)
        _refuse_disagreement(self.weight_hashes, self.data_digest, processes)
        if not overwrite:
            refuse_other_weights(self.weight_hashes, out)
            refuse_other_data(self.data_digest, out)
        self._key = checkpoint_key(config, self.weight_hashes, self.data_digest)
        config = with_chosen_search(config, task)
        config = replace(config, size_mm=size_for(config, task.models, task.goal))
        self.config, self.out, self.force = config, out, force
        self._starts = config.number_of_starts  # what is found changes the configuration
        self._processes, self.memory = processes, MemoryLimit()
        refuse_race_by_scores(config, task)
        self.method = step_rule(config, task)
        refuse_small_budget(config, task, self.method)
        self.curves = self._visibility(task)
        if self.curves and not keeps_distances(config):
            task = replace(task, ranges=visible_ranges(task, self.curves))
        self.task, self.model = task, task.loaded_model
        self.resumed_at = 0
        self._won: RaceProgress | None = None
        self._leading: RaceProgress | None = None
        self._is_forced = False
        self._last: PatchProgress | None = None

    def _visibility(self, task: PatchTask) -> tuple[VisibilityCurve, ...]:
        """The curve of each victim of ``task``, from an earlier start of the run or measured; none
        where it has no sign."""
        if self.config.object != "sign":
            return ()
        saved = load_curves(self.out, self._key)
        return measure_visibility(task) if saved is None else saved

    def check_controls(self) -> list[Finding]:
        """Measure the clean and the blank control, before any step, and return what they and the
        color profile say.

        Raises:
            OptionError: A control is not valid, and ``force`` is off.
        """
        findings = patch_findings(measure_controls(self.task))
        if not self.force:
            refuse_invalid(findings)
        self._is_forced = any(finding.light == "red" for finding in findings)
        return [*findings, *profile_findings(self.config)]

    def race(self) -> Iterator[RaceProgress]:
        """Race the starts and yield the state after each step of theirs; nothing for one start.

        The winner is on disk before the last state is yielded. Its place, size and shape are those
        of the configuration from then on.
        """
        if self._won is not None or self._starts < 2:
            return
        won = load_start(self.out, self._key)
        if won is None:
            for won in Race(self.config, self.task, self.memory).run():
                if won.is_over and self._processes.is_first:
                    save_start(self.out, won, self._key)
                self._leading = won
                yield won
        assert won is not None  # a race has at least one step
        self._go_on_with(won)

    def _go_on_with(self, won: RaceProgress) -> None:
        """Place, shape and aim the sticker as the start that leads a race."""
        self._won = won
        self.task = task_at(self.task, self.config, won.best)
        self.config = replace(
            self.config,
            center_mm=won.best.center_mm,
            size_mm=won.best.size_mm,
            mask=won.best.mask or self.config.mask,
        )

    def steps(self, *, validate_every: int = _VALIDATED_EVERY) -> Iterator[PatchProgress]:
        """Run the remaining steps and yield the state after each.

        Starts that have not raced yet do so before. Every ``validate_every`` steps the patch is
        measured on the validation draws, and the state is on disk before it is yielded.
        """
        for _ in self.race():
            pass
        key = self._key
        saved = load_checkpoint(self.out, key, self.config.lr, self.config.steps)
        start: dict[str, Any] = {} if self._won is None else {"patch": self._won.patch}
        if self.curves and self._processes.is_first:
            save_curves(self.out, self.curves, key)
        if saved is not None:
            self.resumed_at, self._last = saved.step, saved
            start = {
                "start": saved.step,
                "patch": saved.patch,
                "state": saved.state,
                "best": (saved.best, saved.best_success),
            }

        loop = optimize_patch(
            self.task,
            steps=self.config.steps,
            draws=self.config.draws,
            lr=self.config.lr,
            tv=self.config.tv,
            nps=self.config.printability_weight,
            validate_every=validate_every,
            validation_draws=128 if self.method == "gradient" else _FEW_VALIDATION_DRAWS,
            method=self.method,
            memory=self.memory,
            **start,
        )
        for progress in loop:
            self._last = progress
            if progress.success is not None and self._processes.is_first:
                save_checkpoint(self.out, progress, key)
            yield progress

    def finish(
        self, report: Callable[[int], None] | None = None
    ) -> tuple[PatchBundle, PatchMeasurement]:
        """Measure the best patch on the held-out scenes and write the bundle.

        In a race that was stopped it is the one that led. ``report`` is called with the number of
        draws so far. Returns the bundle and its rates.

        Raises:
            OptionError: No step was made.
        """
        last, leading = self._last, self._leading
        if last is not None:
            patch = last.best if last.best_success >= 0 else last.patch
        elif leading is not None:
            patch = leading.patch
            self._go_on_with(leading)
        else:
            raise OptionError("No step was made", "At least one is needed", "Let it run longer")

        best = to_8bit(self.task, patch)
        measured = measure_patch(self.task, best, draws=self.config.test_draws, report=report)
        card = make_card(
            self.config,
            self.task,
            self.model,
            measured,
            steps_done=last.step if last is not None else 0,
            forced=self._is_forced,
            curves=self.curves,
        )
        card.optimisation[HASHES] = list(self.weight_hashes)
        if self.data_digest:
            card.optimisation[_DATA] = self.data_digest
        if self._won is not None:
            card.optimisation["race"] = {
                "starts": self._starts,
                "draws": self._won.draws,
                "avoided": self._avoided_names(),
            }
        card.heldout.update(self._further_models(best))
        bundle = None
        if self._processes.is_first:
            bundle = write_bundle(
                self.out,
                card=card,
                patch=best,
                mask=self.task.mask,
                preview=preview_picture(self.task, best),
                rows=list(measured.rows),
            )
            _keep_profiles(self.config, self.out)
        self._processes.wait()  # the others read it once it is written
        return bundle or read_bundle(self.out), measured

    def _avoided_names(self) -> list[str]:
        """Names of the classes that the steps did not aim at, one a model that has such a class."""
        avoided = [
            self.task.goal_of(number).avoided_class for number in range(len(self.task.models))
        ]
        return [
            model.card.class_name(number)
            for model, number in zip(self.task.models, avoided, strict=True)
            if isinstance(model, LoadedModel) and number is not None
        ]

    def _further_models(self, best: Tensor) -> dict[str, Any]:
        """Rates of an ensemble's further models on the same draws, for the card."""
        tables = {}
        for number, text in enumerate(self.config.ensemble, 1):
            measured = measure_patch(self.task, best, draws=self.config.test_draws, model=number)
            tables[text.partition("=")[0]] = rates_table(measured)
        return {"further_victims": tables} if tables else {}


def step_rule(config: PatchConfig, task: PatchTask) -> str:
    """Return what the steps of ``config`` on the models of ``task`` follow: "gradient", "square" or
    "evolution".

    Raises:
        OptionError: A gradient is asked for, and a model only answers.
    """
    asked = bool(black_boxes(task))
    if config.search_by == "auto":
        return "square" if asked else "gradient"
    if config.search_by == "gradient" and asked:
        raise OptionError(
            "--search-by gradient", "A model that only answers has none", "Use square or evolution"
        )
    return config.search_by


def with_chosen_search(config: PatchConfig, task: PatchTask) -> PatchConfig:
    """Return ``config`` with the search that "auto" stands for on the models of ``task``."""
    class_name = task.loaded_model.card.class_name(task.goal.true_class)
    classifiers = task.model_tasks == {"classify"} and step_rule(config, task) == "gradient"
    return replace(config, search=config.search_on(class_name=class_name, classifiers=classifiers))


def black_boxes(task: PatchTask) -> list[AskedModel]:
    """Return the models of ``task`` that only answer."""
    modules = [model for model in task.models if isinstance(model, nn.Module)]
    return [box for module in modules if (box := black_box_within(module)) is not None]


def planned_queries(config: PatchConfig, method: str, *, test_draws: int | None = None) -> int:
    """Return about how many images a run shows to each model: controls, steps, validations, test.

    Args:
        config: Configuration of the run.
        method: What its steps follow, "square" or "evolution".
        test_draws: Held-out draws; None for those of ``config``.
    """
    validations = -(-config.steps // _VALIDATED_EVERY) * 4 * _FEW_VALIDATION_DRAWS
    steps = queries_of(cast(SearchMethod, method), config.steps, config.draws)
    before = _CONTROL_QUERIES + (_VISIBILITY_QUERIES if config.object == "sign" else 0)
    return before + steps + validations + 3 * (test_draws or config.test_draws)


def refuse_small_budget(config: PatchConfig, task: PatchTask, method: str) -> None:
    """Refuse a run that a black box's budget of queries cannot carry to its end. Raises
    OptionError."""
    if method == "gradient":
        return
    needed = planned_queries(config, method)
    for box in black_boxes(task):
        if box.budget and box.sent + needed > box.budget:
            raise OptionError(
                f"{public_address(box.name)}: the run takes about {count_noun(needed, 'query')}",
                f"Its budget is {box.budget:,}, of which {box.sent:,} are sent",
                "Lower --steps, --draws or --test-draws, or raise the budget",
            )


def refuse_race_by_scores(config: PatchConfig, task: PatchTask) -> None:
    """Refuse several starts on a model without gradients. Raises OptionError."""
    if config.number_of_starts > 1 and step_rule(config, task) != "gradient":
        raise OptionError(
            f"{config.number_of_starts} starts by scores alone",
            "Starts race by their gradients",
            "Leave out --search and --restarts",
        )


def _keep_profiles(config: PatchConfig, folder: Path) -> None:
    """Copy the named profiles into the bundle, which can then be measured again anywhere."""
    for name in PROFILES:
        source, target = getattr(config, name), folder / f"{name}.json"
        if source and Path(source).resolve() != target.resolve():
            write_bytes(target, Path(source).read_bytes())


def _refuse_disagreement(hashes: tuple[str, ...], data: str, processes: ProcessGroup) -> None:
    """Refuse processes that have other models or other photos than the rest."""
    others = processes.gather((hashes, data))
    if any(other != hashes for other, _ in others):
        raise OptionError(
            "The processes made models of different weights",
            "All need the same",
            "Let the model's factory load its weights, or draw them from a seed of its own",
        )
    if any(other != data for _, other in others):
        raise OptionError(
            "The processes read other photos or boxes",
            "All need the same",
            "Make the copies of these files alike",
        )


def checkpoint_key(config: PatchConfig, weights: Sequence[str], data: str = "") -> int:
    """Return the number that identifies the optimization of ``config`` on victims of ``weights``.

    A checkpoint is only resumed by the run of the same key. It depends on neither the device nor
    the names of profiles and range files, but on their contents.

    Args:
        config: What is optimized.
        weights: Hash of each victim's weights.
        data: Hash of the photos and boxes of the scenes; empty where all is drawn.
    """
    table = {**config.as_card_table(), "device": "cpu", **config.profile_checksums()}
    ignored = {"test_draws", "name", "eot_ranges", *PROFILES}
    if config.search_by == "auto":
        ignored.add("search_by")  # keys of earlier versions know no other
    words = [f"{k}={v}" for k, v in table.items() if k not in ignored]
    if config.eot_ranges:
        words.append(f"eot_ranges={configured_ranges(config).as_dict()}")
    if config.object == "sign" and not keeps_distances(config):
        words.append("distances=visible")
    if config.search == "auto" and config.center_mm is not None:
        words.append("center=given")
    if config.size_mm is None and config.object == "sign":
        words.append(f"size=one of {config.possible_sizes}")
    return derive(config.seed, *words, *weights, *([f"data={data}"] if data else []))


def refuse_other_weights(weights: Sequence[str], folder: Path) -> None:
    """Refuse to replace a finished bundle that was made on victims of the same names with others.

    Args:
        weights: Hash of each victim's weights.
        folder: Folder of the run, which need not exist.

    Raises:
        OptionError: ``folder`` holds a bundle whose card names other weights.
    """
    if is_other_weights(_recorded_settings(folder), weights):
        raise OptionError(
            f'"{folder}" holds a finished patch made on other weights or settings of this model',
            UNASKED,
            "Name another folder with --out, or add --overwrite",
        )


def refuse_other_data(data: str, folder: Path) -> None:
    """Refuse to replace a finished bundle that was made on other photos under the same paths.

    Args:
        data: Hash of the photos and boxes of the scenes.
        folder: Folder of the run, which need not exist.

    Raises:
        OptionError: ``folder`` holds a bundle whose card names another.
    """
    recorded = _recorded_settings(folder).get(_DATA)
    if recorded is not None and recorded != data:
        raise OptionError(
            f'"{folder}" holds a finished patch made on other photos or boxes under these paths',
            UNASKED,
            "Put them back, name another folder with --out, or add --overwrite",
        )


def _recorded_settings(folder: Path) -> Mapping[str, Any]:
    """The settings on the card of a finished bundle; nothing where there is none."""
    file = folder / CARD
    if not file.is_file():
        return {}
    try:
        recorded = read_table(file, finite=False).get("optimisation", {})
    except DataError:
        return {}
    return recorded if isinstance(recorded, Mapping) else {}


def refuse_other_result(config: PatchConfig, folder: Path) -> None:
    """Refuse to replace a finished bundle that was made with another configuration.

    Args:
        config: Configuration of the run that is to write into ``folder``.
        folder: Folder of the run, which need not exist.

    Raises:
        OptionError: ``folder`` holds the bundle of another configuration.
    """
    if not (folder / CARD).is_file():
        return
    differing = _differing_fields(config, _recorded_settings(folder))
    if differing:
        raise OptionError(
            f'"{folder}" holds a finished patch of another configuration ({", ".join(differing)})',
            UNASKED,
            "Name another folder with --out, or add --overwrite",
        )


def _same_area(config: PatchConfig, recorded: Mapping[str, Any]) -> bool:
    """Whether the card's sticker, one piece, has an area that the configured one may have; bars are
    cut."""
    try:
        area = float(recorded["width_mm"]) * float(recorded["height_mm"])
    except (KeyError, TypeError, ValueError):
        return False
    areas = [width * height for width, height in config.possible_sizes]
    return config.searches_bars or any(math.isclose(area, one, rel_tol=0.01) for one in areas)


def _differing_fields(config: PatchConfig, recorded: Mapping[str, Any]) -> list[str]:
    """Names of the card's settings that are not those of the configuration."""
    current = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in config.as_card_table().items()
        if value is not None
    }
    if "victim" in recorded:  # a card of an earlier version names no faces and at most one folder
        folders = list(shared.as_folders(recorded.get("signs")))
        recorded = {"faces": PLAIN, "search_by": "auto", **recorded, "signs": folders}
    profiles = {name: f"{name}.json" for name in PROFILES if name in current}
    current |= profiles | config.profile_checksums()
    ignored = {*_REPORTED_ONLY, "steps_done", "score_threshold", "race", HASHES, _DATA}
    searched = config.search
    if searched == "auto":  # the card names the search that it stood for
        searched = recorded.get("search", "none")
        ignored.add("search")
    if searched != "none" and (config.search != "auto" or config.center_mm is None):
        ignored |= {"center_mm", "width_mm", "height_mm"}  # those on the card were found
        if not _same_area(config, recorded):
            ignored -= {"width_mm", "height_mm"}
    elif (recorded.get("width_mm"), recorded.get("height_mm")) in config.possible_sizes:
        ignored |= {"width_mm", "height_mm"}  # left open, and chosen by the model
    if config.searches_bars:
        ignored.add("mask")
    names = [key for key in (*current, *recorded) if key not in ignored]
    return [key for key in dict.fromkeys(names) if current.get(key) != recorded.get(key)]
