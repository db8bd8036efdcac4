"""Local web page of a guided calibration: the picture, one instruction, and the views taken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from threading import Event, Lock
from typing import Any

import cv2
import numpy as np

from physadv.calibration.guided_views import GuidedStep
from physadv.calibration.page_measures import Pixels
from physadv.camera.live_page import LivePage
from physadv.core.errors import OptionError
from physadv.core.page_colors import css_colors

_WIDEST = 960
_FAREWELL_S = 1.5
"""Longest wait until a browser that watches has read the result."""
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
        self._watched, self._told = False, Event()
        self._state: dict[str, Any] = {"words": "Waiting for the camera", "why": "", "done": ""}
        super().__init__(port)

    @property
    def stopped(self) -> bool:
        """Whether the page's button was pressed to end with the views taken so far."""
        with self._lock:
            return self._stopped

    def show_step(self, image: Pixels, step: GuidedStep) -> None:
        """Publish a frame (h, w, 3) uint8 RGB with the page's outline, and the state after it."""
        with self._lock:
            self._state = {
                "words": step.advice.words,
                "why": step.advice.why,
                "ready": step.advice.ready,
                "taken": step.taken,
                "views": list(step.done_targets),
                "done": "",
            }
        self.show(draw_outline(image, step))

    def finish(self, result: str) -> None:
        """Show the ``result`` in place of instructions, and wait until a browser has read it."""
        with self._lock:
            self._state |= {"words": "Done", "why": "", "ready": True, "done": result}
            watched = self._watched
        if watched:
            self._told.wait(_FAREWELL_S)

    def html(self) -> str:
        """Return the page."""
        items = "".join(f"<li>{name}</li>" for name in self._targets)
        return _HTML.format(title=self._title, items=items, colors=css_colors())

    def state(self) -> Mapping[str, Any]:
        """Return the instruction, the views taken, and the result once there is one."""
        with self._lock:
            self._watched = True
            if self._state["done"]:
                self._told.set()
            return dict(self._state)

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


_HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{colors}
* {{ box-sizing:border-box; }}
body {{ margin:0; background:var(--paper); color:var(--ink); font:16px/1.5 system-ui,sans-serif; }}
main {{ max-width:1200px; margin:0 auto; padding:1rem; display:grid; gap:1rem; }}
h1 {{ font-size:1rem; font-weight:600; margin:0; color:var(--muted); }}
#advice {{ background:var(--wash); border-left:.5rem solid var(--doubt); padding:.8rem 1rem;
  min-height:5.6rem; }}
#advice.ready {{ border-color:var(--good); }}
#words {{ font-size:1.7rem; line-height:1.2; font-weight:600; }}
#why {{ color:var(--muted); min-height:1.5em; white-space:pre-line; overflow-wrap:anywhere; }}
img {{ display:block; width:100%; height:auto; background:var(--wash); min-height:12rem; }}
#count {{ margin:0 0 .5rem; }}
ol {{ list-style:none; margin:0 0 1rem; padding:0; display:flex; flex-wrap:wrap; gap:.4rem; }}
li {{ border:1px solid var(--line); padding:.15rem .6rem; color:var(--muted); }}
li.on {{ background:var(--good); border-color:var(--good); color:var(--paper); }}
button {{ font:inherit; padding:.5rem 1rem; cursor:pointer; }}
@media (min-width:900px) {{
  main {{ grid-template-columns:minmax(0,2.2fr) minmax(16rem,1fr);
    grid-template-rows:auto auto 1fr; align-items:start; }}
  h1 {{ grid-column:1 / -1; }}
  figure {{ grid-row:2 / span 2; }}
}}
figure {{ margin:0; }}
</style>
<main>
<h1>{title}</h1>
<section id="advice" aria-live="polite"><div id="words">Waiting for the camera</div>
<div id="why"></div></section>
<figure><img src="stream" alt="The camera's picture with the page's outline"></figure>
<section><p id="count"></p><ol>{items}</ol>
<button id="finish">Finish with these views</button></section>
</main>
<script>
const at = id => document.getElementById(id), dots = document.querySelectorAll("li");
at("finish").onclick = () =>
  fetch("finish", {{method: "POST"}});
let done = "";
const look = setInterval(async () => {{
  try {{
    const s = await (await fetch("state.json")).json();
    at("words").textContent = s.words; at("why").textContent = s.done || s.why;
    at("advice").className = s.ready ? "ready" : "";
    (s.views || []).forEach((taken, i) => dots[i].className = taken ? "on" : "");
    at("count").textContent = `${{s.taken || 0}} of ${{dots.length}} views taken`;
    if (s.done) {{ done = s.done; at("finish").hidden = true; clearInterval(look); }}
  }} catch {{
    clearInterval(look); at("finish").hidden = true;
    if (!done) {{
      at("words").textContent = "Ended";
      at("why").textContent = "The views taken are kept; the same command goes on with them.";
    }}
  }}
}}, 300);
</script>
</html>
"""
