"""Each effect between print and file: units, linear light, nothing at its neutral value, true
gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from kornia.color import CFA, raw_to_rgb, rgb_to_raw
from scipy.interpolate import RBFInterpolator
from torch import Tensor

from physadv.core.random_streams import generator
from physadv.eot.placement import Placement, place_patch
from physadv.eot.transforms import blur
from physadv.eot.transforms.air import AirDraw, haze_transmission, look_through
from physadv.eot.transforms.bend import CONTROL, FIELD, BendDraw, thin_plate, unbend_points
from physadv.eot.transforms.codec import differentiable_jpeg, file_or_frame
from physadv.eot.transforms.exposure import apply_exposure
from physadv.eot.transforms.lens_distortion import BrownLens, undistorted_grid
from physadv.eot.transforms.light import (
    LightDraw,
    SignSpot,
    illuminate_scene,
    sign_spot,
    temperature_gains,
)
from physadv.eot.transforms.patch_pixels import PatchPixels
from physadv.eot.transforms.pixel_arithmetic import PicturePixels
from physadv.eot.transforms.sensor import (
    SensorDraw,
    demosaic_bilinear,
    expose_sensor,
    rolling_bands,
)
from physadv.eot.transforms.sharpening import sharpen_picture
from physadv.eot.transforms.tone_curve import tone_curve
from physadv.eot.warp import pixel_centers, pose_homography, warp_texture

DOUBLE = torch.float64
RECTANGLE = torch.tensor([-100.0, -75.0, 200.0, 150.0], dtype=DOUBLE)


def one(value: float, *shape: int) -> Tensor:
    return torch.full(shape or (1,), value, dtype=DOUBLE)


def spot() -> SignSpot:
    return SignSpot(torch.tensor([[50.0, 40.0]], dtype=DOUBLE), one(0.5))


def dark() -> LightDraw:
    """Light that changes nothing."""
    return LightDraw(
        spot(),
        one(0),
        one(10),
        one(0),
        one(0),
        one(0),
        one(0),
        one(0),
        one(20),
        one(0, 1, 2),
        one(6504),
    )


def clear() -> AirDraw:
    """Air with nothing in it."""
    return AirDraw(
        spot(), one(0), one(20), one(4), one(0, 1, 2), one(0), one(0.1, 1, 3), one(1), one(0.7)
    )


def ideal() -> SensorDraw:
    """A sensor that adds nothing."""
    return SensorDraw(one(0), one(20), one(0), None, one(0), one(0))


def flat() -> BendDraw:
    return BendDraw(one(0, 1, CONTROL, CONTROL, 2), one(0), one(0.4))


def centers(height: int = 80, width: int = 100) -> tuple[Tensor, Tensor]:
    return pixel_centers((height, width), one(0))


def lit(draw: LightDraw, light: Tensor | None = None) -> Tensor:
    light = one(0.4, 1, 3, 80, 100) if light is None else light
    return illuminate_scene(light, *centers(light.shape[-2], light.shape[-1]), draw)


# Light and color.


def test_one_ev_doubles_the_light() -> None:
    """An exposure of +1 EV doubles linear light, -1 EV halves it."""
    light = one(0.2, 1, 3, 4, 4)
    torch.testing.assert_close(apply_exposure(light, one(1), one(1, 1, 3)), 2 * light)
    torch.testing.assert_close(apply_exposure(light, one(-1), one(1, 1, 3)), light / 2)


def test_light_at_rest_changes_nothing() -> None:
    """No shadow, no gradient, no highlight and 6504 K leave the light as it is."""
    torch.testing.assert_close(lit(dark()), one(0.4, 1, 3, 80, 100))


def test_daylight_is_neutral_and_lamps_are_warm() -> None:
    """6504 K has gains of 1; a tungsten lamp (2856 K) is red, a blue sky (12000 K) is blue; green
    is always 1."""
    gains = temperature_gains(torch.tensor([6504.0, 2856.0, 12000.0], dtype=DOUBLE))
    torch.testing.assert_close(gains[0], torch.ones(3, dtype=DOUBLE))
    assert gains[1, 0] > 1.3
    assert gains[1, 2] < 0.5
    assert gains[2, 0] < 0.9
    assert gains[2, 2] > 1.1
    torch.testing.assert_close(gains[:, 1], torch.ones(3, dtype=DOUBLE))


def test_tungsten_has_its_published_chromaticity() -> None:
    """The gains of illuminant A (2856 K), put back on a 6504 K black body, have x = 0.4476 and y =
    0.4074 (CIE 15)."""
    from physadv.eot.transforms.light import _black_body

    to_xyz = torch.tensor(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ],
        dtype=DOUBLE,
    )
    xyz = to_xyz @ _black_body(one(2856))[0]
    assert float(xyz[0] / xyz.sum()) == pytest.approx(0.4476, abs=0.002)
    assert float(xyz[1] / xyz.sum()) == pytest.approx(0.4074, abs=0.002)


def test_shadow_takes_its_depth_on_one_side_only() -> None:
    """A shadow of 2 EV leaves a quarter of the light on one side, all on the other, and is soft
    over its edge."""
    out = lit(replace(dark(), shadow_ev=one(2), shadow_edge_mm=one(40)))[0, 0, 0]
    torch.testing.assert_close(out[:35], one(0.4, 35))
    torch.testing.assert_close(out[65:], one(0.1, 35))
    soft = out[(out > 0.1001) & (out < 0.3999)]
    assert 16 <= len(soft) <= 20  # 40 mm at 0.5 px/mm


def test_gradient_is_in_ev_per_meter() -> None:
    """A gradient of 1 EV/m doubles the light from one point to another 1 m further on."""
    out = lit(replace(dark(), gradient_ev=one(1)), one(0.1, 1, 3, 4, 600))[0, 0, 0]
    assert float(out[549] / out[49]) == pytest.approx(2.0, rel=1e-6)


def test_highlight_adds_light_and_falls_off_by_its_size() -> None:
    """A highlight adds its peak at its place and exp(-1/2) of that one standard deviation away,
    whatever lies below."""
    draw = replace(dark(), highlight=one(0.5), highlight_mm=one(20), highlight_at_mm=one(1, 1, 2))
    for ground in (0.0, 0.3):
        added = lit(draw, one(ground, 1, 3, 80, 100))[0, 0] - ground
        assert float(added[40, 50]) == pytest.approx(0.5, abs=1e-9)
        assert float(added[40, 60]) == pytest.approx(0.5 * math.exp(-0.5), abs=1e-9)


def test_haze_follows_koschmieder() -> None:
    """At the visual range (3.912 over the extinction) 2 % of the contrast is left; without haze all
    of it."""
    assert float(haze_transmission(one(3.912), one(1000))) == pytest.approx(0.02, abs=1e-4)
    light = torch.rand(1, 3, 80, 100, dtype=DOUBLE)
    torch.testing.assert_close(look_through(light, *centers(), clear()), light)
    hazy = look_through(light, *centers(), replace(clear(), clear=one(0.25)))
    torch.testing.assert_close(hazy, 0.25 * light + 0.75 * 0.7)


def test_occluder_has_its_size_in_millimeters() -> None:
    """An occluder 20 mm wide and 80 mm long covers its ellipse at 0.5 px/mm, and nothing where it
    is absent."""
    light = one(1, 1, 3, 80, 100)
    seen = look_through(light, *centers(), replace(clear(), present=one(1)))
    covered = float(((1 - seen[0, 0]) / 0.9).sum())
    assert covered == pytest.approx(math.pi * 10 * 40 * 0.25, rel=0.02)


def test_sign_spot_finds_center_and_scale() -> None:
    """The spot of a frontal sign at 5 m under f = 1000 px is its center and 0.2 px per mm."""
    zero, single = torch.zeros(1), torch.ones(1)
    middle = torch.tensor([[30.0, 20.0]])
    frontal = pose_homography(
        5000 * single, zero, zero, zero, focal_px=1000 * single, center_px=middle
    )
    found = sign_spot(frontal)
    torch.testing.assert_close(found.center_px, middle)
    torch.testing.assert_close(found.px_per_mm, torch.tensor([0.2]))


# Geometry.


def test_thin_plate_is_scipys() -> None:
    """The bending field is scipy's thin-plate spline on the same control points, and meets
    these."""
    shift = torch.randn(CONTROL, CONTROL, 2, dtype=DOUBLE, generator=generator(0, "plate"))
    steps = [torch.linspace(0, 1, n, dtype=DOUBLE) for n in (CONTROL, FIELD)]
    control, field = (
        torch.stack(torch.meshgrid(s, s, indexing="xy"), -1).view(-1, 2) for s in steps
    )
    spline = RBFInterpolator(
        control.numpy(), shift.flatten(0, 1).numpy(), kernel="thin_plate_spline", degree=1
    )
    bent = thin_plate(shift[None])[0]
    np.testing.assert_allclose(bent.flatten(1).T.numpy(), spline(field.numpy()), atol=1e-9)
    every = (FIELD - 1) // (CONTROL - 1)
    torch.testing.assert_close(bent[:, ::every, ::every].permute(1, 2, 0), shift)


def test_a_flat_sticker_is_not_bent() -> None:
    """No shift and no curl leave every point where it is, in full light."""
    x, y = torch.rand(2, 1, 5, 6, dtype=DOUBLE) * 150 - 75
    bent = unbend_points(x, y, RECTANGLE, flat())
    for got, expected in zip(bent, (x, y, torch.ones_like(x)), strict=True):
        torch.testing.assert_close(got, expected)


def test_thin_plate_moves_millimeters() -> None:
    """All control points shifted by (3, -2) mm move every point by just that."""
    shift = torch.tensor([3.0, -2.0], dtype=DOUBLE).expand(1, CONTROL, CONTROL, 2)
    x, y = torch.rand(2, 1, 5, 6, dtype=DOUBLE) * 100 - 50
    seen_x, seen_y, _ = unbend_points(x, y, RECTANGLE, replace(flat(), shift_mm=shift))
    torch.testing.assert_close(seen_x - x, torch.full_like(x, 3.0))
    torch.testing.assert_close(seen_y - y, torch.full_like(x, -2.0))


def test_curl_is_a_cylinder() -> None:
    """Curled by 60 degrees the 200 mm side shows a chord of 2 R sin(30) and its edge gets cos(30)
    of the light."""
    curl = math.radians(60)
    radius = 200 / curl
    edge = one(radius * math.sin(curl / 2), 1, 1, 1)
    x, _, shade = unbend_points(
        edge, one(0, 1, 1, 1), RECTANGLE, replace(flat(), curl=one(curl), axis=one(0))
    )
    assert float(x) == pytest.approx(100.0, abs=1e-6)
    assert float(shade) == pytest.approx(math.cos(curl / 2), abs=1e-9)


def test_motion_of_n_px_moves_n_px() -> None:
    """Motion of 8 px smears a point over 8 px: its spread is that of a box 8 px wide."""
    point = torch.zeros(1, 3, 9, 65, dtype=DOUBLE)
    point[..., 32] = 1
    out = blur.blur_lens(point, one(1.2), one(8), one(0))[0, 0, 4]
    offsets = torch.arange(65, dtype=DOUBLE) - 32
    assert float((out * offsets**2).sum()) == pytest.approx(1.2**2 + 8**2 / 12, rel=1e-3)


@pytest.mark.parametrize("bent", [False, True])
def test_white_on_white_has_no_edge(bent: bool) -> None:
    """A white patch on white, turned, far away, bent, relit or not, is invisible up to the shade of
    its curl."""
    single = torch.ones(2)
    seen = pose_homography(
        torch.tensor([500.0, 6000.0]),
        0.6 * single,
        0.2 * single,
        0.3 * single,
        focal_px=200 * single,
        center_px=torch.full((2, 2), 32.0),
    )
    bend = BendDraw(
        5 * torch.randn(2, CONTROL, CONTROL, 2, generator=generator(0, "w")),
        torch.zeros(2),
        torch.zeros(2),
    )
    white, ones = torch.ones(2, 3, 64, 64), torch.ones(2, 3)
    out = place_patch(
        white,
        torch.ones(1, 3, 40, 60),
        torch.ones(1, 1, 40, 60),
        seen,
        Placement(150, 100),
        ones,
        0 * ones,
        bend=bend if bent else None,
    )
    assert float((out - 1).abs().max()) < 1e-5


def test_ten_times_smaller_is_the_area_average() -> None:
    """RMSE to the exact area average at 10x, over three shifts: <= 0.03 (0.02 measured; plain
    bilinear has 0.26)."""
    texture = torch.rand(1, 3, 400, 400, generator=generator(0, "texture"))
    exact = torch.nn.functional.avg_pool2d(texture, 10)
    scale = torch.tensor([[[0.1, 0, 0], [0, 0.1, 0], [0, 0, 1.0]]])
    seen = warp_texture(texture, scale, torch.tensor([0.0, 0.0, 400.0, 400.0]), (40, 40))
    assert float((seen - exact)[..., 2:-2, 2:-2].square().mean().sqrt()) <= 0.03


# Sensor, processor, codec.


def test_ideal_sensor_and_processor_change_nothing() -> None:
    """No bands, no noise, no filter array; no curve, no sharpening; neutral pixels: the picture is
    what it was."""
    image = torch.rand(1, 3, 12, 14, dtype=DOUBLE)
    ys = centers(12, 14)[1]
    torch.testing.assert_close(rolling_bands(image, ys, ideal()), image)
    torch.testing.assert_close(expose_sensor(image, torch.randn_like(image), ideal()), image)
    torch.testing.assert_close(tone_curve(image, one(0)), image)
    torch.testing.assert_close(sharpen_picture(image, one(0)), image)
    torch.testing.assert_close(PicturePixels(one(1, 1, 3), one(0, 1, 3)).apply(image), image)
    same = PatchPixels(one(1), one(0), one(0), 0, one(0), one(0.4), one(0.5, 1, 2))
    torch.testing.assert_close(same.apply(image), image)


def test_raw_noise_is_counted_in_electrons() -> None:
    """At half of a full well of 1000 e with 10 e of read noise the spread is sqrt(500 + 100)
    electrons."""
    gray = one(0.5, 1, 3, 200, 200)
    normal = torch.randn(gray.shape, dtype=DOUBLE, generator=generator(0, "noise"))
    out = expose_sensor(gray, normal, replace(ideal(), full_well_e=one(1000), read_e=one(10)))
    assert float(out.std() * 1000) == pytest.approx(math.sqrt(600), rel=0.02)


def test_bands_have_their_depth_and_period() -> None:
    """Bands of 1 EV and 20 rows halve the light in every other run of ten rows."""
    out = rolling_bands(
        one(0.8, 1, 3, 80, 4), centers(80, 4)[1], replace(ideal(), rolling_ev=one(1))
    )[0, 0, :, 0]
    torch.testing.assert_close(out[5::20], one(0.4, 4))
    torch.testing.assert_close(out[15::20], one(0.8, 4))


def test_demosaicing_keeps_flat_colors_and_what_was_measured() -> None:
    """A flat color passes the filter array unchanged, red is kept at RGGB's red pixels, and odd
    sizes are taken."""
    flat_color = torch.tensor([0.2, 0.5, 0.7]).view(1, 3, 1, 1).expand(1, 3, 7, 9)
    torch.testing.assert_close(demosaic_bilinear(flat_color), flat_color)
    image = torch.rand(1, 3, 8, 8)
    out = demosaic_bilinear(image)
    torch.testing.assert_close(out[:, 0, ::2, ::2], image[:, 0, ::2, ::2])
    torch.testing.assert_close(out[:, 2, 1::2, 1::2], image[:, 2, 1::2, 1::2])


def test_demosaicing_is_kornias_inside() -> None:
    """Away from the borders the picture is that of kornia's raw_to_rgb."""
    image = torch.rand(2, 3, 16, 20, dtype=DOUBLE)
    expected = raw_to_rgb(rgb_to_raw(image, CFA.BG), CFA.BG)
    torch.testing.assert_close(demosaic_bilinear(image)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_sharpening_keeps_the_mean_and_steepens_edges() -> None:
    """The unsharp mask overshoots at an edge and leaves flat parts alone."""
    step = torch.cat([one(0.2, 1, 3, 8, 8), one(0.8, 1, 3, 8, 8)], -1)
    out = sharpen_picture(step, one(1))
    assert float(out.max()) == pytest.approx(0.8 + 0.6 * 0.25)
    torch.testing.assert_close(out[..., :6], step[..., :6])


def test_tone_curve_keeps_black_gray_and_white() -> None:
    """The S-curve leaves 0, 0.5 and 1 and steepens the middle by up to 1.5."""
    x = torch.tensor([0.0, 0.5, 1.0, 0.51], dtype=DOUBLE).view(1, 1, 1, 4)
    out = tone_curve(x, one(1)).flatten()
    torch.testing.assert_close(out[:3], x.flatten()[:3])
    assert float((out[3] - 0.5) / 0.01) == pytest.approx(1.5, rel=1e-3)


def test_cutout_is_gray_and_of_its_size() -> None:
    """A cutout of 0.4 of the side turns 16 % of the texels gray, in the scenes that have one
    only."""
    draw = PatchPixels(
        one(1, 2), one(0, 2), one(0, 2), 0, torch.tensor([1.0, 0.0]), one(0.4, 2), one(0.5, 2, 2)
    )
    out = draw.apply(torch.zeros(1, 3, 50, 50, dtype=DOUBLE))
    assert float((out[0, 0] == 0.5).double().mean()) == pytest.approx(0.16, abs=0.005)
    assert float(out[1].max()) == 0


def test_stream_is_jpeg_for_files_and_its_step_doubles_every_six() -> None:
    """Files in a mixed batch are coded as by jpeg; the error of video frames doubles with 6 more of
    the quantizer."""
    image = torch.rand(1, 3, 64, 64, generator=generator(0, "codec")).expand(2, -1, -1, -1)
    quality = torch.tensor([60.0, 60.0])
    out = file_or_frame(image, quality, torch.tensor([0.0, 1.0]), torch.tensor([30.0, 30.0]))
    torch.testing.assert_close(out[:1], differentiable_jpeg(image[:1], quality[:1]))
    gray = image[:1].mean(1, keepdim=True).expand(1, 3, 64, 64) * 0.5 + 0.25

    def error(qp: float) -> float:
        coded = file_or_frame(gray, quality[:1], torch.ones(1), torch.tensor([qp]))
        return float((coded - gray).square().mean().sqrt())

    assert error(28) / error(22) == pytest.approx(2, rel=0.15)


# Gradients.

GRADIENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "light": lambda x: lit(
        replace(
            dark(),
            shadow_ev=one(1),
            gradient_ev=one(0.5),
            highlight=one(0.3),
            temperature_k=one(4000),
        ),
        x,
    ),
    "air": lambda x: look_through(
        x, *centers(6, 8), replace(clear(), present=one(1), clear=one(0.8))
    ),
    "bands": lambda x: rolling_bands(
        x, centers(6, 8)[1], replace(ideal(), rolling_ev=one(0.5), rolling_px=one(4))
    ),
    "filter array": demosaic_bilinear,
    "lens": lambda x: blur.blur_lens(x, one(0.8), one(2), one(0.3)),
    "exposure": lambda x: apply_exposure(x, one(0.3), one(0.9, 1, 3)),
    "tone curve": lambda x: tone_curve(x, one(0.7)),
    "sharpening": lambda x: sharpen_picture(x, one(0.7)),
    "picture pixels": PicturePixels(one(1.1, 1, 3), one(0.02, 1, 3)).apply,
    "patch pixels": PatchPixels(
        one(0.9), one(0.02), one(0.03), 3, one(1), one(0.4), one(0.5, 1, 2)
    ).apply,
}


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_are_true(name: str) -> None:
    """Each effect on the light or the picture passes gradcheck in float64."""
    x = 0.3 + 0.4 * torch.rand(1, 3, 6, 8, dtype=DOUBLE, generator=generator(0, name))
    assert torch.autograd.gradcheck(GRADIENTS[name], (x.requires_grad_(),))


