"""Bundles and sheets, true to the millimetre."""
