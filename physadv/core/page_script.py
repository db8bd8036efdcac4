"""The one script of reports: tables that sort, and charts whose values are reached by pointer and
keyboard. A page reads whole without it.

Reports and local servers allow this script by its digest and no other, so that nothing that a run
wrote into a page can run there.
"""

from __future__ import annotations

import base64
import hashlib
from functools import cache


@cache
def script_source() -> str:
    """Return what a policy names the script by.

    Example:
        >>> script_source().startswith("'sha256-")
        True
    """
    digest = hashlib.sha256(PAGE_SCRIPT.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


@cache
def page_policy() -> str:
    """Return the content security policy of a report: nothing is loaded, and no other script
    runs."""
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; "
        f"form-action 'none'; script-src {script_source()}"
    )


PAGE_SCRIPT = r"""
(() => {
  const NUMBER = "([-−+]?(?:\\d{1,3}(?:,\\d{3})+|\\d+)(?:\\.\\d+)?(?:e[-+]?\\d+)?)";
  const VALUE = new RegExp("^[\\s±~≈<>≤≥]*" + NUMBER + "(?:/(\\d+))?", "i");
  const value = text => {
    const found = VALUE.exec(text);
    return found ? found[1].replaceAll(",", "").replace("−", "-") / (found[2] || 1) : NaN;
  };
  const isBlank = text => ["", "–", "-"].includes(text);
  const textOf = (row, column) => row.cells[column].textContent.trim();

  // A row whose first cell is "beneath" belongs to the row above.
  function rowGroups(rows, width) {
    const groups = [];
    for (const row of rows) {
      if (row.cells[0]?.classList.contains("beneath") && groups.length) groups.at(-1).push(row);
      else if (row.cells.length === width) groups.push([row]);
      else return [];
    }
    return groups;
  }

  function sortable(table) {
    const [head, ...rows] = table.rows;
    if (!head || [...head.cells].some(cell => cell.tagName !== "TH" || cell.colSpan > 1)) return;
    const groups = rowGroups(rows, head.cells.length);
    if (groups.length < 3) return;
    const body = rows[0].parentNode;
    table.createTHead().append(head);

    const sort = column => {
      const th = head.cells[column], now = th.getAttribute("aria-sort");
      const next = {ascending: "descending", descending: ""}[now] ?? "ascending";
      for (const cell of head.cells) cell.removeAttribute("aria-sort");
      if (next) th.setAttribute("aria-sort", next);

      const texts = groups.map(group => textOf(group[0], column));
      const asNumbers = texts.every(text => isBlank(text) || !isNaN(value(text)));
      const order = groups.map((_, index) => index);
      const compare = (a, b) => isBlank(texts[a]) - isBlank(texts[b]) ||
        (next === "descending" ? -1 : 1) * (asNumbers ? value(texts[a]) - value(texts[b])
          : texts[a].localeCompare(texts[b], undefined, {numeric: true})) || a - b;
      if (next) order.sort(compare);
      body.append(...order.flatMap(index => groups[index]));
    };
    [...head.cells].forEach((th, column) => {
      th.scope = "col";
      if (!th.textContent.trim()) return;
      const button = document.createElement("button");
      button.type = "button"; button.className = "sort";
      button.append(...th.childNodes);
      button.onclick = () => sort(column);
      th.append(button);
    });
  }

  const hint = document.createElement("div");
  hint.id = "hint"; hint.setAttribute("role", "status");
  document.body.append(hint);

  function explained(svg) {
    const marks = [];
    for (const title of svg.querySelectorAll("title")) {
      const mark = title.parentNode;
      if (mark === svg || !title.textContent) continue;
      mark.dataset.hint = title.textContent; title.remove(); marks.push(mark);
    }
    if (!marks.length) return;
    let at = -1;
    const show = index => {
      marks[at]?.classList.remove("on");
      at = index;
      const mark = marks[at];
      hint.classList.toggle("on", Boolean(mark));
      if (!mark) { hint.textContent = ""; return; }
      mark.classList.add("on");
      hint.textContent = mark.dataset.hint;
      const box = mark.getBoundingClientRect(), own = hint.getBoundingClientRect();
      const left = box.left + box.width / 2 - own.width / 2;
      const most = document.documentElement.clientWidth - own.width - 4;
      const above = box.top - own.height - 8;
      hint.style.left = Math.max(4, Math.min(left, most)) + "px";
      hint.style.top = (above < 4 ? box.bottom + 8 : above) + "px";
    };
    svg.tabIndex = 0;
    svg.ariaLabel += ". Arrow keys read its values.";
    svg.onkeydown = event => {
      const last = marks.length - 1;
      const next = {ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at < 0 ? last : at - 1,
        ArrowUp: at < 0 ? last : at - 1, Home: 0, End: last, Escape: -1}[event.key];
      if (next === undefined) return;
      event.preventDefault();
      show(event.key === "Escape" ? -1 : Math.max(0, Math.min(next, last)));
    };
    svg.onpointermove = svg.onpointerdown = event => {
      const index = marks.indexOf(event.target.closest("[data-hint]"));
      if (index !== at) show(index);
    };
    svg.onpointerleave = svg.onblur = () => show(-1);
  }

  // What scrolls sideways is a stop of the tab key, so that arrow keys can scroll it.
  const scrolls = () => document.querySelectorAll(".wide, math").forEach(part => {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
    else part.removeAttribute("tabindex");
  });

  document.querySelectorAll("table:not(.facts)").forEach(sortable);
  scrolls(); addEventListener("resize", scrolls);
  document.querySelectorAll("svg[role=img]").forEach(explained);
})();
"""
