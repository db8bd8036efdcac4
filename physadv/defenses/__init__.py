"""Defenses and certificates: training, smoothing, bounds, defenses against patches, and those that
only mask."""
