"""Defenses that stand in front of a model, and the registry that applies them by name."""
