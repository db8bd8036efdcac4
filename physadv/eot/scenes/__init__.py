"""Scenes that a patch is placed in: drawn signs, photographs, backgrounds."""
