"""Cloaking of faces: a small change inside the face boxes of a photo, after which recognizers no
longer match the person.

The change is optimized by expectation over transformation (Athalye et al., 2018) over typical
processing of posted photos, against an ensemble of embedders, by Adam at a working size, with a
penalty on visibility. Both limits, largest change and dissimilarity of the face box, are enforced
at the end on the very 8-bit pixels that will be saved.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from physadv.core.errors import ImageError, OptionError
from physadv.core.image_io import Array
from physadv.core.random_streams import numpy_generator
from physadv.core.reading import format_bytes
from physadv.models.faces.embedders import FaceEmbedder
from physadv.models.faces.face_detection import TEMPLATES, Box, DetectedFace
from physadv.privacy.config import assert_budget
from physadv.privacy.embedding_loss import CloakGoal, CloakMemory, own_embeddings, similarity_margin
from physadv.privacy.face_change import (
    ChangeLimits,
    GainLimits,
    changed_box,
    line_share,
    rendered_box,
)
from physadv.privacy.transforms import (
    Kind,
    PhotoView,
    ViewRanges,
    clean_view,
    crop_arrival,
    crop_through_view,
    draw_view,
    transmit_photo,
)
from physadv.privacy.visibility import (
    ImageChange,
    ReferenceBox,
    gaussian_blur,
    measure_change,
    reduced_ms_ssim,
    seen_color_change,
)

_VIEWS: tuple[Kind, ...] = ("hard", "any")
_PROCESS_BYTES, _PHOTO_BYTES, _FACE_BYTES = 500_000_000, 3, 30
"""Bytes of memory that the process, a pixel of the photo and one of the face box take (measured);
where the photo is copied, twice as many."""
_MOST_BYTES = 2_000_000_000
"""Most bytes of memory of the process while one photo is cloaked."""
_EYE_REACH, _RIGID_PX = 0.07, 8.0
"""Around eyes, within this share of the face's square, and along lines, edges move together: the
shift is blurred by this sigma in px of a 112 px face, so that an iris stays round and a hairline
smooth."""
_LINE_BLUR_PX = 1.0
"""Sigma in px of a 112 px face, over which a line's shift passes into its surroundings'."""
_GIVEN_BACK, _ROUNDS, _TO_LIMIT = 1.15, 3, 0.97
"""Factor by which each place's room grows again, rounds that make it small enough, and the share of
the limit that they aim at."""
_AIM = 1.05
"""Share of the limit on DSSIM that the search aims at."""
_LAST_RATE = 0.1
"""Share of the first step size that the last step has."""
WORKING_SIDE = 192
"""Faces larger than this are optimized at this size, in px; the change is then enlarged to the
photo's."""


@dataclass(frozen=True)
class CloakMode:
    """Limits of a cloak and settings of its optimization.

    Attributes:
        name: Name of the mode.
        linf: Largest change of a value in 8-bit steps; a hard limit.
        dssim: Largest structural dissimilarity of the face box, in [0, 0.5]; a hard limit.
        patches: Largest color difference of patches of skin, CIEDE2000; a hard limit.
        limits: Limits of the change at each place.
        steps: Number of optimization steps.
        draws: Views drawn a step.
        rate: First step size, as a share of the largest change; it falls to a tenth along a half
            cosine (Loshchilov & Hutter, 2017).
        grain: Blur of the gain in px of a 112 px face, so that it looks like light and shade and
            not like scratches.
        flow_grain: Distance of independent shifts in px of a 112 px face.
        momentum: Decay of the first moment.
        every: Steps between two looks at patches of skin that show.
        ranges: Ranges that the views are drawn from.
    """

    name: str
    linf: int
    dssim: float
    patches: float = 4.0
    limits: ChangeLimits = field(default_factory=ChangeLimits)
    steps: int = 32
    draws: int = 2
    rate: float = 0.35
    grain: float = 0.8
    flow_grain: float = 4.0
    momentum: float = 0.9
    every: int = 8
    ranges: ViewRanges = field(default_factory=ViewRanges)


