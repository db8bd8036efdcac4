"""Local web page of a guided calibration: the picture, one instruction, and the views taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import cv2
import numpy as np
from markupsafe import Markup

from physadv.calibration.guided_views import GuidedStep
from physadv.calibration.page_measures import Pixels
from physadv.camera.live_page import LivePage
from physadv.camera.live_page_html import live_document
from physadv.core.errors import OptionError

_WIDEST = 960
_READY, _FAULT = (0, 158, 115), (230, 159, 0)


class CalibrationPage(LivePage):
    """Page that guides a person before the camera.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        title: Heading of the page.
        targets: Names of the views wanted.

    Raises:
        CaptureError: The port cannot be used.
    """

    def __init__(self, port: int, title: str, targets: Sequence[str]) -> None:
        self._lock = Lock()
        self._title, self._targets = title, list(targets)
        self._stopped = False
        self._panels: dict[str, Any] = {"words": "Waiting for the camera", "why": ""}
        super().__init__(port)

    @property
    def stopped(self) -> bool:
        """Whether the page's button was pressed to end with the views taken so far."""
        with self._lock:
            return self._stopped

    def show_step(self, image: Pixels, step: GuidedStep) -> None:
        """Publish a frame (h, w, 3) uint8 RGB with the page's outline, and the state after it."""
        with self._lock:
            self._panels = {
                "words": step.advice.words,
                "why": step.advice.why,
                "ready": step.advice.ready,
                "taken": step.taken,
                "views": list(step.done_targets),
            }
        self.show(draw_outline(image, step))

    def html(self) -> str:
        """Return the page."""
        items = Markup("").join(Markup("<li>{}</li>").format(name) for name in self._targets)
        return live_document(
            self._title,
            alt="The camera's picture with the page's outline",
            panels=Markup(_PANELS).format(items=items),
            controls=Markup(_CONTROLS),
            script=_SCRIPT,
            style=_STYLE,
        )

    def panels(self) -> Mapping[str, Any]:
        """Return the instruction, the views taken, and whether the end was asked for."""
        with self._lock:
            return {**self._panels, "stopped": self._stopped}

    def apply(self, path: str) -> None:
        """End with the views taken so far, for ``path`` "/finish".

        Raises:
            OptionError: There is no such command.
        """
        if path != "/finish":
            raise OptionError(path, "/finish", "Use this address")
        with self._lock:
            self._stopped = True


def draw_outline(image: Pixels, step: GuidedStep) -> Pixels:
    """Return ``image`` (h, w, 3) uint8, at most 960 px wide, with the page's outline: green where
    the ``step`` can be taken, else orange."""
    scale = min(1.0, _WIDEST / image.shape[1])
    size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
    picture = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    if step.corners is not None:
        color = _READY if step.advice.ready or step.new_view else _FAULT
        corners = ((step.corners + 0.5) * scale - 0.5).round().astype(np.int32)
        cv2.polylines(picture, [corners[:, None]], True, color, 3, cv2.LINE_AA)
    return np.asarray(picture, np.uint8)


_PANELS = """<section><h2 id="count">Views</h2><ol id="views">{items}</ol></section>"""
_CONTROLS = '<button class="wide" data-to="finish" id="finish">Finish with these views</button>'
_STYLE = """
ol { list-style:none; margin:0; padding:0; display:flex; flex-wrap:wrap; gap:.4rem; }
li { border:1px solid var(--line); border-radius:.3rem; padding:.15rem .6rem; color:var(--muted); }
li.on { background:var(--good); border-color:var(--good); color:var(--paper); }
li.on::after { content:" \\2713" / " taken"; }
"""
_SCRIPT = """
const dots = document.querySelectorAll("#views li");
function show(state) {
  write("words", state.words); write("why", state.why);
  kind("say", state.ready ? "good" : "doubt");
  (state.views || []).forEach((taken, i) => dots[i].className = taken ? "on" : "");
  write("count", `${state.taken || 0} of ${dots.length} views taken`);
  at("finish").disabled = state.stopped;
}
"""
