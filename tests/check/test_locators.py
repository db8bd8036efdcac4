"""Every locator returns the sign's corners or None, and names itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from physadv.camera.frames import CameraFrame
from physadv.camera.lens import lens_for
from physadv.camera.localization.boxes import corners_of, crop_square, square_around
from physadv.camera.localization.with_pose import with_pose
from physadv.check.locators import (
    SignLocation,
    by_box,
    by_detector,
    by_fiducials,
    locator_for,
    select_box,
)
from physadv.core.boxes import box_iou
from physadv.core.errors import CaptureError, ModelError, OptionError


def frame(image: np.ndarray, **more: Any) -> CameraFrame:
    return CameraFrame(image, 0.0, "a", more.pop("block", None), 0, **more)


@pytest.mark.parametrize("block", ["clean", "blank", "patch"])
def test_markers_give_corners_and_block(block: str, marked_page: Callable[..., np.ndarray]) -> None:
    """The sign's corners are within a pixel, and the page's ids determine the block."""
    place = by_fiducials()(frame(marked_page(block)))
    assert place is not None
    assert (place.by, place.block) == ("fiducials", block)
    assert place.corners == pytest.approx(corners_of((150, 90, 450, 390)), abs=1.0)


def test_markers_under_perspective(marked_page: Callable[..., np.ndarray]) -> None:
    """A page seen from the side still yields the sign's corners within a pixel and a half."""
    source = np.array([[0, 0], [640, 0], [640, 480], [0, 480]], np.float32)
    seen = np.array([[40, 20], [560, 60], [600, 430], [20, 470]], np.float32)
    turn = cv2.getPerspectiveTransform(source, seen)
    page = cv2.warpPerspective(
        marked_page("patch"), turn, (640, 480), flags=cv2.INTER_AREA, borderValue=(90, 90, 90)
    )
    place = by_fiducials()(frame(page))
    assert place is not None
    expected = cv2.perspectiveTransform(
        corners_of((150, 90, 450, 390))[None].astype(np.float32), turn
    )[0]
    assert place.corners == pytest.approx(expected, abs=1.5)


def test_no_markers_no_place() -> None:
    """A plain wall has no sign by markers."""
    assert by_fiducials()(frame(np.full((240, 320, 3), 128, np.uint8))) is None


def test_box_and_its_errors() -> None:
    """A box is used as given; one without area is refused; one outside the picture yields None."""
    image = np.zeros((100, 100, 3), np.uint8)
    place = by_box((10, 20, 50, 60))(frame(image))
    assert place is not None
    assert (place.box, place.by) == ((10, 20, 50, 60), "box")
    assert by_box((200, 200, 300, 300))(frame(image)) is None
    with pytest.raises(OptionError, match="x0 < x1"):
        by_box((50, 20, 10, 60))


def test_detector_box(red_detector: Any, make_picture: Any) -> None:
    """The detector's best box of the class is the location; below the threshold there is none."""
    place = by_detector(red_detector)(frame(make_picture((200, 30, 30))))
    assert place is not None
    assert place.box == (50, 30, 110, 90)
    assert by_detector(red_detector)(frame(make_picture((30, 30, 200)))) is None
    with pytest.raises(ModelError, match="zebra"):
        by_detector(red_detector, "zebra")


def test_auto_prefers_truth_then_markers_then_box(marked_page: Callable[..., np.ndarray]) -> None:
    """The strategy "auto" tries truth, fiducials, box and frame in this order."""
    truth = {"corners": [[1, 1], [9, 1], [9, 9], [1, 9]], "distance_m": 4.0, "yaw_deg": -3.0}
    wall, page = np.full((480, 640, 3), 128, np.uint8), marked_page("patch")
    auto = locator_for("auto", box=(1, 1, 50, 50), whole_frame=True)
    assert [
        p.by for p in (auto(frame(page, truth=truth)), auto(frame(page)), auto(frame(wall))) if p
    ] == [
        "truth",
        "fiducials",
        "box",
    ]
    assert [p.by for p in (locator_for(whole_frame=True)(frame(wall)),) if p] == ["frame"]
    with pytest.raises(OptionError, match="no box was given"):
        locator_for("box")
    with pytest.raises(OptionError, match="one of auto"):
        locator_for("guess")


