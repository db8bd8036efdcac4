// What the theme leaves out for those who use no pointer: a name for the search, and tables that arrow keys can scroll.
document.addEventListener("DOMContentLoaded", () => {
  document.querySelectorAll(".md-search[role=dialog]").forEach(part => part.setAttribute("aria-label", "Search"));
  setTimeout(() => document.querySelectorAll(".md-typeset__scrollwrap, .md-typeset pre > code").forEach(part => {
    if (part.scrollWidth > part.clientWidth) part.tabIndex = 0;
  }));
});
