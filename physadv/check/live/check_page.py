"""Local web page of a running check: the picture, one instruction, the verdict so far, the blocks
with their intervals, the map of views, and large buttons."""

from __future__ import annotations

from collections.abc import Mapping
from threading import Lock
from typing import Any

from markupsafe import Markup

from physadv.camera.frames import BLOCKS
from physadv.camera.live_page import LivePage
from physadv.camera.live_page_html import live_document
from physadv.check.live.overlay import LiveState, draw_view
from physadv.check.live.panels import live_panels
from physadv.check.live.remote_control import RemoteControl
from physadv.core.errors import OptionError


class CheckPage(LivePage):
    """Page with the live picture of a check and the buttons that choose a block or end it.

    Args:
        port: Port on 127.0.0.1; 0 takes any free one.
        remote: Control that the page's buttons act on.

    Raises:
        CaptureError: The port cannot be used.
    """

    def __init__(self, port: int, remote: RemoteControl) -> None:
        self.remote = remote
        self._lock = Lock()
        self._panels: dict[str, Any] = {}
        super().__init__(port)

    def html(self) -> str:
        """Return the page."""
        return _html()

    def show_state(self, state: LiveState) -> None:
        """Show the frame of ``state`` and what is known after it."""
        panels = live_panels(state)
        with self._lock:
            self._panels = panels
        self.show(draw_view(state, move=False))

    def panels(self) -> Mapping[str, Any]:
        """Return the panels, the block chosen, the note, and whether the check was asked to end."""
        with self._lock:
            panels = self._panels
        return {
            **panels,
            "block": self.remote.block,
            "stopped": self.remote.stopped,
            "note": self.remote.note,
        }

    def apply(self, path: str) -> None:
        """Choose the block or end the check, as ``path`` names.

        Raises:
            OptionError: There is no such command.
        """
        if path == "/stop":
            self.remote.stop()
        elif path.startswith("/block/"):
            self.remote.choose(path.removeprefix("/block/"))
        else:
            raise OptionError(path, "/stop or /block/<name>", "Use one of these addresses")


def _html() -> str:
    blocks = Markup("").join(_BLOCK.format(name=block) for block in BLOCKS)
    buttons = Markup("").join(
        Markup('<button data-to="block/{0}" aria-pressed="false">{0}</button>').format(block)
        for block in BLOCKS
    )
    return live_document(
        "physadv check",
        alt="The camera's picture, with the sign's outline and the model's verdict",
        panels=_PANELS.format(blocks=blocks),
        controls=_CONTROLS.format(buttons=buttons),
        script=_SCRIPT,
        style=_STYLE,
    )


