"""Patches and stickers: configuration, optimization, bundle, verification, transfer and preview."""
