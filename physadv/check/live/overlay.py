"""Live picture of a check: the frame with its verdict, the blocks, the views and the next step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from textwrap import wrap
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from physadv.camera.frames import BLOCKS
from physadv.camera.localization.boxes import Corners, Pixels, resize_box
from physadv.check.guidance import FilmingAdvice
from physadv.check.session import CheckProgress
from physadv.check.stopping_rule import StoppingState
from physadv.check.view_coverage import ViewPlan
from physadv.core.page_colors import color_values
from physadv.core.rows import Row
from physadv.core.wording import count_noun, format_percent

WIDE, HIGH, PANEL = 800, 600, 380


def _rgb(name: str) -> tuple[int, int, int]:
    """The design's color ``name`` on dark ground, which suits a panel beside a picture on pages and
    desktops of either kind."""
    red, green, blue = bytes.fromhex(color_values()[name][1][1:])
    return red, green, blue


INK, PAPER, WASH, MUTED, LINE = map(_rgb, ("ink", "paper", "wash", "muted", "line"))
FOUND, MET, NOT_MET = (255, 214, 10), (213, 94, 0), (0, 158, 115)
COLORS = {block: _rgb(block) for block in BLOCKS}


@dataclass(frozen=True)
class LiveState:
    """Content of the live picture and page.

    Attributes:
        step: Progress of the check, with the newest frame.
        advice: Instructions for the next frames.
        plan: Views to film, where distances are known.
        note: Line of warning, such as a lost camera.
        simulation: Whether the frames are simulated.
        verdict: Conclusion so far, in a sentence.
        folder: Folder of the run, in words.
    """

    step: CheckProgress
    advice: FilmingAdvice
    plan: ViewPlan | None = None
    note: str = ""
    simulation: bool = False
    verdict: str = ""
    folder: str = ""


def draw_overlay(state: LiveState) -> Pixels:
    """Draw ``state``: at most 800 x 600 px of the frame, and a panel of 380 px; returns (h, w, 3)
    uint8."""
    view = draw_view(state)
    height = max(view.shape[0], 560)

    sheet = Image.new("RGB", (view.shape[1] + PANEL, height), PAPER)
    sheet.paste(WASH, (0, 0, view.shape[1], height))
    sheet.paste(Image.fromarray(view), (0, 0))
    _panel(_Pen(ImageDraw.Draw(sheet), view.shape[1] + 18, PANEL - 36), state)
    return np.asarray(sheet, dtype=np.uint8)


def draw_view(state: LiveState, *, move: bool = True) -> Pixels:
    """Draw the frame of ``state`` with the sign's outline and verdict, at most 800 x 600 px, and
    the next ``move`` at its foot where wanted; returns (h, w, 3) uint8."""
    frame, location = state.step.frame, state.step.place
    if frame is None:
        return np.full((HIGH, WIDE, 3), 40, np.uint8)

    h, w = frame.image.shape[:2]
    scale = min(WIDE / w, HIGH / h)
    size = max(1, round(w * scale)), max(1, round(h * scale))

    picture = Image.fromarray(resize_box(frame.image, *size))
    pen = ImageDraw.Draw(picture)

    corners = None if location is None else location.corners
    if corners is not None:
        color = _outline(state)
        points = [tuple(p) for p in (corners * scale).tolist()]
        pen.line([*points, points[0]], fill=color, width=3)

    _banner(pen, state, corners, scale, size)
    if move and state.advice.move:
        _label(pen, state.advice.move, (12, size[1] - 38), 20, size)
    return np.asarray(picture, dtype=np.uint8)


def _outline(state: LiveState) -> tuple[int, int, int]:
    place, row = state.step.place, state.step.row
    if place is None or place.refused is not None or row is None:
        return FOUND
    return MET if row["success"] else NOT_MET


def _banner(
    pen: Any, state: LiveState, corners: Corners | None, scale: float, size: tuple[int, int]
) -> None:
    """Draw the verdict over the sign."""
    row, location = state.step.row, state.step.place
    if (
        corners is not None
        and row is not None
        and location is not None
        and location.refused is None
    ):
        _label(
            pen,
            verdict_in_words(row),
            (float(corners[:, 0].min()) * scale, float(corners[:, 1].min()) * scale - 30),
            20,
            size,
        )
    elif location is None:
        _label(pen, "no sign found", (12, 12), 20, size)


def verdict_in_words(row: Row) -> str:
    """Return the model's verdict on a frame, from its ``row``, with its score.

    Example:
        >>> verdict_in_words({"verdict": "stop", "confidence": 0.93})
        'stop, 93 %'
    """
    score = f", {format_percent(row['confidence'], 0)}" if row["confidence"] else ""
    return f"{row['verdict']}{score}"


def _label(
    pen: Any, words: str, at: tuple[float, float], points: int, size: tuple[int, int]
) -> None:
    font = _font(points)
    while points > 11 and pen.textlength(words, font=font) > size[0] - 24:
        points -= 1
        font = _font(points)
    text_px = pen.textlength(words, font=font) + 12

    x, y = (
        min(max(at[0], 4), max(size[0] - text_px - 4, 4)),
        min(max(at[1], 4), size[1] - points - 14),
    )
    pen.rectangle((x, y, x + text_px, y + points + 9), fill=PAPER)
    pen.text((x + 6, y + 2), words, font=font, fill=INK)


@dataclass
class _Pen:
    """Cursor that writes the lines of the panel from top to bottom."""

    draw: Any
    x: int
    wide: int
    y: int = 14

    def words(
        self, text: str, points: int = 15, fill: tuple[int, int, int] = INK, gap: int = 6
    ) -> None:
        """Write a paragraph and move the cursor below it."""
        for line in wrap(text, max(8, int(self.wide / (points * 0.53)))):
            self.draw.text((self.x, self.y), line, font=_font(points), fill=fill)
            self.y += points + gap


def _panel(pen: _Pen, state: LiveState) -> None:
    if state.simulation:
        pen.words("simulation", 13, COLORS["patch"])
    pen.words(state.advice.prompt, 18)
    if state.note:
        pen.words(state.note, 13, COLORS["patch"])

    pen.y += 6
    pen.words("goal met, 95 % interval over clips", 12, MUTED)

    for block in BLOCKS:
        _block(pen, block, state.advice.stopping_states.get(block), block == state.advice.block)

    if state.plan is not None and state.advice.block is not None:
        _grid(pen, state.plan, state.advice)
    if state.step.left_out:
        pen.words(f"{count_noun(state.step.left_out, 'frame')} left out", 12, MUTED)
    if state.step.speed is not None:
        pen.words(str(state.step.speed), 12, MUTED)


def _block(pen: _Pen, block: str, stand: StoppingState | None, active: bool) -> None:
    draw, x, y, axis_left = pen.draw, pen.x, pen.y, pen.x + 64
    axis_right = pen.x + pen.wide

    if active:
        draw.rectangle((x - 8, y - 3, axis_right + 8, y + 40), outline=COLORS[block], width=2)

    draw.text((x, y), block, font=_font(15), fill=COLORS[block])
    draw.line((axis_left, y + 9, axis_right, y + 9), fill=LINE, width=2)

    if stand is not None:
        rate = stand.rates.attack
        a, b, at = (
            axis_left + share * (axis_right - axis_left)
            for share in (rate.low, rate.high, rate.rate)
        )
        draw.line((a, y + 9, b, y + 9), fill=COLORS[block], width=5)
        draw.ellipse((at - 6, y + 3, at + 6, y + 15), fill=COLORS[block])
        todo = (
            "done"
            if stand.done
            else f"{stand.frames_missing} more for {format_percent(stand.aim, 0)}"
        )
        interval = f"{format_percent(rate.rate, 0)}"
        if not rate.too_few:
            interval += f" [{format_percent(rate.low, 0)}, {format_percent(rate.high, 0)}]"
        summary = f"{interval} of {rate.n}, {count_noun(stand.rates.clips, 'clip')}; {todo}"
    else:
        summary = "nothing filmed yet"

    draw.text((x, y + 20), summary, font=_font(13), fill=INK if stand else MUTED)
    pen.y += 50


def _grid(pen: _Pen, plan: ViewPlan, advice: FilmingAdvice) -> None:
    """Draw the frames per bin, far bins at the top, with the next bin framed."""
    pen.y += 4
    pen.words(f"views of {advice.block}: distance x angle, frames", 12, MUTED)

    rows, columns = len(plan.distances) - 1, len(plan.yaws) - 1
    grid_left, cell_height = pen.x + 64, 26
    cell_width = (pen.wide - 64) / columns
    most = max(advice.cells.values(), default=1)

    for i, j in plan.cells:
        n = advice.cells[i, j]
        x, y = grid_left + j * cell_width, pen.y + (rows - 1 - i) * cell_height
        fade = 0.2 + 0.35 * n / most if n else 0.0
        color = COLORS[str(advice.block)]
        shade = tuple(round(p + fade * (c - p)) for p, c in zip(PAPER, color, strict=True))
        pen.draw.rectangle(
            (x + 1, y + 1, x + cell_width - 2, y + cell_height - 2), fill=shade, outline=LINE
        )
        if (i, j) == advice.next:
            pen.draw.rectangle(
                (x, y, x + cell_width - 1, y + cell_height - 1), outline=INK, width=3
            )
        pen.draw.text(
            (x + cell_width / 2, y + cell_height / 2),
            str(n or ""),
            font=_font(12),
            fill=INK,
            anchor="mm",
        )

    # Axis labels: distances down the left side, angles below.
    for i in range(rows):
        center = (plan.distances[i] + plan.distances[i + 1]) / 2
        at = (pen.x, pen.y + (rows - 1 - i) * cell_height + cell_height / 2)
        pen.draw.text(at, f"{center:.2f} m", font=_font(12), fill=MUTED, anchor="lm")

    pen.y += rows * cell_height + 4
    for j in range(columns):
        center = (plan.yaws[j] + plan.yaws[j + 1]) / 2
        below = (grid_left + (j + 0.5) * cell_width, pen.y + 4)
        pen.draw.text(
            below, f"{center:+.0f}°" if center else "0°", font=_font(11), fill=MUTED, anchor="mm"
        )
    pen.y += 18


@cache
def _font(points: int) -> Any:
    return ImageFont.load_default(points)
