"""Race of starts: places, shapes and textures tried at low cost, of which the best goes on.

An untargeted loss aims at the class that is nearest, which may be one that no sticker reaches. So
every start races twice, once with its aim at any class but the nearest one of the clean sign.

Successive halving (Karnin et al. 2013): all starts make a few steps on the same draws, those with
the lowest loss on the validation draws make more. Where the place is searched, those left also send
out neighbors with their texture, in two rounds of smaller and smaller shifts. Places where a blank
sticker would do come last, for there nothing can be claimed of the sticker.

Bars race beside rectangles of the same area: level ones, evenly spaced in a box in the middle of
the sign, and so over more of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.attacks._optimizers import CosineAdam
from physadv.attacks.patch_loop import PatchStep, Victim, View, descend_patch
from physadv.core.errors import DataError, ModelError, OptionError
from physadv.core.memory_limit import MemoryLimit
from physadv.core.parsing import parse_number
from physadv.core.random_streams import generator
from physadv.core.reading import foreign_errors
from physadv.core.tensor_files import read_tensors, write_tensors
from physadv.eot.mask_shapes import bar_layout, make_mask
from physadv.eot.placement import Placement
from physadv.patches.config import PatchConfig
from physadv.patches.controls import CONTROL_FLOOR
from physadv.patches.optimize import (
    StepDraws,
    annotations_of,
    blank_patch,
    divisible_draws,
    initial_patch,
    regularizer_of,
    sample_eot,
    to_8bit,
    training_draws,
    training_victims,
)
from physadv.patches.task import PatchTask, sample_scenes
from physadv.threat.patch_goals import Annotations
from physadv.threat.printability import PatchAppearance, project_printable

_FILE = "start.safetensors"
_DRAWS = 16
"""Draws of a step."""
_VALIDATION_DRAWS = 64
"""Draws that the starts are compared on."""
_ROUND_STEPS = 12
_ROUNDS = 4
_LEARNING_RATE = 0.1
_SHIFTS_MM = (24.0, 12.0)
"""Way to the neighbors of the last two rounds, on a sign of 457 mm."""
_PROPORTIONS = (1.0, 2.25, 0.5, 1.5, 3.2, 0.7)
"""Height over width of the stickers that are tried."""
_BARS = (5, 3, 6, 2, 4)
"""Numbers of bars that are tried, and below the share of their box that they cover and its height
over width."""
_BAR_SHARES, _BAR_TALLNESS = (0.25, 0.65), (0.7, 1.9)
_LEAST_BAR_SHARE, _LARGEST_BAR_SHARE, _MOST_BARS = 0.2, 0.8, 8
"""How far neighbors may go."""
_BAR_NEIGHBORS = 6
_SPREAD = torch.tensor([0.7548776662, 0.5698402910])
"""Step of Roberts' R2 sequence, which spreads points evenly over a square."""
_MOST_BLANK_SUCCESS = (1 - CONTROL_FLOOR) / 4
"""Success of a blank sticker up to which a place is good: a quarter of what a check lets pass, for
faces that are held out may be easier to cover."""
_OCTAGON_DIAGONAL = 2**0.5
"""|x| + |y| of the slanted sides of an octagon that is 2 wide."""


@dataclass(frozen=True)
class Start:
    """What a sticker starts as.

    Args:
        center_mm: Its center from that of the sign, x right, y down.
        size_mm: Its width and height.
        texture: Number of the random texture it begins with.
        avoided: Class of each model that its loss does not aim at, None where there is none; empty:
            none of any model.
        mask: Its shape, where that is not the configured one: bars.
    """

    center_mm: tuple[float, float]
    size_mm: tuple[float, float]
    texture: int = 0
    avoided: tuple[int | None, ...] = ()
    mask: str = ""


@dataclass(frozen=True)
class RaceProgress:
    """State of a race.

    Args:
        steps: Steps made by all starts together.
        total: Steps that are made in all, at most.
        draws: Draws with a gradient so far; those without, which only compare, count a third.
        best: The start that leads.
        patch: Its patch (1, 3, ph, pw) so far.
        is_over: Whether it has won.
    """

    steps: int
    total: int
    draws: int
    best: Start
    patch: Tensor
    is_over: bool = False


@dataclass
class _Runner:
    """One start on its way: its task, its loop, and its patch so far."""

    start: Start
    task: PatchTask
    loop: Iterator[PatchStep]
    patch: Tensor


