"""Measure how well cloaked photos resist face recognizers."""
