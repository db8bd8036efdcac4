"""Local web page of a running check, for machines without a display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from physadv.camera.frames import BLOCKS
from physadv.camera.live_page import LivePage
from physadv.check.live.overlay import PANEL
from physadv.check.live.remote_control import RemoteControl
from physadv.core.errors import OptionError
from physadv.core.page_colors import css_colors


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
        super().__init__(port)

    def html(self) -> str:
        """Return the page."""
        return _html()

    def state(self) -> Mapping[str, Any]:
        """Return the block, the note, and whether the check was asked to end."""
        return {
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
    buttons = "".join(f'<button data-to="block/{b}">{b}</button>' for b in BLOCKS)
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>physadv check</title>
<style>
{css_colors()}
body {{ margin:0; background:var(--paper); color:var(--ink); font:16px/1.5 system-ui,sans-serif; }}
main {{ max-width:1200px; margin:0 auto; padding:1rem; }}
img {{ display:block; width:100%; height:auto; background:var(--wash); min-height:12rem; }}
.panel {{ display:none; }}
@media (max-width:45rem) {{
  .part {{ overflow:hidden; }} .part img {{ min-height:0; }} .panel {{ display:block; }}
  .picture img {{ width:calc(100% / (1 - var(--panel, 0))); max-width:none; }}
  .panel img {{ width:calc(100% / var(--panel, 1)); max-width:none;
    margin-left:calc(100% - 100% / var(--panel, 1)); }}
}}
p {{ margin:.7rem 0; }}
button {{ font:inherit; padding:.35rem .9rem; margin:0 .5rem .5rem 0; cursor:pointer; }}
button.on {{ outline:3px solid var(--accent); }} #note {{ color:var(--doubt); min-height:1.5em; }}
</style>
<main>
<div class="part picture"><img src="stream"
 alt="The camera's picture with the verdict, the blocks and where to move next"></div>
<div class="part panel"><img alt=""></div>
<p id="note"></p>
<p>Without markers, say which sign is in view: {buttons}
<button data-to="stop">stop and report</button></p>
</main>
<script>
// On a narrow screen the panel, the right {PANEL} px of the picture, stands below it.
const [view, panel] = document.querySelectorAll("img");
const narrow = matchMedia("(max-width:45rem)");
const split = () => {{
  if (!view.naturalWidth) return void setTimeout(split, 300);
  document.body.style.setProperty("--panel", {PANEL} / view.naturalWidth);
  if (narrow.matches && !panel.src) panel.src = "stream";
}};
narrow.onchange = split;
split();
const post = to => fetch(to, {{method: "POST"}});
document.querySelectorAll("button").forEach(b => b.onclick = () => post(b.dataset.to));
const look = setInterval(async () => {{
  try {{
    const s = await (await fetch("state.json")).json();
    document.getElementById("note").textContent = s.note;
    document.querySelectorAll("button").forEach(
      b => b.classList.toggle("on", b.dataset.to === "block/" + s.block));
  }} catch {{
    clearInterval(look);
    document.getElementById("note").textContent =
      "The check has ended; its report is in the folder of the run.";
  }}
}}, 1000);
</script>
</html>
"""
