"""Document of the cloak's local page: drop zone, found faces, strength, before and after, zip."""

from __future__ import annotations

import json

from physadv.core.page_colors import css_colors
from physadv.privacy.cloak_faces import MODES
from physadv.privacy.config import BUDGETS


def page_html(budget: float = MODES["mid"].patches) -> str:
    """Return the document, with its slider at ``budget``, CIEDE2000 of patches of skin.

    Its requests are relative to its address, which holds the token.
    """
    marks = {name: mode.patches for name, mode in MODES.items()}
    document = _DOCUMENT.replace("/*COLORS*/", css_colors())
    document = document.replace("/*MARKS*/", json.dumps(marks)).replace("START", f"{budget:g}")
    return document.replace("LEAST", f"{BUDGETS[0]:g}").replace("MOST", f"{BUDGETS[1]:g}")


_DOCUMENT = """<!doctype html>
<html lang="en"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>physadv cloak</title>
<link rel="icon" href="data:,">
<style>
/*COLORS*/
* { box-sizing:border-box; }
[hidden] { display:none !important; }
body { margin:0; background:var(--paper); color:var(--ink); font:16px/1.5 system-ui,sans-serif; }
main { max-width:1200px; margin:0 auto; padding:1rem; }
h1 { font-size:1.4rem; margin:.2rem 0; }
.drop { display:block; border:2px dashed var(--ink); border-radius:.5rem; padding:1.2rem;
  text-align:center; cursor:pointer; margin:1rem 0; }
.drop.over, .drop:focus-within { outline:3px solid var(--accent); }
.drop input { width:100%; margin-top:.5rem; font:inherit; }
.bar { display:flex; flex-wrap:wrap; gap:.8rem 1.2rem; align-items:center; }
.bar label { display:flex; flex-wrap:wrap; gap:.6rem; align-items:center; }
button, a.button { font:inherit; padding:.5rem 1rem; min-height:2.75rem; cursor:pointer; }
a.button { display:inline-block; color:inherit; border:1px solid; border-radius:.3rem; }
a.button[aria-disabled=true] { opacity:.5; pointer-events:none; }
input[type=range] { min-height:2.75rem; }
#strength { width:12rem; }
#marks { display:flex; gap:.3rem; } #marks [aria-pressed=true] { font-weight:700;
  outline:2px solid var(--accent); }
.photos { display:grid; grid-template-columns:repeat(auto-fill,minmax(min(100%,22rem),1fr));
  gap:1rem; margin-top:1rem; }
figure { margin:0; background:var(--wash); border-radius:.5rem; overflow:hidden; }
.view { position:relative; background:var(--wash); overflow:hidden; }
.layer, .layer img { display:block; width:100%; height:100%; position:absolute; inset:0; }
.view .after { clip-path:inset(0 0 0 var(--cut,50%)); }
.view .line { position:absolute; top:0; bottom:0; left:var(--cut,50%); width:2px;
  background:var(--accent); }
.face { position:absolute; padding:0; min-height:0; background:none; border:3px solid #009e73;
  color:#fff; text-align:left; line-height:1; }
.face span { background:#009e73; padding:0 .25rem; }
.face.bare { border:3px dashed #d55e00; } .face.bare span { background:#d55e00; }
.face:focus-visible { outline:3px solid var(--accent); outline-offset:2px; }
figcaption { padding:.6rem .8rem; overflow-wrap:anywhere; }
figcaption label { display:block; } figcaption input { width:100%; }
.bad { color:var(--doubt); }
#status { min-height:1.5em; }
</style>
<main>
<h1>Cloak photos</h1>
<p>Everything stays on this machine. Green faces are cloaked; press a box to leave a face bare, or
to cloak one that is doubtful. A face without a box stays bare. Drop more photos of a person before
you cloak: each cloak moves away from what they share.</p>
<label class="drop" id="drop">Drop photos here, or choose them
<input id="files" type="file" multiple accept="image/*,.heic,.heif,.tif,.tiff"></label>
<div class="bar">
<label>Strength <input id="strength" type="range" min="LEAST" max="MOST" step="any" value="START"
  aria-describedby="means"> <output id="mode" for="strength">START</output></label>
<span id="marks" role="group" aria-label="Strengths with a name"></span>
<button id="go">Cloak</button>
<a class="button" id="zip" download="cloaked-photos.zip" aria-disabled="true">Save a zip</a>
<button id="stop">Finish</button>
</div>
<p id="means"></p>
<p id="status" role="status"></p>
<div class="photos" id="photos"></div>
</main>
<script>
const $ = id => document.getElementById(id);
const marks = /*MARKS*/;
const words = {
  low: "Hardly seen; nearly every recognizer still matches it.",
  mid: "Features look slightly shifted; protects better.",
  high: "Visible when compared; protects best."};
let told = "";
const post = (to, more) => fetch(to, {method: "POST", ...more});
// A strength is the name of a mode or a budget in CIEDE2000, as --budget takes it.
const budget = () => Number($("strength").value);
const mode = () => Object.keys(marks).find(name => marks[name] === budget()) || `${budget()}`;
const nearest = () => Object.keys(marks).reduce((best, name) =>
  Math.abs(marks[name] - budget()) < Math.abs(marks[best] - budget()) ? name : best);
const chosen = () => {
  const named = mode() in marks;
  $("mode").textContent = named ? mode() : "budget " + mode();
  $("strength").setAttribute("aria-valuetext", $("mode").textContent);
  for (const each of $("marks").children)
    each.setAttribute("aria-pressed", each.textContent === mode());
  $("means").textContent = named ? words[mode()] : "Near " + nearest() + ": " +
    words[nearest()][0].toLowerCase() + words[nearest()].slice(1);
  draw(); };
// In tenths by hand, while a start of --budget 2.15 stays what it is.
$("strength").oninput = () => {
  $("strength").value = Math.round(10 * budget()) / 10; chosen(); };
$("strength").onkeydown = event => {
  const way = {ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1}[event.key];
  if (!way) return;
  event.preventDefault();
  $("strength").value = Math.round(10 * budget() + way) / 10; chosen(); };
for (const name in marks) {
  const button = document.createElement("button"); button.type = "button";
  button.textContent = name;
  button.onclick = () => { $("strength").value = marks[name]; chosen(); };
  $("marks").append(button);
}
let state = {photos: [], busy: false};
let sending = 0;
async function send(files) {
  for (const file of files) {
    sending++;
    try {
      const answer = await post("photo", {body: file,
        headers: {"X-Name": encodeURIComponent(file.name).slice(0, 600)}});
      if (!answer.ok) told = file.name + ": " + await answer.text();
    } catch { told = file.name + ": could not be sent (64 MB are taken)"; }
    sending--;
  }
}
$("files").onchange = event => { send([...event.target.files]); event.target.value = ""; };
addEventListener("dragover", event => { event.preventDefault(); $("drop").classList.add("over"); });
addEventListener("dragleave", () => $("drop").classList.remove("over"));
addEventListener("drop", event => {
  event.preventDefault(); $("drop").classList.remove("over");
  send([...event.dataTransfer.files]); });
$("go").onclick = () => { told = ""; post("cloak/" + mode()); };
$("stop").onclick = () => post("stop");
const figures = new Map();
function figure(photo) {
  const box = document.createElement("figure"); box.dataset.number = photo.number;
  box.innerHTML = '<div class="view"></div><figcaption><b></b> <span></span>' +
    '<label hidden>before / after <input type="range" min="0" max="100" value="50"></label>' +
    '<button class="near" aria-pressed="false" hidden>face at full size</button>' +
    "</figcaption>";
  box.querySelector("b").textContent = photo.name;
  const slider = box.querySelector("input");
  slider.oninput = () =>
    box.querySelector(".view").style.setProperty("--cut", slider.value + "%");
  const near = box.querySelector(".near");
  near.onclick = () => {
    const on = near.getAttribute("aria-pressed") !== "true";
    near.setAttribute("aria-pressed", on);
    near.textContent = on ? "whole photo" : "face at full size";
    zoom(box); };
  $("photos").append(box);
  return {box, shown: ""};
}
// Both pictures grow about the first face; the slider's cut stays where it is on the screen.
function zoom(box) {
  const on = box.querySelector(".near").getAttribute("aria-pressed") === "true";
  const photo = state.photos.find(p => p.number == box.dataset.number);
  const face = photo.faces.find(f => f.on);
  for (const layer of box.querySelectorAll(".layer")) {
    const img = layer.firstChild;
    if (!on || !face) { img.style.transform = ""; continue; }
    const full = Math.max(1, img.naturalWidth / layer.clientWidth) * 1.001;
    const x = 50 * (face.box[0] + face.box[2]), y = 50 * (face.box[1] + face.box[3]);
    img.style.transformOrigin = x + "% " + y + "%";
    img.style.transform = `translate(${50 - x}%, ${50 - y}%) scale(${Math.max(full, 2)})`;
  }
}
function fill(entry, photo) {
  const {box} = entry, view = box.querySelector(".view"), done = photo.cloaked.includes(mode());
  const said = {waiting: "waiting", looking: "looking for faces ...", cloaking: "cloaking ...",
    failed: photo.note, ready: "", cloaked: ""}[photo.status];
  const on = photo.faces.filter(f => f.on).length;
  box.querySelector("figcaption span").textContent = said || (done ? "cloaked, " + mode() +
    (photo.alone.includes(mode()) ? "; no other photo of this person is here" : "") :
    !photo.faces.length ? "no face was found: stays as it is" :
    on + (on === 1 ? " face" : " faces") + " to cloak" +
    (on < photo.faces.length ? ", " + (photo.faces.length - on) + " stay bare" : "") +
    (photo.cloaked.length ? "; done at " + photo.cloaked.join(", ") : ""));
  box.querySelector("figcaption span").className = photo.status === "failed" ? "bad" : "";
  box.querySelector("label").hidden = box.querySelector(".near").hidden = !done;
  const wanted = JSON.stringify([photo.aspect, photo.faces, done && mode(), !said || done]);
  if (wanted === entry.shown || photo.status === "looking" || photo.status === "waiting" ||
      photo.status === "failed") return;
  entry.shown = wanted;
  const focus = view.contains(document.activeElement) && document.activeElement.dataset.face;
  view.style.aspectRatio = photo.aspect;
  view.replaceChildren();
  const add = (kind, alt) => {
    const layer = document.createElement("div"), img = document.createElement("img");
    img.src = photo.number + "/" + kind + ".jpg"; img.alt = alt + photo.name;
    layer.className = "layer"; layer.append(img); view.append(layer);
    img.onload = () => zoom(box);
    return layer; };
  add("before", "before: ");
  if (done) {
    add(mode(), "after: ").className = "layer after";
    const line = document.createElement("div"); line.className = "line"; view.append(line);
    return;
  }
  for (const face of photo.faces) {
    const button = document.createElement("button"), [x0, y0, x1, y1] = face.box;
    button.className = face.on ? "face" : "face bare"; button.dataset.face = face.number;
    Object.assign(button.style, {left: 100 * x0 + "%", top: 100 * y0 + "%",
      width: 100 * (x1 - x0) + "%", height: 100 * (y1 - y0) + "%"});
    button.innerHTML = "<span></span>"; button.firstChild.textContent = face.number;
    button.setAttribute("aria-pressed", face.on);
    button.setAttribute("aria-label", "face " + face.number + (face.on ? ", is cloaked" :
      ", stays bare: " + face.why));
    button.disabled = face.why === "too small";
    button.onclick = () => post("face/" + photo.number + "/" + face.number).then(look);
    view.append(button);
    if (focus == face.number) button.focus();
  }
}
function draw() {
  for (const photo of state.photos) {
    if (!figures.has(photo.number)) figures.set(photo.number, figure(photo));
    fill(figures.get(photo.number), photo);
  }
  const done = state.photos.filter(p => p.cloaked.includes(mode())).length;
  $("zip").setAttribute("aria-disabled", !done);
  if (done) $("zip").href = mode() + "/cloaked-photos.zip";
  else $("zip").removeAttribute("href");
  const cloaked = done + " of " + state.photos.length + " cloaked, " + $("mode").textContent;
  $("status").textContent = told || (sending ? "receiving photos ..." :
    state.busy ? "working; " + cloaked : state.photos.length ? cloaked : "");
}
async function look() {
  try { state = await (await fetch("state.json")).json(); draw(); }
  catch {
    clearInterval(timer);
    $("status").textContent = "The program has ended; start physadv cloak --serve again.";
  }
}
chosen();
const timer = setInterval(look, 700);
look();
</script>
</html>
"""