_PANELS = Markup("""<section><h2>So far</h2>
<p id="verdict">Nothing is measured yet.</p><p id="now"></p></section>
<section><h2>Goal met, with 95 % interval over clips</h2>{blocks}</section>
<section id="views" hidden><h2 id="views-of"></h2>
<table aria-labelledby="views-of"><thead></thead><tbody></tbody></table>
<p class="small">Frames by distance and angle; framed: film this one next.</p></section>
<p id="facts" class="small"></p>""")
_BLOCK = Markup("""<div class="block" id="block-{name}" data-name="{name}"><b>{name}</b>
<span class="track" aria-hidden="true"><span class="span"></span><span class="point"></span></span>
<span class="figures">nothing filmed yet</span></div>""")
_CONTROLS = Markup("""<p>Which sign is in view? Asked only where it has no printed markers.</p>
{buttons}
<button class="wide" data-to="stop" id="stop">Stop and report</button>""")
_STYLE = """
#verdict { font-weight:600; } #now { color:var(--muted); min-height:1.5em; }
#now.met::before { content:"\\25cf"; color:var(--patch); margin-right:.35rem; }
.small { color:var(--muted); font-size:.85rem; }
.block { display:grid; grid-template-columns:5rem 1fr; gap:.1rem .6rem; align-items:center;
  padding:.35rem .5rem; margin:0 -.5rem; border:2px solid transparent; border-radius:.4rem; }
.block.active { border-color:var(--color); }
.block b { white-space:nowrap; }
.block b::before { content:""; display:inline-block; width:.7rem; height:.7rem; border-radius:50%;
  margin-right:.4rem; background:var(--color); }
.block .figures { grid-column:1 / -1; font-size:.92rem; font-variant-numeric:tabular-nums; }
.track { position:relative; height:1rem; }
.track::before { content:""; position:absolute; left:0; right:0; top:calc(50% - 1px); height:2px;
  background:var(--line); }
.span { position:absolute; top:calc(50% - 3px); height:6px; background:var(--color);
  border-radius:3px; }
.point { position:absolute; top:calc(50% - .4rem); width:.8rem; height:.8rem; margin-left:-.4rem;
  border-radius:50%; background:var(--color); }
.block[data-name=clean] { --color:var(--clean); } .block[data-name=blank] { --color:var(--blank); }
.block[data-name=patch] { --color:var(--patch); }
#views table { border-collapse:separate; border-spacing:2px; width:100%; table-layout:fixed;
  font-variant-numeric:tabular-nums; font-size:.9rem; }
#views th { font-weight:400; color:var(--muted); text-align:center; }
#views tbody th { text-align:left; width:4rem; } #views thead th:first-child { width:4rem; }
#views td { height:1.9rem; text-align:center; border:1px solid var(--line); border-radius:.2rem; }
#views td.some { background:var(--band); } #views td.here { box-shadow:inset 0 -4px var(--accent); }
#views td.next { outline:3px solid var(--ink); outline-offset:-2px; font-weight:700; }
"""
_SCRIPT = """
function cell(kind, text) {
  const made = document.createElement(kind); made.textContent = text; return made;
}
function map(views) {
  at("views").hidden = !views;
  if (!views) return;
  write("views-of", "Views of " + views.block);
  const head = document.createElement("tr");
  head.append(cell("td", ""), ...views.yaws.map(yaw => cell("th", yaw)));
  head.querySelectorAll("th").forEach(th => th.scope = "col");
  head.firstChild.style.border = "0";
  const rows = views.rows.map(row => {
    const line = document.createElement("tr"), name = cell("th", row.distance);
    name.scope = "row";
    line.append(name, ...row.cells.map(one => {
      const td = cell("td", one.n || "");
      td.className = [one.n && "some", one.here && "here", one.next && "next"]
        .filter(Boolean).join(" ");
      const said = [one.n + (one.n === 1 ? " frame" : " frames"), one.here && "the sign is here",
        one.next && "film this one next"].filter(Boolean).join(", ");
      td.setAttribute("aria-label", said);
      return td;
    }));
    return line;
  });
  const table = at("views").querySelector("table");
  table.tHead.replaceChildren(head); table.tBodies[0].replaceChildren(...rows);
}
let mapped = "";
function show(state) {
  document.querySelectorAll("button[data-to^=block]").forEach(button =>
    button.setAttribute("aria-pressed", button.dataset.to === "block/" + state.block));
  at("stop").disabled = state.stopped;
  write("stop", state.stopped ? "Stopping; the report is being made" : "Stop and report");
  write("note", state.note);
  if (!state.blocks) return;
  write("words", state.words); write("why", state.why);
  kind("say", state.good ? "good" : "doubt");
  write("verdict", state.verdict); write("now", state.now.words); kind("now", state.now.kind);
  write("facts", state.facts + (state.facts ? "; " : "") + "rows go to " + state.folder);
  for (const block of state.blocks) {
    const box = at("block-" + block.name), filmed = block.rate !== null;
    box.classList.toggle("active", block.active);
    box.querySelector(".figures").textContent = block.words;
    const span = box.querySelector(".span"), point = box.querySelector(".point");
    span.hidden = point.hidden = !filmed;
    span.style.left = 100 * block.low + "%";
    span.style.width = 100 * (block.high - block.low) + "%";
    point.style.left = 100 * (block.rate || 0) + "%";
  }
  const views = JSON.stringify(state.views);
  if (views !== mapped) { mapped = views; map(state.views); }
}
"""