MODES = {
    mode.name: mode
    for mode in (
        CloakMode(
            "low",
            linf=30,
            dssim=0.01,
            patches=1.2,
            limits=ChangeLimits(0.5, 0.6, 3.0, 0.3, brighter=1.6),
            steps=20,
        ),
        CloakMode(
            "mid",
            linf=50,
            dssim=0.033,
            patches=2.4,
            limits=ChangeLimits(0.9, 1.1, 7.5, 1.7, brighter=1.25),
        ),
        CloakMode(
            "high", linf=60, dssim=0.045, patches=3.2, limits=ChangeLimits(1.2, 1.5, 10, 2.1)
        ),
    )
}


def mode_of_budget(budget: float) -> CloakMode:
    """Return the limits of a visibility in between, below or above those of :data:`MODES`.

    The other limits follow the patches': between two modes they are interpolated, below the first
    they shrink in proportion, above the last they grow on.

    Args:
        budget: Largest color difference of patches of skin, CIEDE2000 from 0.5 to 5.

    Returns:
        The limits; those of a mode where the budget is its own.

    Raises:
        OptionError: The budget is out of range.

    Example:
        >>> mode_of_budget(2.1).linf
        45
    """
    assert_budget(budget)
    modes = list(MODES.values())
    for mode in modes:
        if budget == mode.patches:
            return mode
    least = [0.0 for _ in _limits_of(modes[0])]
    rows = np.array([least, *(_limits_of(mode) for mode in modes)])
    upper = min(int(np.searchsorted(rows[:, 0], budget)), len(rows) - 1)
    low, high = rows[upper - 1], rows[upper]
    brighter = float(np.interp(budget, rows[1:, 0], [mode.limits.brighter for mode in modes]))
    patches, dssim_limit, linf, flat, masking, most, shift = (
        low + (high - low) * (budget - low[0]) / (high[0] - low[0])
    ).tolist()
    return CloakMode(
        f"budget {budget:g}",
        linf=max(1, round(linf)),
        dssim=dssim_limit,
        patches=patches,
        limits=ChangeLimits(flat, masking, most, shift, brighter=brighter),
    )


def _limits_of(mode: CloakMode) -> list[float]:
    """The numbers that set how visible a mode is, that of the patches first."""
    limits = mode.limits
    places = [limits.flat, limits.masking, limits.most, limits.shift]
    return [mode.patches, mode.dssim, float(mode.linf), *places]


def read_mode(text: str) -> CloakMode:
    """Return the mode that ``text`` names: low, mid, high, or a number for a budget.

    Raises:
        OptionError: It names none, or a budget out of range.

    Example:
        >>> read_mode("2.1").name
        'budget 2.1'
    """
    try:
        budget = float(text)
    except ValueError:
        return mode_named(text)
    return mode_of_budget(budget)


def mode_named(name: str) -> CloakMode:
    """Return the mode called ``name``.

    Raises:
        OptionError: There is no such mode; the message lists those there are.

    Example:
        >>> mode_named("low").linf
        30
    """
    if name not in MODES:
        raise OptionError(f"--mode {name}", f"is none of {', '.join(MODES)}", "Choose one of them")
    return MODES[name]


@dataclass(frozen=True)
class CloakedFace:
    """Result for one face in the mode of that name; ``margins`` by embedder are 1 for the unchanged
    face and below 0 where it no longer matches; ``others`` is the number of the person's other
    photos that the cloak knew."""

    mode: str
    box: Box
    change: ImageChange
    margins: dict[str, float]
    steps: int
    seconds: float
    others: int = 0


