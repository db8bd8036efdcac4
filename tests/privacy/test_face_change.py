"""What a cloak may change: shifted edges and a gain of light, bounded by what the eye misses."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tinyface import drawn_photo, face_at, tiny_embedder

from physadv.core.color import lab
from physadv.privacy.cloak_faces import MODES, FaceWindow, _near_eyes, cloak_faces
from physadv.privacy.face_change import (
    ChangeLimits,
    GainLimits,
    changed_box,
    line_share,
    masking_texture,
    rendered_box,
)
from physadv.privacy.visibility import (
    ReferenceBox,
    dssim,
    lightness,
    patch_color_change,
    seen_color_change,
)

SKIN = torch.tensor([0.80, 0.60, 0.50])[:, None, None]


def flat(side: int = 64) -> torch.Tensor:
    return SKIN.expand(3, side, side)[None].clone()


def test_lightness_is_that_of_cielab() -> None:
    """Against the double precision of the color module, black and white included."""
    rgb = np.random.default_rng(0).uniform(0, 1, (5, 7, 3)).astype(np.float32)
    rgb[0, 0], rgb[0, 1] = 0, 1
    found = lightness(torch.from_numpy(rgb).permute(2, 0, 1)[None])[0, 0]
    assert np.allclose(found.numpy(), lab(rgb)[..., 0], atol=0.02)


def test_flat_skin_may_change_by_the_flat_limit_alone() -> None:
    """The gain at the limit changes L* by it, up and down, and a shift changes nothing."""
    box, limits = flat(), ChangeLimits(flat=0.7, masking=0.3, most=4.0)
    gain = GainLimits.of(box, limits).darker
    for sign in (-1, 1):
        change = lightness(box * (1 + sign * gain)) - lightness(box)
        assert float(change.abs().max()) == pytest.approx(0.7, rel=0.03)
    moved = changed_box(box, torch.zeros(1, 1, 64, 64), torch.full((1, 2, 64, 64), 1.7), 1.0)
    assert torch.allclose(moved, box, atol=1e-5)


def test_a_gain_keeps_the_color() -> None:
    """Hue and saturation of eyes, lips and teeth: all channels by one factor."""
    box = torch.rand(1, 3, 40, 40) * 0.7 + 0.1
    gain = torch.rand(1, 1, 40, 40) * 0.1
    changed = changed_box(box, gain, torch.zeros(1, 2, 40, 40), 1.0)
    ratio = changed / box
    assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), atol=1e-4)


def test_texture_masks_and_a_lone_edge_does_not() -> None:
    """Inside a texture the contrast counts; on the flat side of an edge, two sigmas off, it does
    not."""
    texture = flat(112)
    texture[..., ::2] *= 0.7
    edge = flat(112)
    edge[..., 56:] *= 0.5
    assert float(masking_texture(texture)[..., 30:80, 30:80].min()) > 4
    assert float(masking_texture(edge)[..., 30:80, 60].max()) < 1.5


def test_a_line_is_no_texture() -> None:
    """Along a lone edge of any direction the share is near 1; in noise, whose edges have all
    directions, on a shade and on flat skin it is small."""
    rows, columns = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    for turn in (0.0, 0.5, 1.2, 2.4):
        side = (columns - 56) * np.cos(turn) + (rows - 56) * np.sin(turn) > 0
        edge = flat(112) * torch.where(side, 0.4, 1.0)
        assert float(line_share(edge)[..., 55:58, 55:58].min()) > 0.75

    noise = torch.rand(1, 1, 112, 112, generator=torch.Generator().manual_seed(1)).expand(
        1, 3, -1, -1
    )
    assert float(line_share(noise).median()) < 0.45
    shade = flat(112) * torch.linspace(0.8, 1, 112)
    assert float(line_share(shade)[..., 10:-10, 10:-10].max()) < 0.2
    assert float(line_share(flat()).max()) < 1e-3


def test_a_line_masks_less_than_a_texture() -> None:
    """Of the same contrast."""
    limits = ChangeLimits(flat=0.0, masking=1.0, most=50.0)
    line, noise = flat(112), flat(112)
    line[..., 54:58] *= 0.4
    noise *= 1 - 0.6 * (torch.rand(1, 1, 112, 112) < 0.3)
    free = GainLimits.of(noise, limits).darker[..., 40:72, 40:72].median()
    assert float(GainLimits.of(line, limits).darker[..., 40:72, 40:72].max()) < 0.5 * float(free)


def test_light_may_grow_more_than_fall() -> None:
    """By the factor of the limits; shares and gains are each other's inverse."""
    bounds = GainLimits.of(flat(), ChangeLimits(flat=0.5, brighter=2.0))
    share = torch.rand(1, 1, 64, 64) * 2 - 1
    gain = bounds.gain(share)
    assert torch.allclose(bounds.share(gain), share, atol=1e-5)
    assert torch.allclose(bounds.gain(torch.ones(1, 1, 64, 64)), 2 * bounds.darker)
    assert torch.allclose(bounds.gain(-torch.ones(1, 1, 64, 64)), -bounds.darker)


def test_black_and_most_bound_the_gain() -> None:
    """Black gets no unbounded gain, and no texture more than ``most``."""
    limits = ChangeLimits(flat=1, masking=9, most=4.0)
    assert float(GainLimits.of(torch.zeros(1, 3, 32, 32), limits).darker.max()) <= 1
    noisy = torch.rand(1, 3, 64, 64)
    gain = GainLimits.of(noisy, limits).darker
    slope = (lightness((1.02 * noisy).clamp(0, 1)) - lightness(0.98 * noisy)) / 0.04
    assert float((gain * slope.clamp_min(4)).max()) <= 4 + 1e-4


