"""Rows to HTML: pure functions, one design."""