def cloak_faces(
    photo: Array,
    faces: Sequence[DetectedFace],
    embedders: Sequence[FaceEmbedder],
    mode: CloakMode | Sequence[CloakMode],
    *,
    memory: CloakMemory | None = None,
    decoys: dict[str, Tensor] | None = None,
    seed: int = 0,
    name: str = "photo",
    in_place: bool = False,
) -> tuple[Array, list[CloakedFace]]:
    """Cloak every face of a photo; outside the face boxes nothing changes.

    Args:
        photo: Photo (h, w, 3) uint8 RGB.
        faces: Faces of that photo.
        embedders: Embedders to optimize against, at least one.
        mode: Limits and settings of all faces, or of each.
        memory: Faces cloaked before, so that cloaked photos of one person do not match each other.
        decoys: Averaged embeddings (1, d) by embedder to move towards.
        seed: Seed of the random streams, which depend on each face's pixels beside it, and not on
            the photo's name.
        name: Name of the photo in errors.
        in_place: Whether the faces are changed in ``photo`` itself, which saves the memory of a
            copy.

    Returns:
        The cloaked photo, and the result for each face.

    Raises:
        OptionError: There is no embedder.
        ImageError: A face is so large, in so large a photo, that it would take over 2 GB.

    Example:
        >>> from physadv.models.faces.embedders import load_embedder
        >>> from physadv.models.faces.face_detection import default_finders, find_faces
        >>> def cloak(photo):  # (h, w, 3) uint8, needs the extra `faces`
        ...     faces = find_faces(photo, default_finders())
        ...     return cloak_faces(photo, faces, [load_embedder("dlib")], mode_named("mid"))
    """
    if not embedders:
        raise OptionError("no embedder", "at least one is needed", "See `physadv models list`")

    for face in faces:
        _assert_memory(photo, face, name, 1 if in_place else 2)
    done, notes = photo if in_place else photo.copy(), []
    modes = [mode] * len(faces) if isinstance(mode, CloakMode) else mode
    for face, own in zip(faces, modes, strict=True):
        rng = numpy_generator(seed, "cloak", face_digest(done, face))
        notes.append(_cloak_into(done, face, embedders, own, memory, decoys, rng))
    return done, notes


def face_digest(photo: Array, face: DetectedFace) -> str:
    """Return a digest of the pixels in the box of ``face`` in ``photo`` (h, w, 3) uint8, which
    names its random streams."""
    x0, y0, x1, y1 = face.box(*photo.shape[:2])
    return hashlib.sha256(photo[y0:y1, x0:x1].tobytes()).hexdigest()


def _assert_memory(photo: Array, face: DetectedFace, name: str, copies: int) -> None:
    """Refuse a face that is so large, in so large a photo, of which as many copies are held, that
    memory would run out."""
    height, width = photo.shape[:2]
    x0, y0, x1, y1 = face.box(height, width)
    pixels = copies * _PHOTO_BYTES * height * width + _FACE_BYTES * (x1 - x0) * (y1 - y0)
    needed = _PROCESS_BYTES + pixels
    if needed > _MOST_BYTES:
        part = 0.95 * ((_MOST_BYTES - _PROCESS_BYTES) / pixels) ** 0.5
        raise ImageError(
            f"{name}: a face of {x1 - x0}x{y1 - y0} px in a photo of {width}x{height} px",
            f"takes {format_bytes(needed)} of memory, over {format_bytes(_MOST_BYTES)}",
            f"Scale the photo down to {int(width * part)}x{int(height * part)} px",
        )


def cloak_face(
    photo: Array,
    face: DetectedFace,
    embedders: Sequence[FaceEmbedder],
    mode: CloakMode,
    *,
    memory: CloakMemory | None = None,
    decoys: dict[str, Tensor] | None = None,
    rng: np.random.Generator,
) -> tuple[Array, CloakedFace]:
    """Cloak one face of a photo.

    Args:
        photo: Photo (h, w, 3) uint8 RGB.
        face: Face of that photo.
        embedders: Embedders to optimize against, at least one.
        mode: Limits and settings.
        memory: Faces cloaked before; this one is added.
        decoys: Averaged embeddings (1, d) by embedder to move towards.
        rng: Source of all randomness.

    Returns:
        The photo with this face cloaked, and the result.
    """
    done = photo.copy()
    return done, _cloak_into(done, face, embedders, mode, memory, decoys, rng)


