"""Document of the local pages that guide a person before a camera: one instruction, the picture,
panels beside it, and large controls.

The page listens to the server's events and connects again where they stop; hidden, it rests.
"""

from __future__ import annotations

from markupsafe import Markup, escape

from physadv.core.page_colors import css_colors


def live_document(
    title: str, *, alt: str, panels: Markup, controls: Markup, script: str, style: str = ""
) -> str:
    """Return the document of a live page.

    Args:
        title: Heading.
        alt: What the picture shows, for those who do not see it.
        panels: HTML beside the picture.
        controls: HTML of the buttons; one with ``data-to`` sends a POST request there.
        script: JavaScript with the function ``show(state)``, called with every new state; ``at``
            finds an element by its id, ``write`` sets the text of one.
        style: Further style rules.

    Returns:
        The document; its requests are relative to its address, which holds the token.
    """
    parts = {
        "TITLE": str(escape(title)),
        "ALT": str(escape(alt)),
        "COLORS": css_colors(),
        "STYLE": style,
        "PANELS": str(panels),
        "CONTROLS": str(controls),
        "SCRIPT": script,
    }
    document = _DOCUMENT
    for name, part in parts.items():
        document = document.replace(f"/*{name}*/", part)
    return document


_DOCUMENT = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>/*TITLE*/</title>
<link rel="icon" href="data:,">
<style>
/*COLORS*/
* { box-sizing:border-box; }
[hidden] { display:none !important; }
body { margin:0; background:var(--paper); color:var(--ink);
  font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,Arial,"DejaVu Sans",sans-serif; }
main { max-width:84rem; margin:0 auto; padding:1rem; display:grid; gap:1rem; }
main > *, #side > *, #scene > * { min-width:0; }
h1 { font-size:1rem; font-weight:600; margin:0; color:var(--muted); }
h2 { font-size:.85rem; font-weight:600; margin:0 0 .4rem; color:var(--muted); }
p { margin:0; }
#say { background:var(--wash); border-left:.5rem solid var(--accent); padding:.7rem 1rem;
  min-height:6.4rem; border-radius:0 .4rem .4rem 0; }
#say.good { border-color:var(--good); } #say.doubt { border-color:var(--doubt); }
#words { font-size:clamp(1.7rem,5vw,2.6rem); line-height:1.15; font-weight:650;
  overflow-wrap:anywhere; }
#why { color:var(--muted); min-height:1.5em; white-space:pre-line; overflow-wrap:anywhere; }
figure { margin:0; } figure img { display:block; width:100%; height:auto; min-height:9rem;
  max-height:78vh; object-fit:contain; background:var(--wash); border-radius:.4rem; }
#note { color:var(--doubt); } #note:empty, #lost:empty { display:none; }
#lost { background:var(--note); border:1px solid var(--note-line); border-radius:.4rem;
  padding:.5rem .9rem; }
#side, #scene { display:grid; gap:1.1rem; align-content:start; }
#controls { display:grid; grid-template-columns:repeat(3,1fr); gap:.6rem; }
#controls p { grid-column:1 / -1; color:var(--muted); font-size:.9rem; }
button { font:inherit; font-weight:600; min-height:3.4rem; padding:.4rem .5rem; cursor:pointer;
  color:var(--ink); background:var(--wash); border:2px solid var(--tick); border-radius:.5rem; }
button[aria-pressed=true] { border-color:var(--accent); outline:2px solid var(--accent); }
button:focus-visible { outline:3px solid var(--accent); outline-offset:2px; }
button.wide { grid-column:1 / -1; }
button:disabled { opacity:.55; cursor:default; }
@media (min-width:56rem) {
  main { grid-template-columns:minmax(0,2fr) minmax(21rem,1fr); align-items:start; }
  h1, #lost, #say { grid-column:1 / -1; } #say { min-height:6rem; }
}
/*STYLE*/
</style></head>
<body><main>
<h1>/*TITLE*/</h1>
<p id="lost" role="status"></p>
<section id="say" aria-live="polite" aria-atomic="true" aria-label="What to do">
<div id="words">Waiting for the camera</div><div id="why"></div></section>
<div id="scene">
<figure><img id="view" src="stream" alt="/*ALT*/"></figure>
<p id="note" role="status"></p>
<section id="controls" aria-label="Controls">
/*CONTROLS*/
</section>
</div>
<div id="side">
/*PANELS*/
</div>
</main>
<script>
const at = id => document.getElementById(id);
const write = (id, text) => { if (at(id).textContent !== text) at(id).textContent = text; };
const kind = (id, name) => { if (at(id).className !== name) at(id).className = name; };
/*SCRIPT*/
const PATIENCE_MS = 20000;
let events, over = false, lostAt = 0, pictures = 0;
function looks() {
  // The picture's connection broke with the events, or was closed while the page was hidden.
  if (pictures++) at("view").src = "stream?" + pictures;
}
function listen() {
  events = new EventSource("events");
  events.onopen = () => { lostAt = 0; write("lost", ""); looks(); };
  events.onmessage = event => {
    const state = JSON.parse(event.data);
    if (state.done) end(state); else show(state);
  };
  events.onerror = lost;
}
function lost() {
  if (over) return;
  lostAt ||= Date.now();
  write("lost", Date.now() - lostAt < PATIENCE_MS ? "The connection is lost; trying again."
    : "The program does not answer: it was ended. The same command goes on with what was kept.");
  if (events.readyState === EventSource.CLOSED) setTimeout(listen, 1000);
}
function end(state) {
  over = true; events.close(); at("view").removeAttribute("src");
  write("lost", ""); write("words", "Done"); write("why", state.done); kind("say", "good");
  document.querySelectorAll("button").forEach(button => button.disabled = true);
  if (state.report) location.replace("report");
}
document.onvisibilitychange = () => {
  if (over) return;
  events.close();
  if (document.hidden) at("view").removeAttribute("src"); else listen();
};
document.querySelectorAll("button[data-to]").forEach(button => button.onclick = () =>
  fetch(button.dataset.to, {method: "POST"}).catch(lost));
listen();
</script>
</body></html>
"""