def test_a_shift_takes_the_value_from_where_it_points() -> None:
    """By whole pixels it is exact, in bands as in one piece; at twice the size it is doubled."""
    picture = torch.randint(0, 256, (3, 600, 700)).to(torch.uint8)
    flow = torch.zeros(1, 2, 300, 350)
    flow[:, 0] = 1
    done = rendered_box(picture, torch.zeros(1, 1, 300, 350), flow, 255)
    assert done.dtype == torch.uint8
    off = (done[..., :-2].int() - picture[..., 2:].int()).abs()
    assert int(off.max()) <= 2


def test_no_bruise_on_flat_skin() -> None:
    """A face half of which is flat: after the cloak its patches stay under the limit of the mode,
    and chroma there does not change."""
    face = face_at(20, 20, 90)
    photo = drawn_photo(130, 130, face)
    x0, y0, x1, y1 = face.box(130, 130)
    photo[y0:y1, x0 : (x0 + x1) // 2 + 12] = (200, 150, 125)
    done, notes = cloak_faces(photo, [face], [tiny_embedder()], MODES["low"])
    assert notes[0].change.patches is not None
    assert notes[0].change.patches <= MODES["low"].patches
    before, after = (lab(p[y0 + 9 : y1 - 9, x0 + 9 : x0 + 45] / 255.0) for p in (photo, done))
    assert np.abs(after - before)[..., 0].max() < 1.2
    assert np.abs(after - before)[..., 1:].max() < 1.0


def test_color_measures() -> None:
    """Equal pictures differ by 0; a patch of one lightness more by about 1; noise that the eye
    blurs by less than without the blur."""
    box = flat(80)
    assert patch_color_change(box, box) == seen_color_change(box[0], box[0]) == 0
    brighter = box.clone()
    brighter[..., 20:60, 20:60] *= 1.0 + 2 * float(
        GainLimits.of(box, ChangeLimits(1.0)).darker.mean()
    )
    assert 1 < patch_color_change(box, brighter) < 2.2
    grain = box + 0.02 * torch.randn(1, 3, 80, 80)
    assert seen_color_change(box[0], grain[0]) < 0.6 * seen_color_change(
        torch.nn.functional.interpolate(box, scale_factor=8)[0],
        torch.nn.functional.interpolate(grain, scale_factor=8)[0],
    )


def test_eyes_move_as_one() -> None:
    """The rigid places lie on the pupils of the aligned face and nowhere else."""
    face = face_at(30, 22, 112)
    window = FaceWindow.around(np.zeros((170, 190, 3), np.uint8), face)
    near = _near_eyes(window)[0, 0]
    x, y = (face.marks["arc5"][0] - [window.box[0], window.box[1]]).round().astype(int)
    assert near[y, x] > 0.9
    assert near[92, 56] < 0.01


def test_room_takes_from_where_a_patch_shows_and_from_nowhere_else() -> None:
    """Scaled by it, flat patches differ by about the limit at most (CIEDE2000 is not linear, so a
    second round may be needed), and far places keep all."""
    box = torch.full((1, 3, 120, 120), 0.5)
    change = torch.zeros(1, 1, 120, 120)
    change[..., 20:50, 20:50] = 0.1
    room = ReferenceBox(box).patch_room(box + change, 2.0)
    assert patch_color_change(box, box + change) > 2.5
    assert patch_color_change(box, box + room * change) <= 2.0 * 1.1
    assert float(room[..., 80:, 80:].min()) == pytest.approx(1)
    assert float(room.min()) > 0


@pytest.mark.parametrize("size", [(8, 9), (40, 31), (192, 160)])
def test_a_reference_compares_as_two_boxes_do(size: tuple[int, int]) -> None:
    """DSSIM of kornia, on sides under its window too, with the gradient of the changed box."""
    draw = torch.Generator().manual_seed(3)
    before = torch.rand(1, 3, *size, generator=draw)
    after = (before + 0.1 * torch.rand(1, 3, *size, generator=draw)).requires_grad_()
    found, expected = ReferenceBox(before).dssim(after), dssim(before, after)
    assert float(found) == pytest.approx(float(expected), abs=1e-6)
    slopes = [torch.autograd.grad(each.sum(), after)[0] for each in (found, expected)]
    assert torch.allclose(slopes[0], slopes[1], atol=1e-6)


def test_one_spot_does_not_weaken_the_whole_change() -> None:
    """The limit on patches is kept where they show; the shift of edges elsewhere stays."""
    photo, face = drawn_photo(140, 140, face_at(20, 20, 90)), face_at(20, 20, 90)
    (free,) = cloak_faces(photo, [face], [tiny_embedder()], MODES["high"])[1]
    (note,) = cloak_faces(photo, [face], [tiny_embedder()], replace(MODES["high"], patches=0.8))[1]
    assert free.change.patches is not None
    assert note.change.patches is not None
    assert note.change.patches <= 0.8
    # DSSIM grows with the square of a change: so much would be left if all of it were weakened.
    left = free.change.dssim * (note.change.patches / free.change.patches) ** 2
    assert note.change.dssim > 1.5 * left