def _cloak_into(
    photo: Array,
    face: DetectedFace,
    embedders: Sequence[FaceEmbedder],
    mode: CloakMode,
    memory: CloakMemory | None,
    decoys: dict[str, Tensor] | None,
    rng: np.random.Generator,
) -> CloakedFace:
    """Cloak one face in the pixels of ``photo`` themselves."""
    started = time.perf_counter()
    device = embedders[0].mean.device
    window = FaceWindow.around(photo, face, device)
    goal = CloakGoal.of(window.scene, window.face, embedders, memory, decoys)
    search = CloakSearch(window, embedders, mode, goal, rng)
    search.run()

    window.paste(photo, search.box)
    if memory is not None:
        after = FaceWindow.around(photo, face, device)
        memory.add(
            goal.clean,
            {e.card.name: own_embeddings(after.scene, after.face, e)[:1] for e in embedders},
        )

    return CloakedFace(
        mode=mode.name,
        box=window.box,
        change=replace(
            measure_change(window.original, search.box),
            dssim=float(search.reference.dssim(window.seen(search.box))),
            color=seen_color_change(window.original, search.box),
            patches=search.reference.patch_color_change(window.seen(search.box)),
            ms_ssim=reduced_ms_ssim(window.original, search.box),
        ),
        margins={k: round(v, 4) for k, v in search.margins.items()},
        steps=mode.steps,
        seconds=time.perf_counter() - started,
        others=goal.others,
    )


@dataclass(frozen=True)
class FaceWindow:
    """The surroundings of one face at the working size, and the way back to the photo.

    Attributes:
        scene: The photo around the face (1, 3, h, w) in [0, 1], at the working size.
        face: The face in pixels of ``scene``.
        box: Face box in the photo.
        inner: Face box in ``scene``.
        mask: Weight (1, 1, gh, gw) that fades to 0 at the box's border, so that no seam shows.
        original: Face box (3, bh, bw) uint8 of the photo, at its own size.
        gray: Whether all channels are equal; such photos stay gray.
    """

    scene: Tensor
    face: DetectedFace
    box: Box
    inner: Box
    mask: Tensor
    original: Tensor
    gray: bool

    @classmethod
    def around(
        cls, photo: Array, face: DetectedFace, device: torch.device | None = None
    ) -> FaceWindow:
        """Cut the window of ``face`` out of ``photo`` (h, w, 3) uint8; only the window is
        converted to float, on ``device``."""
        height, width = photo.shape[:2]
        box = face.box(height, width)
        side = max(box[2] - box[0], box[3] - box[1], 1)
        outer = face.box(height, width, margin=0.3)

        factor = min(1.0, WORKING_SIDE / side)
        region = photo[outer[1] : outer[3], outer[0] : outer[2]]
        size = None
        if factor < 1:
            size = tuple(max(16, round(length * factor)) for length in region.shape[:2])
        scene = torch.cat([_channel(region, k, size, device) for k in range(3)], 1)

        inner = tuple(round((box[k] - outer[k % 2]) * factor) for k in range(4))
        x0, y0, x1, y1 = inner
        return cls(
            scene=scene,
            face=face.moved(1.0, -outer[0], -outer[1]).moved(factor, 0, 0),
            box=box,
            inner=(x0, y0, min(x1, scene.shape[3]), min(y1, scene.shape[2])),
            mask=_fade(min(y1, scene.shape[2]) - y0, min(x1, scene.shape[3]) - x0).to(scene),
            original=_planes(photo[box[1] : box[3], box[0] : box[2]]).to(device),
            gray=all(bool((row == row[:, :1]).all()) for row in region),
        )

    def scene_with(self, box: Tensor) -> Tensor:
        """Return the scene with another face ``box`` (1, 3, gh, gw) in its place."""
        x0, y0, x1, y1 = self.inner
        rows = self.scene[..., y0:y1, :]
        middle = torch.cat([rows[..., :x0], box.clamp(0, 1), rows[..., x1:]], 3)
        return torch.cat([self.scene[..., :y0, :], middle, self.scene[..., y1:, :]], 2)

    def box_of(self, scene: Tensor) -> Tensor:
        """Return the face box (1, 3, gh, gw) of ``scene``."""
        x0, y0, x1, y1 = self.inner
        return scene[..., y0:y1, x0:x1]

    def rendered(self, gain: Tensor, flow: Tensor, scale: float, linf: int) -> Tensor:
        """Return the face box at the photo's own size with a change, in whole 8-bit steps.

        Args:
            gain: Gain (1, 1, gh, gw) at the working size, as a share of the values.
            flow: Shift (1, 2, gh, gw) in px of the working size.
            scale: Share of the change to apply, in [0, 1].
            linf: Largest change of a value in 8-bit steps.

        Returns:
            Face box (3, bh, bw) uint8.
        """
        share = self.mask * scale
        return rendered_box(self.original, gain * share, flow * share, linf)

    def paste(self, photo: Array, box: Tensor) -> None:
        """Put this face ``box`` (3, bh, bw) uint8 into ``photo`` (h, w, 3) uint8 itself; everything
        else is preserved bit for bit."""
        x0, y0, x1, y1 = self.box
        photo[y0:y1, x0:x1] = box.permute(1, 2, 0).cpu().numpy()

    def seen(self, box: Tensor) -> Tensor:
        """Resize a face ``box`` (3, bh, bw) uint8 of the photo to the working size, and return it
        (1, 3, gh, gw) in [0, 1]."""
        size = self.mask.shape[-2:]
        return torch.cat([_reduced(plane, tuple(size)) for plane in box[:, None]], 1)


