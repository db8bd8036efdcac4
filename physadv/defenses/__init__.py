"""Defences and certificates: training, smoothing, bounds, defences against patches, and those that only mask."""