def test_gradients_of_light_are_true_in_its_parameters() -> None:
    """Shadow, gradient, highlight and color have true gradients in their own strengths too."""
    light = one(0.3, 1, 3, 6, 8)
    names = ("shadow_ev", "gradient_ev", "highlight", "temperature_k", "highlight_mm")
    start = [one(v).requires_grad_() for v in (1.0, 0.5, 0.3, 4500.0, 30.0)]
    assert torch.autograd.gradcheck(
        lambda *values: lit(replace(dark(), **dict(zip(names, values, strict=True))), light), start
    )


def test_gradients_pass_bending_and_distortion() -> None:
    """The warp of a bent sticker through a lens passes gradcheck in the texture, one texture for
    each picture too."""
    single = torch.ones(2, dtype=DOUBLE)
    seen = pose_homography(
        300 * single,
        0.4 * single,
        -0.2 * single,
        0.1 * single,
        focal_px=14 * single,
        center_px=one(4, 2, 2),
    )
    bend = BendDraw(one(4, 2, CONTROL, CONTROL, 2), 0.5 * single, 0.3 * single)
    terms = torch.tensor([[0.05, 0.01, 0.01, -0.02, 0.0]] * 2, dtype=DOUBLE)
    lens = BrownLens(terms, one(4, 2, 2))

    def warped(texture: Tensor) -> Tensor:
        return warp_texture(
            texture,
            seen,
            RECTANGLE,
            (8, 8),
            pinhole=lambda x, y: undistorted_grid(x, y, lens, (8, 8)),
            bending=lambda x, y: unbend_points(x, y, RECTANGLE, bend),
        )

    for count in (1, 2):
        texture = torch.rand(count, 2, 6, 8, dtype=DOUBLE, generator=generator(count, "t"))
        assert torch.autograd.gradcheck(warped, (texture.requires_grad_(),))


def test_gradients_of_bending_are_true_in_its_parameters() -> None:
    """Where a bent sticker is looked up has true gradients in the shifts and the curl."""
    x, y = torch.rand(2, 1, 3, 4, dtype=DOUBLE, generator=generator(0, "xy")) * 100 - 50
    shift = torch.randn(
        1, CONTROL, CONTROL, 2, dtype=DOUBLE, generator=generator(0, "s")
    ).requires_grad_()
    curl = one(0.6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda s, c: unbend_points(x, y, RECTANGLE, BendDraw(s, c, one(0.7))), (shift, curl)
    )