def test_pose_is_added_where_it_is_known() -> None:
    """A drawn box yields distance but no angle; the truth is not changed."""
    image = np.zeros((720, 1280, 3), np.uint8)
    lens = lens_for(focal_px=950)
    posed = with_pose(by_box((540, 260, 740, 460)), sign_width_mm=762, lens=lens)(frame(image))
    assert posed is not None
    assert posed.distance_m == pytest.approx(0.762 * 950 / 200, rel=1e-3)
    assert (posed.yaw_deg, posed.pose_by) == (None, "size")
    told = SignLocation(
        corners_of((0, 0, 9, 9)), "truth", distance_m=7.0, yaw_deg=1.0, pose_by="truth"
    )
    assert with_pose(lambda _: told, sign_width_mm=762, lens=lens)(frame(image)) is told


def test_typed_distance_is_for_what_cannot_be_measured() -> None:
    """A typed distance replaces an unknown width and an assumed lens, never a known lens."""
    image, box = np.zeros((720, 1280, 3), np.uint8), by_box((540, 260, 740, 460))

    def told(width: float | None, lens: Any) -> tuple[float | None, str | None]:
        place = with_pose(box, sign_width_mm=width, lens=lens, typed_m=2.5)(frame(image))
        assert place is not None
        return place.distance_m, place.pose_by

    assert told(None, lens_for(focal_px=950)) == (2.5, "typed")
    assert told(762, lens_for()) == (2.5, "typed")
    assert told(762, lens_for(focal_px=950))[1] == "size"
    with pytest.raises(OptionError, match="1000 m"):
        with_pose(box, sign_width_mm=762, lens=lens_for(), typed_m=-1)


def test_a_refusal_stands(marked_page: Callable[..., np.ndarray], red_detector: nn.Module) -> None:
    """Markers that are too small are not overruled by a detector, which knows no block, but by a
    box drawn by hand."""
    small = frame(marked_page("patch", 100))
    place = locator_for(detector=red_detector)(small)  # type: ignore[arg-type]
    assert place is not None
    assert (place.by, place.block, place.refused) == ("fiducials", "patch", "markers under 20 px")
    drawn = locator_for(box=(150, 90, 250, 190))(small)
    assert drawn is not None
    assert (drawn.by, drawn.refused) == ("box", None)


def test_select_without_a_display(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no window can open, the error of --select names --box."""
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(CaptureError, match="--box"):
        select_box(frame(np.zeros((9, 9, 3), np.uint8)))


def test_crops_beyond_the_edge_repeat_it() -> None:
    """A square that leaves the picture keeps its size and repeats the border."""
    image = np.arange(100, dtype=np.uint8).reshape(10, 10)[..., None].repeat(3, 2)
    cut = crop_square(image, -3, -2, 16)
    assert cut.shape == (16, 16, 3)
    assert (cut[:2, :3] == 0).all()
    assert cut[-1, -1, 0] == 99
    assert (cut[2:12, 3:13] == image).all()


def test_square_and_iou() -> None:
    """The square is centered on the box and widened on each side; IoU of halves is a third."""
    assert square_around((10, 20, 30, 30), 0.0) == (10, 15, 20)
    assert square_around((10, 20, 30, 30), 0.1) == (8, 13, 24)
    others = torch.tensor([[1.0, 0, 3, 2], [0, 0, 2, 2], [5, 5, 6, 6]])
    overlap = box_iou(torch.tensor([[0.0, 0, 2, 2]]), others)[0]
    assert overlap.tolist() == pytest.approx([1 / 3, 1, 0])
