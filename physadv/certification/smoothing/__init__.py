"""Randomized smoothing (Cohen et al. 2019)."""
