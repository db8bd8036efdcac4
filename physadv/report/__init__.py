"""Reports: rows in, self-contained HTML, SVG charts and tables out; pure functions, one design."""
