"""Bundles and sheets, true to the millimeter."""
