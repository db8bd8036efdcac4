"""Way from a patch's pixels to the model's input, as a list of stages in the order of the light.

Print, bend, place, light, air, lens, sensor, processing, codec. Parameters are drawn first and then
applied, so that any draw can be replayed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from physadv.core.errors import OptionError
from physadv.eot.color_map import ColorMap
from physadv.eot.crop_window import CropWindow, window_round
from physadv.eot.foreign_stages import as_stage
from physadv.eot.placement import Placement
from physadv.eot.ranges import STAGES, EotRanges
from physadv.eot.sampling import DrawStream, moved_to, rows_of
from physadv.eot.scenes.scene_batch import SceneBatch
from physadv.eot.stage import Backend, Encoding, Range, Stage
from physadv.eot.transforms.bend import StickerBend
from physadv.eot.transforms.blur import cut_margin, smooth_size
from physadv.eot.transforms.lens_distortion import LensDistortion
from physadv.eot.transforms.photometry import linear_to_srgb, srgb_to_linear
from physadv.eot.transforms.place import Place, PoseRanges, PrintedPatch, ScenePose, reached_box

AnyStage = Stage[Any, Any]


@dataclass(frozen=True)
class Draw:
    """Parameters of one EOT draw by the name of their stage; a stage without an entry is off.

    ``whole`` is the draw of ``count`` scenes of which this one has the ``rows``. It decides which
    crops are rendered, so that the parts of a batch are what they are in the whole.
    """

    params: dict[str, Any] = field(default_factory=dict)
    whole: Draw | None = None
    rows: slice | None = None
    count: int = 0

    def __getitem__(self, stage: str | type[AnyStage]) -> Any:
        """Return the parameters of ``stage``, by its class or name; KeyError where it is off."""
        return self.params[stage if isinstance(stage, str) else stage.__name__]

    def get(self, stage: str | type[AnyStage]) -> Any:
        """Return the parameters of ``stage``, or None where it is off."""
        return self.params.get(stage if isinstance(stage, str) else stage.__name__)

    def to(self, device: torch.device) -> Draw:
        """Return the same draw on ``device``; it is always made on the CPU."""
        return moved_to(self, device)


@dataclass(frozen=True)
class _Segment:
    """Stages that are rendered together, in a crop or in the whole picture."""

    names: tuple[str, ...]
    reaches: tuple[int, ...]

    @property
    def margin(self) -> int:
        return sum(self.reaches)


class Pipeline:
    """Stages between print and model, applied in the order of the list.

    A stage is a :class:`~physadv.eot.stage.Stage`, a kornia augmentation, or any ``nn.Module`` from
    images to images of the same shape. What stands before :class:`Place` changes the patch, what
    stands after it the picture. Bending and lens distortion only change where a pixel is looked up:
    both act while the patch is placed, so that it is resampled once.

    Args:
        stages: The stages.
        colors: A measured printer in place of the drawn inks.

    Raises:
        OptionError: Two or no Place, or something that is no stage.

    Example:
        >>> import kornia.augmentation as K
        >>> from physadv.eot.transforms.exposure import Exposure, ExposureRanges
        >>> place, exposure = Place(PoseRanges()), Exposure(ExposureRanges())
        >>> Pipeline([place, exposure, K.RandomMotionBlur(3, 35.0, 0.5)]).names
        ('Place', 'Exposure', 'RandomMotionBlur')
    """

    def __init__(
        self, stages: Sequence[AnyStage | nn.Module], *, colors: ColorMap | None = None
    ) -> None:
        self.stages: dict[str, AnyStage] = {}
        self.colors = colors
        for item in stages:
            stage = as_stage(item)
            count = sum(name.split("#")[0] == stage.name for name in self.stages)
            self.stages[stage.name if count == 0 else f"{stage.name}#{count + 1}"] = stage

        places = [name for name, stage in self.stages.items() if isinstance(stage, Place)]
        if len(places) != 1:
            raise OptionError(
                f"A pipeline with {len(places)} Place stages",
                "It must have exactly one",
                "Add Place, or take one out",
            )
        self._place = places[0]

    @classmethod
    def from_ranges(
        cls,
        ranges: EotRanges,
        *,
        extra: Sequence[AnyStage | nn.Module] = (),
        colors: ColorMap | None = None,
        backend: Backend | None = None,
    ) -> Pipeline:
        """Return the built-in stages under one table of ranges.

        Args:
            ranges: Ranges of all built-in stages.
            extra: Further stages, after the codec.
            colors: A measured printer in place of the drawn inks.
            backend: "kornia" takes kornia's arithmetic also where ours is the default, in every
                stage that has both.

        Returns:
            The pipeline.

        Example:
            >>> Pipeline.from_ranges(EotRanges()).names[:4]
            ('PatchEdits', 'Printer', 'StickerBend', 'Place')
        """
        own = [
            stage(ranges, backend=backend if backend in stage.backends else None)
            for stage in STAGES
        ]
        return cls([*own, *extra], colors=colors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the stages, in order; a second stage of one class is called ``Name#2``."""
        return tuple(self.stages)

    @property
    def pose(self) -> dict[str, Range]:
        """The ranges of Place, from which scenes draw the pose."""
        ranges = self.stages[self._place].ranges
        return {declared.name: getattr(ranges, declared.name) for declared in fields(PoseRanges)}

    def inserted(self, stage: AnyStage | nn.Module, *, before: str | type[AnyStage]) -> Pipeline:
        """Return a pipeline with ``stage`` put in ``before`` another, by its class or name.

        Raises OptionError where there is no such stage.
        """
        name = before if isinstance(before, str) else before.__name__
        if name not in self.stages:
            raise OptionError(
                f"Stage {name!r} is not in the pipeline",
                f"It must be one of {', '.join(self.names)}",
                "Choose one of these",
            )
        at = self.names.index(name)
        own = list(self.stages.values())
        return Pipeline([*own[:at], stage, *own[at:]], colors=self.colors)

    def sample(self, scenes: SceneBatch, generator: torch.Generator) -> Draw:
        """Draw the parameters of every stage for ``scenes``; ``generator`` alone decides."""
        stream = DrawStream(generator, scenes, self.colors)
        drawn = {
            name: stage.sample(scenes, stage.ranges, stream.for_stage(name))
            for name, stage in self.stages.items()
        }
        return Draw({name: params for name, params in drawn.items() if params is not None})

    @property
    def by_scene(self) -> bool:
        """Whether every stage treats each scene alone, so that a batch may be divided."""
        return all(stage.by_scene for stage in self.stages.values())

    def part(self, draw: Draw, rows: slice, count: int) -> Draw:
        """Return ``draw``, one of ``count`` scenes, for the scenes ``rows`` alone."""
        params = {
            name: self.stages[name].part(params, rows, count)
            for name, params in draw.params.items()
        }
        return Draw(params, draw, rows, count)

    def apply(
        self, patch: Tensor, mask: Tensor, placement: Placement, scenes: SceneBatch, draw: Draw
    ) -> Tensor:
        """Print the patch, put it on every scene, and photograph it.

        A crop round the patch is rendered with it; the rest is that of the clean scene. From the
        first stage on that cannot be cropped, the whole picture is rendered.

        Args:
            patch: (1, 3, ph, pw) sRGB in [0, 1]; gradients reach it.
            mask: (1, 1, ph, pw) in [0, 1]: the sticker's shape.
            placement: Where the sticker lies on the sign, in mm.
            scenes: b scenes, on the device of the patch.
            draw: What ``sample`` returned, on that device.

        Returns:
            (b, 3, h, w) pictures, sRGB in [0, 1].
        """
        printed = PrintedPatch(
            self._printed(patch, draw),
            mask,
            placement,
            draw.get(StickerBend),
            draw.get(LensDistortion),
        )
        posed = replace(draw[self._place], patch=printed)
        shown = Draw({**draw.params, self._place: posed})
        light = self._scene_light(scenes, draw)

        first, *rest = self._segments(draw, posed.picture)
        margin = _fast_margin(first, posed.picture)
        if draw.whole is None or draw.rows is None:
            window = self._window(first, posed, margin)
        else:
            bend, lens = draw.whole.get(StickerBend), draw.whole.get(LensDistortion)
            printed = replace(printed, bend=bend, lens=lens)
            every = replace(draw.whole[self._place], patch=printed)
            window = rows_of(self._window(first, every, margin), draw.rows, draw.count)
        part = window.take(light, margin)
        picture, encoding = self._run(first, part, "linear", shown, window, margin)
        if not window.is_whole:
            with torch.no_grad():
                whole = CropWindow.whole(light)
                part = whole.take(light, margin)
                base, _ = self._run(first, part, "linear", draw, whole, margin)
            picture = window.paste(base, picture)
        return scenes.with_padding(self._finish(rest, picture, encoding, draw))

    def without_patch(self, scenes: SceneBatch, draw: Draw) -> Tensor:
        """Return the clean control: the same ``scenes`` under the same ``draw``."""
        return scenes.with_padding(self.photograph(self._scene_light(scenes, draw), draw))

    def photograph(self, light: Tensor, draw: Draw) -> Tensor:
        """Return pictures, sRGB in [0, 1], of (b, 3, h, w) linear ``light`` under ``draw``."""
        size = (light.shape[-2], light.shape[-1])
        return self._finish(self._segments(draw, size), light, "linear", draw)

    def _printed(self, patch: Tensor, draw: Draw) -> Tensor:
        """Return the linear light of the patch after every stage before Place."""
        encoding: Encoding = "encoded"
        for name, stage in self.stages.items():
            if name == self._place:
                break
            if stage.acts_on != "geometry" and name in draw.params:
                patch = stage.apply(_converted(patch, encoding, stage.encoding), draw[name])
                encoding = stage.returns or stage.encoding
        return _converted(patch, encoding, "linear")

    def _scene_light(self, scenes: SceneBatch, draw: Draw) -> Tensor:
        light = srgb_to_linear(scenes.images)
        for name, stage in self.stages.items():
            if stage.acts_on == "geometry" and name in draw.params:
                light = stage.apply(light, draw[name])
        return light

    def _picture_stages(self, draw: Draw) -> Iterator[tuple[str, AnyStage]]:
        """Yield what acts on the picture, from Place on."""
        names = self.names[self.names.index(self._place) :]
        for name in names:
            if name in draw.params and self.stages[name].acts_on != "geometry":
                yield name, self.stages[name]

    def _segments(self, draw: Draw, picture: tuple[int, int]) -> list[_Segment]:
        """Cut the list where a stage needs the whole picture.

        A foreign stage stands alone; after a codec nothing may need pixels round a crop, for its
        blocks are counted from the picture's corner.
        """
        draw = draw.whole or draw
        segments: list[tuple[list[str], list[int]]] = [([], [])]
        closed, blocks = False, False

        for name, stage in self._picture_stages(draw):
            reach = stage.reach(draw[name], picture) if stage.windowed else 0
            if closed or not stage.windowed or (blocks and reach):
                segments.append(([], []))
                blocks = False

            segments[-1][0].append(name)
            segments[-1][1].append(reach)
            closed, blocks = not stage.windowed, blocks or stage.blockwise
        return [_Segment(tuple(names), tuple(reaches)) for names, reaches in segments]

    def _window(self, segment: _Segment, pose: ScenePose, margin: int) -> CropWindow:
        """Return the part of the picture that the patch can reach within the first segment."""
        if not segment.names:
            return CropWindow(pose.picture, pose.picture)
        return window_round(reached_box(pose), pose.picture, margin)

    def _run(
        self,
        segment: _Segment,
        images: Tensor,
        encoding: Encoding,
        draw: Draw,
        window: CropWindow,
        margin: int,
    ) -> tuple[Tensor, Encoding]:
        """Apply a segment to a crop with ``margin`` px round it, used up stage by stage."""
        spare = margin - segment.margin
        for name, reach in zip(segment.names, segment.reaches, strict=True):
            stage, params = self.stages[name], draw[name]
            if stage.windowed:
                params = stage.crop(params, window, margin)
            images = stage.apply(_converted(images, encoding, stage.encoding), params)
            encoding = stage.returns or stage.encoding

            # The first stage that mixes pixels also takes what rounding added to the margin.
            used = reach + spare if reach else 0
            images, margin, spare = (
                cut_margin(images, used),
                margin - used,
                spare if not used else 0,
            )
        return cut_margin(images, margin), encoding

    def _finish(
        self, segments: Sequence[_Segment], images: Tensor, encoding: Encoding, draw: Draw
    ) -> Tensor:
        """Apply segments to whole pictures and return them encoded."""
        whole = CropWindow.whole(images)
        for segment in segments:
            margin = _fast_margin(segment, whole.size)
            part = whole.take(images, margin)
            images, encoding = self._run(segment, part, encoding, draw, whole, margin)
        return _converted(images, encoding, "encoded").clamp(0, 1)


def _converted(images: Tensor, have: Encoding, want: Encoding) -> Tensor:
    """Encode or decode images; light beyond white is clipped by the encoding."""
    if have == want:
        return images
    return linear_to_srgb(images.clamp(0, 1)) if want == "encoded" else srgb_to_linear(images)


def _fast_margin(segment: _Segment, picture: tuple[int, int]) -> int:
    """Return the px that a segment needs round the picture, or a few more.

    Rounded up to where the Fourier transform of a square picture is fast.
    """
    height, width = picture
    least = segment.margin
    if least == 0:
        return 0
    rounded = (smooth_size(height + 2 * least) - height) // 2 if height % 2 == 0 else least
    return min(rounded, height - 1, width - 1)