@dataclass
class _SharedDraws:
    """Scenes and draws of one step, the same for every start; each part has its own size."""

    parts: Sequence[PatchTask]
    counts: Sequence[int]
    drawn: list[StepDraws] = field(default_factory=list)

    def sample(self, kind: str, index: int) -> None:
        """Draw those of the step ``index`` from the scenes called ``kind``."""
        self.drawn = []
        for part, count in zip(self.parts, self.counts, strict=True):
            source = getattr(part.scene_sources, kind)
            scenes = sample_scenes(part, source, count, "race", kind, index)
            self.drawn.append(StepDraws.sample(part, scenes, ("race", kind, index)))

    def render(
        self, number: int, task: PatchTask, patch: Tensor, rows: slice | None = None
    ) -> tuple[Tensor, Annotations]:
        """Photograph ``patch``, placed as in ``task``, in the scenes ``rows`` of one part."""
        shown = task.appearance.to(task.device).printed(patch)
        return self.drawn[number].render(shown, rows, task=task)


class Race:
    """Race of the starts of one configuration.

    Args:
        config: What is searched, and how many starts run.
        task: The task of that configuration.
        memory: How many draws memory holds at once, which the steps learn.
    """

    def __init__(
        self, config: PatchConfig, task: PatchTask, memory: MemoryLimit | None = None
    ) -> None:
        self.config, self.task, self.memory = config, task, memory or MemoryLimit()
        parts = task.by_scene_size()
        self._training = _SharedDraws(parts, training_draws(parts, _DRAWS))
        self._validation = _SharedDraws(parts, training_draws(parts, _VALIDATION_DRAWS))
        self._validation.sample("validation", 0)
        self._victims: list[list[Victim]] = [training_victims(part) for part in parts]
        self._aims: dict[tuple[int | None, ...], list[list[Victim]]] = {(): self._victims}
        self._clean = self._recognized_clean()
        self._most_blank = _MOST_BLANK_SUCCESS
        self._steps, self._compared = 0, 0

    def run(self) -> Iterator[RaceProgress]:
        """Race and yield the state after each step of all; the last one has the winner."""
        searches = self.config.search != "none"
        starts = self._starts()
        keeps = (max(3, len(starts) // 4), 2, 1, 1)
        nearest = nearest_classes(self.task)
        if any(number is not None for number in nearest):
            starts += [replace(start, avoided=nearest) for start in starts]
        runners = [self._runner(start) for start in starts]
        neighbors = (4 if searches else 0) + (_BAR_NEIGHBORS if self.config.searches_bars else 0)
        bound = len(runners) + keeps[0] + (keeps[1] + keeps[2]) * (1 + neighbors)
        total = bound * _ROUND_STEPS

        for number, keep in enumerate(keeps):
            if searches and number >= _ROUNDS - len(_SHIFTS_MM):
                runners += self._neighbors(runners, _SHIFTS_MM[number - _ROUNDS], number)
            for index in range(number * _ROUND_STEPS, (number + 1) * _ROUND_STEPS):
                self._training.sample("train", index)
                for runner in runners:
                    runner.patch = next(runner.loop).patch
                self._steps += len(runners)
                yield self._progress(runners[0], total)
            runners = self._ranked(runners)[:keep]
        yield replace(self._progress(runners[0], self._steps), is_over=True)

    def _progress(self, leader: _Runner, total: int) -> RaceProgress:
        draws = self._steps * sum(self._training.counts)
        draws += self._compared * sum(self._validation.counts) // 3
        return RaceProgress(self._steps, total, draws, leader.start, leader.patch.detach().clone())

    def _starts(self) -> list[Start]:
        """The configured start, and others: random textures there, or places of their own."""
        first = Start(self.config.place_mm, (self.config.width_mm, self.config.height_mm))
        count = self.config.number_of_starts
        if self.config.search == "none":
            return [replace(first, texture=number) for number in range(count)]

        blank: dict[Start, float] = {}
        others = itertools.chain(_central_starts(self.config), _other_starts(self.config))
        for start in itertools.chain([first], others):
            blank[start] = self._blank_success(start)
            good = [start for start in blank if blank[start] <= self._most_blank]
            if len(good) == count or len(blank) == 2 * count:
                break
        # Near the limit of what a detector reads, a blank sticker wins now and then at any place.
        chosen = sorted(blank, key=lambda start: max(blank[start], _MOST_BLANK_SUCCESS))[:count]
        self._most_blank = max(_MOST_BLANK_SUCCESS, *(blank[start] for start in chosen))
        return chosen

    def _neighbors(self, runners: Sequence[_Runner], shift_mm: float, number: int) -> list[_Runner]:
        """The runners' stickers, shifted up, down, left and right by ``shift_mm``, and bars besides
        in boxes larger or smaller in proportion, and one more or less of them."""
        shift = shift_mm * self.config.sign_width_mm / 457
        places: dict[Start, _Runner] = {}
        for runner in runners:
            x, y = runner.start.center_mm
            shifted = [
                replace(runner.start, center_mm=(round(x + dx, 1), round(y + dy, 1)))
                for dx, dy in ((-shift, 0), (shift, 0), (0, -shift), (0, shift))
            ]
            for start in (*shifted, *_other_bars(runner.start, 1 + shift_mm / 120)):
                if not _is_on_sign(start, self.config.sign_width_mm):
                    continue
                if self._blank_success(start) <= self._most_blank:
                    places[start] = runner
        first_step = number * _ROUND_STEPS
        return [self._runner(start, parent.patch, first_step) for start, parent in places.items()]

    def _runner(self, start: Start, patch: Tensor | None = None, index: int = 0) -> _Runner:
        """A start on its way from the step ``index``, with the texture ``patch`` or its own."""
        task = task_at(self.task, self.config, start)
        if patch is None:
            patch = initial_patch(task, start.texture)
        elif patch.shape[-2:] != task.mask.shape[-2:]:
            patch = F.interpolate(patch, size=task.mask.shape[-2:], mode="bilinear", antialias=True)

        victims = self._victims_of(start)

        def view_of(number: int) -> View:
            def render(
                current: Tensor, _: int, rows: slice | None = None
            ) -> tuple[Tensor, Annotations]:
                return self._training.render(number, task, current, rows)

            part, count = self._training.parts[number], self._training.counts[number]
            return View(render, victims[number], divisible_draws(part, count))

        loop = descend_patch(
            patch,
            views=[view_of(number) for number in range(len(victims))],
            regularizer=regularizer_of(task, self.config.tv, self.config.printability_weight),
            project=project_printable,
            update=CosineAdam(_LEARNING_RATE, _ROUNDS * _ROUND_STEPS),
            steps=_ROUNDS * _ROUND_STEPS,
            start=index,
            processes=self.task.processes,
            memory=self.memory,
        )
        return _Runner(start, task, loop, patch)

    def _victims_of(self, start: Start) -> list[list[Victim]]:
        """The models of each part for gradients, with the aim of ``start``."""
        if start.avoided not in self._aims:
            parts = _aimed(self.task, start).by_scene_size()
            self._aims[start.avoided] = [training_victims(part) for part in parts]
        return self._aims[start.avoided]

    @torch.no_grad()
    def _ranked(self, runners: list[_Runner]) -> list[_Runner]:
        """The runners by their loss on the validation draws, the lowest first.

        It is the loss that aims at the nearest class, whatever a runner's own aim is. Of several
        victims each has its losses in units of their mean over the runners.
        """
        self._compared += len(runners)
        losses = []
        for runner in runners:
            shown = to_8bit(runner.task, runner.patch)
            own = []
            for number, victims in enumerate(self._victims):
                images, annotations = self._validation.render(number, runner.task, shown)
                own += [v.objective(v.model(images), annotations).mean() for v in victims]
            losses.append(torch.stack(own))
        table = torch.stack(losses)
        scores = (table / table.mean(0).clamp(min=1e-9)).mean(1).tolist()
        order = sorted(range(len(runners)), key=scores.__getitem__)
        order = self.task.processes.from_first(order)
        return [runners[number] for number in order]

    @torch.no_grad()
    def _recognized_clean(self) -> list[list[Tensor]]:
        """Whether each validation object is recognized without a sticker, by part and victim."""
        recognized = []
        for drawn in self._validation.drawn:
            part, scenes = drawn.task, drawn.scenes
            images = part.stages.without_patch(scenes, drawn.draw)
            annotations = annotations_of(part, scenes)
            recognized.append(
                [
                    part.goal_of(number).recognized(model(images), annotations)
                    for number, model in enumerate(part.models)
                ]
            )
        return recognized

    @torch.no_grad()
    def _blank_success(self, start: Start) -> float:
        """How often a blank sticker there does, on the victim on which it does most."""
        task = task_at(self.task, self.config, start)
        self._compared += 1
        rates = [0.0]
        for number, victims in enumerate(self._victims):
            images, annotations = self._validation.render(number, task, blank_patch(task))
            for victim, valid in zip(victims, self._clean[number], strict=True):
                met = victim.criterion(victim.model(images), annotations)[valid]
                rates.append(float(met.float().mean()) if met.numel() else 0.0)
        return max(rates)


@torch.no_grad()
def nearest_classes(task: PatchTask) -> tuple[int | None, ...]:
    """Return which class is next to the true one on most clean validation draws, by model.

    It is None for a detector, a classifier of fewer than three classes, a goal with a target class,
    and objects of several true classes.

    Args:
        task: The patch problem.
    """
    nearest: dict[int, int] = {}
    goals = [task.goal_of(number) for number in range(len(task.models))]
    for number, goal in enumerate(goals):
        own = task.only([number])
        if goal.target_class is not None or own.scene_size.whole_frame:
            continue
        scenes = sample_scenes(own, own.scene_sources.validation, _VALIDATION_DRAWS, "nearest")
        if scenes.marks is not None:
            continue
        images = own.stages.without_patch(
            scenes.to(own.device), sample_eot(own, scenes, ("nearest",))
        )
        logits = own.models[0](images)
        if isinstance(logits, Tensor) and logits.shape[1] > 2:
            others = logits.clone()
            others[:, goal.true_class] = float("-inf")
            nearest[number] = int(others.argmax(1).mode().values)
    return tuple(nearest.get(number) for number in range(len(goals)))


def _aimed(task: PatchTask, start: Start) -> PatchTask:
    """Return ``task`` with the goals whose loss aims as ``start`` says."""
    if not start.avoided:
        return task
    goals = [
        replace(task.goal_of(number), avoided_class=avoided)
        for number, avoided in enumerate(start.avoided)
    ]
    return replace(task, goal=goals[0], goals=goals)


def task_at(task: PatchTask, config: PatchConfig, start: Start) -> PatchTask:
    """Return ``task`` with its sticker placed, shaped and aimed as ``start`` says.

    Args:
        task: The task of ``config``.
        config: Its shape, resolution and look.
        start: Place, size, shape and aim.
    """
    width, height = start.size_mm
    shape = start.mask or config.mask
    mask = make_mask(shape, width, height, longest_px=config.resolution)
    appearance = PatchAppearance.from_files(
        config.palette, config.content, config.content_weight, (mask.shape[-2], mask.shape[-1])
    )
    placement = Placement(width, height, start.center_mm)
    aimed = _aimed(task, start)
    return replace(aimed, mask=mask, placement=placement, appearance=appearance)


def _central_starts(config: PatchConfig) -> Iterator[Start]:
    """The middle of the sign in each of the proportions tried: over its letters a sticker often
    takes the most from a detector, and places spread evenly may leave the middle out."""
    for size in _sizes(config):
        start = Start((0.0, 0.0), size)
        if _is_on_sign(start, config.sign_width_mm):
            yield start


def _other_starts(config: PatchConfig) -> Iterator[Start]:
    """Places spread over the sign; where bars race, two stickers of bars before each."""
    bars = _bar_starts(config) if config.searches_bars else iter(())
    for place in _random_starts(config):
        yield from itertools.islice(bars, 2)
        yield place


def _bar_starts(config: PatchConfig) -> Iterator[Start]:
    """Bars in the middle of the sign, as large in all as the rectangle, in boxes of many sizes."""
    stream = generator(config.seed, "race", "bars")
    offset = torch.rand(2, generator=stream)
    area = config.width_mm * config.height_mm
    (least, most), (flat, tall) = _BAR_SHARES, _BAR_TALLNESS
    for number in range(10_000):
        first, second = ((offset + _SPREAD * number) % 1).tolist()
        share = round(least + (most - least) * first, 2)
        tallness = flat * (tall / flat) ** second
        width = (area / share / tallness) ** 0.5
        size = (round(width, 1), round(width * tallness, 1))
        count = _BARS[number % len(_BARS)]
        start = Start((0.0, 0.0), size, mask=f"bars:{count}:{share}")
        if _is_on_sign(start, config.sign_width_mm):
            yield start


def _other_bars(start: Start, factor: float) -> Iterator[Start]:
    """Bars like those of ``start``: their box ``factor`` wider, narrower, taller or lower at the
    same area of bars, or one bar more or less. None for another shape."""
    layout = bar_layout(start.mask)
    if layout is None:
        return
    (count, share), (width, height) = layout, start.size_mm
    for x, y in ((factor, 1.0), (1 / factor, 1.0), (1.0, factor), (1.0, 1 / factor)):
        other = round(share / (x * y), 3)
        if _LEAST_BAR_SHARE <= other <= _LARGEST_BAR_SHARE:
            area = share * width * height
            size = (round(width * x, 1), round(area / other / (width * x), 1))
            yield replace(start, size_mm=size, mask=f"bars:{count}:{other}")
    for other_count in (count - 1, count + 1):
        if 2 <= other_count <= _MOST_BARS:
            yield replace(start, mask=f"bars:{other_count}:{share}")


def _random_starts(config: PatchConfig) -> Iterator[Start]:
    """Places spread evenly over the sign, in turn with each of the proportions tried."""
    stream = generator(config.seed, "race", "places")
    offset = torch.rand(2, generator=stream)
    sizes = _sizes(config)
    for number in range(10_000):
        unit = ((offset + _SPREAD * number) % 1).tolist()
        size = sizes[number % len(sizes)]
        room = [config.sign_width_mm - side for side in size]
        center = [round(side * (place - 0.5), 1) for side, place in zip(room, unit, strict=True)]
        start = Start((center[0], center[1]), size)
        if min(room) >= 0 and _is_on_sign(start, config.sign_width_mm):
            yield start


def _sizes(config: PatchConfig) -> list[tuple[float, float]]:
    """Widths and heights that are tried: the configured one, or its area in several proportions."""
    width, height = config.width_mm, config.height_mm
    if config.search not in ("proportions", "shape"):
        return [(round(width, 1), round(height, 1))]
    area = width * height
    return [
        (round((area / tallness) ** 0.5, 1), round((area * tallness) ** 0.5, 1))
        for tallness in _PROPORTIONS
    ]


def _is_on_sign(start: Start, sign_width_mm: float) -> bool:
    """Whether a sticker lies within an octagon of that width."""
    half = sign_width_mm / 2
    x = abs(start.center_mm[0]) + start.size_mm[0] / 2
    y = abs(start.center_mm[1]) + start.size_mm[1] / 2
    return max(x, y) <= half and x + y <= half * _OCTAGON_DIAGONAL


def save_start(folder: Path, progress: RaceProgress, key: int) -> Path:
    """Write the winner of a race, atomically, so that a resumed run need not race again.

    Args:
        folder: Folder of the run.
        progress: The last state of the race.
        key: Identifies the configuration.

    Returns:
        The file.
    """
    best = progress.best
    facts = {
        "key": str(key),
        "center_mm": " ".join(map(repr, best.center_mm)),
        "size_mm": " ".join(map(repr, best.size_mm)),
        "texture": str(best.texture),
        "avoided": " ".join(map(str, best.avoided)),
        "mask": best.mask,
        "draws": str(progress.draws),
    }
    return write_tensors(folder / _FILE, {"patch": progress.patch}, facts)


def load_start(folder: Path, key: int) -> RaceProgress | None:
    """Read the winner of a race.

    Args:
        folder: Folder of the run.
        key: Identifies the configuration.

    Returns:
        The winner; None where there is none, or that of another configuration or damaged.
    """
    path = folder / _FILE
    if not path.is_file():
        return None
    try:
        with foreign_errors(str(path), DataError, "no winner of a race"):
            tensors, facts = read_tensors(path)
            if facts.get("key") != str(key):
                return None
            patch = tensors["patch"]
            x, y = (parse_number(v, "center", str(path)) for v in facts["center_mm"].split())
            width, height = (parse_number(v, "size", str(path)) for v in facts["size_mm"].split())
            texture, draws = int(facts["texture"]), int(facts["draws"])
            words = facts.get("avoided", "").split()  # none in runs of earlier versions
            avoided = tuple(None if word == "None" else abs(int(word)) for word in words)
            mask = facts.get("mask", "")
            if mask and bar_layout(mask) is None:
                return None
    except (ModelError, DataError, OptionError):
        return None
    best = Start((x, y), (width, height), texture, avoided, mask)
    return RaceProgress(0, 0, draws, best, patch, is_over=True)