def _planes(region: Array) -> Tensor:
    """A region (h, w, c) uint8 as a tensor (c, h, w) uint8."""
    return torch.from_numpy(np.ascontiguousarray(region.transpose(2, 0, 1)))


def _channel(
    region: Array, channel: int, size: tuple[int, ...] | None, device: torch.device | None
) -> Tensor:
    """One channel (1, 1, h, w) of a region (h, w, 3) uint8, in [0, 1] and reduced to ``size``."""
    return _reduced(_planes(region[..., channel : channel + 1]).to(device), size)


def _reduced(plane: Tensor, size: tuple[int, ...] | None) -> Tensor:
    """A channel (1, h, w) uint8, in [0, 1] and reduced to ``size`` (1, 1, h, w): all three at once
    as floats would take several times the memory of the photo."""
    unit = plane[None].float().div_(255)
    if size is None or tuple(unit.shape[-2:]) == size:
        return unit
    return F.interpolate(unit, size, mode="bilinear", antialias=True, align_corners=False)


class CloakSearch:
    """Optimization of one face's change; :meth:`run` leaves the face box within the limits in
    ``box``.

    Attributes:
        box: Face box (3, bh, bw) uint8 of the photo; until the end the original.
        change: Gain (1, 1, gh, gw) and shift (1, 2, gh, gw) of that box, as shares of the largest
            at each place.
        margins: Margins of that box by embedder, as it is, to the nearest of the person's own.
    """

    def __init__(
        self,
        window: FaceWindow,
        embedders: Sequence[FaceEmbedder],
        mode: CloakMode,
        goal: CloakGoal,
        rng: np.random.Generator,
    ) -> None:
        self.window, self.embedders, self.mode, self.goal, self.rng = (
            window,
            embedders,
            mode,
            goal,
            rng,
        )

        self.reference = ReferenceBox(window.seen(window.original))
        """The face as it was, which limits are measured against."""
        self._before = window.box_of(window.scene)
        self._unchanged = ReferenceBox(self._before)
        self.price = 1.0
        lines = gaussian_blur(
            line_share(self._before), _LINE_BLUR_PX * max(window.mask.shape[-2:]) / 112
        )
        self._rigid = torch.maximum(_near_eyes(window), lines)
        """Share in [0, 1] by which each place moves with its surroundings."""
        self._gain_limits = GainLimits.of(self._before, mode.limits)
        self._room = torch.ones_like(window.mask)
        """Share of the change that each place may keep: patches of skin must not show."""
        still = torch.zeros_like(window.mask)
        self.change = still, torch.cat([still, still], 1)
        self.box = window.original
        self.margins: dict[str, float] = {}

    def run(self, begin: tuple[Tensor, Tensor] | None = None) -> None:
        """Optimize, and bring the last change inside the limits.

        As the step size falls, the last change is the best: in 8 runs, of 4 tuning faces in ``low``
        and in ``mid``, no earlier one was.

        Args:
            begin: Gain (1, 1, gh, gw) and shift (1, 2, gh, gw) to begin from, in shares as
                ``change`` has them; None for noise.
        """
        h, w = self.window.mask.shape[-2:]
        # The first gain is coarse, low-amplitude noise: from exactly zero the gradient of a cosine
        # vanishes.
        start = self.rng.uniform(-0.25, 0.25, (1, 1, max(2, h // 4), max(2, w // 4)))
        gain = F.interpolate(torch.from_numpy(start).to(self.window.scene), (h, w), mode="bilinear")
        cells = max(2, round(112 / self.mode.flow_grain))
        flow = torch.from_numpy(self.rng.uniform(-0.1, 0.1, (1, 2, cells, cells))).to(gain)

        now = [gain, flow]
        if begin is not None:
            small = F.interpolate(begin[1], (cells, cells), mode="bilinear", antialias=True)
            now = [begin[0].to(gain).clamp(-1, 1), small.to(gain).clamp(-1, 1)]
        first = [torch.zeros_like(each) for each in now]
        second = [torch.zeros_like(each) for each in now]

        for step in range(1, self.mode.steps + 1):
            fallen = (1 + np.cos(np.pi * step / self.mode.steps)) / 2
            rate = self.mode.rate * (_LAST_RATE + (1 - _LAST_RATE) * float(fallen))
            gradients = self._gradient(now)
            for k, gradient in enumerate(gradients):
                first[k] = self.mode.momentum * first[k] + (1 - self.mode.momentum) * gradient
                second[k] = 0.99 * second[k] + 0.01 * gradient**2
                move = (first[k] / (1 - self.mode.momentum**step)) / (
                    (second[k] / (1 - 0.99**step)).sqrt() + 1e-12
                )
                now[k] = (now[k] - rate * move).clamp(-1, 1)

            if step % self.mode.every == 0 or step == self.mode.steps:
                self._make_room(now)
        self._finish(*self._shaped(*now))

    def _gradient(self, now: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Gradients of the loss over fresh views, plus the price of being seen."""
        now = [each.detach().requires_grad_() for each in now]
        gain, flow = self._shaped(*now)
        mask = self.window.mask
        box = changed_box(self._before, gain * mask, flow * mask, self.mode.linf / 255)

        views = [draw_view(self.rng, self.mode.ranges, kind) for kind in self._kinds()]
        loss = self._loss(self.window.scene_with(box), views)

        # The price follows the constraint: it rises while the change is too visible and falls while
        # there is room, the slower the nearer it is to a little too much, of which the last share
        # is taken back.
        over = self._unchanged.dssim(box)[0] / self.mode.dssim
        grown = float(np.clip((float(over.detach()) / _AIM) ** 0.5, 0.9, 1.15))
        self.price = float(np.clip(self.price * grown, 0.02, 50))
        return torch.autograd.grad(loss + self.price * over, now)

    def _shaped(self, gain: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        """Gain and shift of parameters in [-1, 1]: without their finest detail, within the limits
        at each place."""
        height, width = self.window.mask.shape[-2:]
        side = max(height, width)
        if self.mode.grain > 0:
            blurred = gaussian_blur(gain, self.mode.grain * side / 112)
            gain = (blurred * (1 + self.mode.grain)).clamp(-1, 1)

        # Blurred while it is small, which gives the same and takes a tenth of the time.
        rigid = gaussian_blur(flow, _RIGID_PX * max(flow.shape[-2:]) / 112)
        grown, still = F.interpolate(
            torch.cat([flow, rigid], 1), (height, width), mode="bicubic", align_corners=False
        ).chunk(2, 1)
        grown = grown + self._rigid * (still - grown)
        length = (grown * grown).sum(1, keepdim=True).clamp_min(1e-12).sqrt()
        farthest = self.mode.limits.shift * side / 112 * self._room
        flow = grown * (length.clamp_max(1) / length) * farthest
        return self._gain_limits.gain(gain) * self._room, flow

    def _loss(self, scene: Tensor, views: Sequence[PhotoView]) -> Tensor:
        """Mean loss over embedders and views. An embedder is shown its share of the views, by
        chance: those whose gradients say little of others cost less time."""
        face, losses = self.window.face, []
        arrived = [transmit_photo(scene, face, view) for view in views]

        most = max(embedder.card.share for embedder in self.embedders)
        for embedder in self.embedders:
            share = embedder.card.share / most
            passages = [
                passage
                for passage in zip(arrived, views, strict=True)
                if share == 1 or self.rng.random() < share
            ]
            if not passages:
                continue
            crops = torch.cat(
                [crop_arrival(embedder, photo, face, view) for photo, view in passages]
            )
            losses.append(
                self.goal.loss(
                    embedder, embedder(crops.contiguous(memory_format=torch.channels_last))
                )
            )
        return torch.stack(losses).mean()

    def _kinds(self) -> list[Kind]:
        """The views of a step are hard and anything in turn, by chance one or the other first: what
        holds in these holds in plain ones, and not the other way round."""
        start = int(self.rng.integers(2))
        return [_VIEWS[(k + start) % 2] for k in range(self.mode.draws)]

    @torch.no_grad()
    def _make_room(self, now: Sequence[Tensor]) -> None:
        """Weaken the change where patches of skin show, so that one spot does not weaken all of it;
        give back what the others do not need."""
        before, mask = self._before, self.window.mask
        self._room = (_GIVEN_BACK * self._room).clamp_max(1)
        for _ in range(_ROUNDS):
            gain, flow = self._shaped(*now)
            box = changed_box(before, gain * mask, flow * mask, self.mode.linf / 255).clamp(0, 1)
            room = self._unchanged.patch_room(box, _TO_LIMIT * self.mode.patches)
            if float(room.min()) >= 1:
                return
            self._room = self._room * room

    @torch.no_grad()
    def _finish(self, gain: Tensor, flow: Tensor) -> None:
        """Bring a change inside the limits and measure it."""
        self.box, share = self._within(gain, flow)
        farthest = self.mode.limits.shift * max(self.window.mask.shape[-2:]) / 112
        self.change = share * self._gain_limits.share(gain), share * flow / farthest

        scene = self.window.scene_with(self.window.seen(self.box))
        self.margins = {
            e.card.name: float(
                similarity_margin(
                    e,
                    e(crop_through_view(scene, self.window.face, e, clean_view())),
                    self.goal.own[e.card.name],
                ).max()
            )
            for e in self.embedders
        }

    def _within(self, gain: Tensor, flow: Tensor) -> tuple[Tensor, float]:
        """The face box with the largest share of a change that keeps the limits after rounding, and
        that share."""
        low, high = 0.0, 1.0
        full = self.window.rendered(gain, flow, 1.0, self.mode.linf)
        if self._is_within(full):
            return full, 1.0

        best = self.window.original
        for _ in range(8):
            middle = (low + high) / 2
            box = self.window.rendered(gain, flow, middle, self.mode.linf)
            if self._is_within(box):
                low, best = middle, box
            else:
                high = middle
        return best, low

    def _is_within(self, box: Tensor) -> bool:
        """Whether a rendered face box keeps the limits of what is seen."""
        seen = self.window.seen(box)
        if float(self.reference.dssim(seen)) > self.mode.dssim:
            return False
        return self.reference.patch_color_change(seen) <= self.mode.patches


def _near_eyes(window: FaceWindow) -> Tensor:
    """(1, 1, gh, gw): 1 at the middle of each eye, falling to 0 around it."""
    height, width = window.mask.shape[-2:]
    to_scene = window.face.to_photo("arcface", 1)
    side = float(np.hypot(*to_scene[:, 0]))
    eyes = TEMPLATES["arcface", "arc5"][:2] @ to_scene[:, :2].T + to_scene[:, 2]
    rows = torch.arange(height)[:, None] + 0.5 + window.inner[1]
    columns = torch.arange(width)[None] + 0.5 + window.inner[0]
    squares = [(rows - y) ** 2 + (columns - x) ** 2 for x, y in eyes.tolist()]
    near = torch.stack(squares).min(0).values / (_EYE_REACH * side) ** 2
    return torch.exp(-0.5 * near)[None, None].to(window.mask)


def _fade(height: int, width: int) -> Tensor:
    """(1, 1, height, width): 1 inside, falling to 0 over a twelfth of the side at each border."""

    def ramp(side: int) -> Tensor:
        reach = torch.arange(side, dtype=torch.float32) + 0.5
        return (torch.minimum(reach, side - reach) / max(1.0, side / 12)).clamp(0, 1)

    return (ramp(height)[:, None] * ramp(width)[None])[None, None]
